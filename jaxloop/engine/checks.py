"""What can be told of data before anything is compiled: batches in place of epochs, wild labels, NaN."""

from typing import Any

import jax
import numpy as np

from jaxloop.losses import softmax_cross_entropy


def check_epoch(epoch: Any) -> None:
    """Refuses a batch, or what has no length, where an epoch is expected.

    Raises:
      TypeError: `training` holds batches, or its epochs have no length.
    """
    if isinstance(epoch, (tuple, list)) and len(epoch) in (2, 3) and all(hasattr(part, "shape") for part in epoch):
        raise TypeError(
            "training: expected epochs of batches, but its first element is a batch, a tuple of arrays. "
            "Write training=repeat(batches)."
        )
    if not hasattr(epoch, "__len__"):
        raise TypeError(
            f"training: an epoch must be a sized iterable of batches, got {type(epoch).__name__}. "
            "Write training=repeat(batches, batch_count=100)."
        )


def check_first_batch(batch: Any, where: str) -> None:
    """Refuses numbers that would go wrong in silence.

    Args:
      batch: (input, target, weight), on the host.
      where: what the user calls the data.

    Raises:
      ValueError: the input of an example that counts holds a NaN, or an integer does not fit int32.
    """
    limits = np.iinfo(np.int32)
    weight = batch[2]

    def counts(example: int) -> bool:
        return weight is None or bool(np.any(weight[example]))

    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = ("input", "target", "weight")[path[0].idx] + jax.tree_util.keystr(path[1:])
        if not isinstance(leaf, np.ndarray) or not leaf.size:
            continue
        if name.startswith("input") and leaf.dtype.kind == "f":
            wild = np.argwhere(np.isnan(leaf))
            wild = wild[[counts(index[0]) for index in wild]] if len(wild) else wild
            if not len(wild):
                continue
            place = tuple(int(index) for index in wild[0])
            raise ValueError(f"{where}: the first batch's {name} is NaN at {place}. Clean the data.")
        if leaf.dtype.kind in "iu" and jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize < leaf.dtype.itemsize:
            worst = leaf.max() if leaf.max() > limits.max else leaf.min()
            if not limits.min <= worst <= limits.max:
                raise ValueError(
                    f"{where}: the first batch's {name} holds {worst}, which does not fit int32, in which JAX "
                    "computes. Renumber it, or enable jax_enable_x64."
                )


def check_labels(target: Any, output: Any, loss_fn: Any, where: str) -> None:
    """Refuses labels outside of the model's classes: the cross entropy would take another class, or NaN.

    Args:
      target: of the first batch, on the host.
      output: shape and dtype of the model's output for it.
      loss_fn: only `losses.softmax_cross_entropy` is known to take labels so.
      where: what the user calls the data.

    Raises:
      ValueError: a label is negative or too large; the message has its value and its index.
    """
    if loss_fn is not softmax_cross_entropy or not isinstance(target, np.ndarray) or target.dtype.kind not in "iu":
        return
    shape = getattr(output, "shape", ())
    if not shape or target.shape != shape[:-1]:
        return
    classes = shape[-1]
    wild = np.argwhere((target < 0) | (target >= classes))
    if len(wild):
        place = tuple(int(index) for index in wild[0])
        raise ValueError(
            f"{where}: the first batch's target is {target[place]} at {place}; with an output of {classes} classes "
            f"labels go from 0 to {classes - 1}. Renumber the labels, or give what is to be left out weight 0."
        )
