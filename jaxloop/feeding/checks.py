"""Checks of data by their numbers: batches in place of epochs, wild labels, NaN."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop import losses
from jaxloop.data.repeat import length_of
from jaxloop.feeding.specification import Batch
from jaxloop.losses import without_options
from jaxloop.metrics import Metric
from jaxloop.output_losses import OutputLosses
from jaxloop.outputs import output_and_target

_OURS = (
    *(losses.softmax_cross_entropy, losses.sigmoid_cross_entropy),
    *(losses.mean_squared_error, losses.mean_absolute_error),
)
_AT_ONCE = 2**20  # numbers that are looked at together: what is computed from them stays in the processor's caches
_NEAR_ONE = 0.1  # the sum of probabilities of reduced precision may differ from 1 by so much


def check_batches(batches: Any, where: str, *, inputs_alone: bool = False) -> None:
    """Refuses samples where batches or epochs are expected: each row would be taken for a batch.

    Args:
      batches: what was given.
      where: `"training"`, `"validation"` or a set of it as `"validation['in_domain']"`, `"evaluate"` or `"predict"`.
      inputs_alone: whether a batch may be one array, so that only a tuple of arrays is taken for samples.

    Raises:
      TypeError: it is an array, or holds arrays in place of batches.
    """
    several = isinstance(batches, (tuple, Mapping) if inputs_alone else (tuple, list, Mapping))
    parts: Any = batches.values() if isinstance(batches, Mapping) else batches
    if not hasattr(batches, "shape") and not (several and any(hasattr(part, "shape") for part in parts)):
        return
    what = "an array" if hasattr(batches, "shape") else f"a {type(batches).__name__} of arrays"
    line = {
        "training": "training=(inputs, targets)",
        "validation": "validation=(inputs, targets)",
        "evaluate": "evaluate(loop, (inputs, targets))",
        "predict": "predict(loop, inputs), or predict(loop, jaxloop.in_batches((inputs, targets), 64))",
    }[where.partition("[")[0]]
    meant = "epochs of batches" if where == "training" else "batches"
    raise TypeError(f"{where}: expected {meant}, got {what}. Write {line}.")


def check_epoch(epoch: Any) -> None:
    """Refuses a batch, or what has no length, where an epoch is expected.

    Raises:
      TypeError: `training` holds batches, or its epochs have no length.
    """
    if isinstance(epoch, (tuple, list)) and len(epoch) in (2, 3) and all(hasattr(part, "shape") for part in epoch):
        raise TypeError(
            "training: expected epochs of batches, but its first element is a batch, a tuple of arrays. "
            "Write training=repeat(batches), where batches are a list: a generator is spent after one pass."
        )
    if length_of(epoch) is None:
        raise TypeError(
            f"training: an epoch must be a sized iterable of batches, got {type(epoch).__name__}. "
            "Write training=repeat(batches, batch_count=100)."
        )


def check_numbers(batch: Batch, loss_fn: Any, where: str) -> None:
    """Refuses numbers that would go wrong silently. What weighs nothing may be anything.

    Args:
      batch: (input, target, weight), on the host.
      loss_fn: for our own losses a target that is NaN is refused, since the loss would be NaN too; of several outputs
        that of its own.
      where: what the user calls the data, and which part of them this is: "training: batch 3's".

    Raises:
      ValueError: an input or a target that counts is NaN, or an integer does not fit int32.
    """
    weight = _on_host(batch[2])
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        part = ("input", "target", "weight")[path[0].idx]
        name = f"{where} {part}{jax.tree_util.keystr(path[1:])}"
        leaf = _on_host(leaf)
        if leaf is None:
            continue
        if (part == "input" or (part == "target" and _is_of_ours(loss_fn, path[1:]))) and jnp.issubdtype(
            leaf.dtype, jnp.inexact
        ):
            place = _first(leaf, _has_nan, _is_nan, weight)
            if place is not None:
                raise ValueError(f"{name} is NaN at {place}. Clean the data{_or_weigh(part)}.")
        if leaf.dtype.kind in "iu" and jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize < leaf.dtype.itemsize:
            limits = np.iinfo(np.int32)
            place = _beyond(leaf, limits.min, limits.max, weight if part == "target" else None)
            if place is not None:
                raise ValueError(
                    f"{name} holds {leaf[place]}, which does not fit int32, and JAX computes in int32. Renumber it, or "
                    "enable jax_enable_x64."
                )


def check_targets(batch: Batch, output: Any, loss_fn: Any, metrics: Sequence[Metric], where: str) -> None:
    """Refuses targets that the loss or a metric would take for other targets. What weighs nothing may be anything.

    Args:
      batch: as `check_numbers` takes it; any number of examples.
      output: shape and dtype of the model's output.
      loss_fn: only `losses.softmax_cross_entropy` is known to take integers as labels.
      metrics: a metric whose `one_class` is true takes the largest of several targets for the class.
      where: as `check_numbers` takes it.

    Raises:
      ValueError: a label is none of the output's classes, so that the cross entropy would take another class, or give
        NaN; or an example is of several classes at once, but a metric takes one.
    """
    weight = _on_host(batch[2])
    for fn, key in _losses_by_output(loss_fn):
        if fn is losses.softmax_cross_entropy:
            _check_labels(*_part(output, batch[1], key), weight, where if key is None else f"{where} {key!r}")
    for metric in metrics:
        if getattr(metric, "one_class", False):
            keys = (getattr(metric, name, None) for name in ("output", "target"))
            _check_one_class(metric.name, *_part(output, batch[1], *keys), weight, where)


def _losses_by_output(loss_fn: Any) -> list[tuple[Any, Any]]:
    """Each loss function, without its options, and the key of its output; None for the whole output."""
    if isinstance(loss_fn, OutputLosses):
        return [(without_options(part.fn), part.key) for part in loss_fn.parts]
    return [(without_options(loss_fn), None)]


def _is_of_ours(loss_fn: Any, path: tuple[Any, ...]) -> bool:
    """Whether one of our own losses is given the leaf of the target that has this path."""
    named = {getattr(path[0], name, None) for name in ("key", "name", "idx")} if path else set[Any]()
    return any(fn in _OURS and (key is None or not path or key in named) for fn, key in _losses_by_output(loss_fn))


def _part(output: Any, target: Any, key: Any, target_key: Any = None) -> tuple[tuple[int, ...], np.ndarray | None]:
    """The shape of one output, and its target on the host; no target if it is not one array."""
    try:
        output, target = output_and_target("target", output, target, key, target_key)
    except ValueError:  # a callback has put another output in its place
        return (), None
    return getattr(output, "shape", ()), _on_host(target)


def _check_labels(shape: tuple[int, ...], target: np.ndarray | None, weight: np.ndarray | None, where: str) -> None:
    if target is None or len(shape) < 2 or target.dtype.kind not in "iu" or target.ndim != len(shape) - 1:
        return
    place = _beyond(target, 0, shape[-1] - 1, weight)
    if place is not None:
        raise ValueError(
            f"{where} target is {target[place]} at {place}; with an output of {shape[-1]} classes labels go from "
            f"0 to {shape[-1] - 1}. Renumber the labels, or give what is to be left out weight 0."
        )


def _check_one_class(
    name: str, shape: tuple[int, ...], target: np.ndarray | None, weight: np.ndarray | None, where: str
) -> None:
    if target is None or len(shape) < 2 or target.ndim != len(shape) or not target.shape[-1] == shape[-1] > 1:
        return
    place = _first(target, lambda rows: True, _of_several, weight)
    if place is not None:
        raise ValueError(
            f"{where} target at {place} adds up to {np.sum(target[place], dtype=np.float64):g}: it is not of one "
            f"class, but {name!r} takes the largest for the class. Where each label is yes or no give "
            "jaxloop.metrics.Accuracy(multilabel=True), and no metric of one class; else probabilities, or labels."
        )


def _on_host(leaf: Any) -> np.ndarray | None:
    """An array of numbers in NumPy; None for anything else."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    array = np.asarray(leaf) if isinstance(leaf, (np.ndarray, jax.Array)) else None
    return array if array is not None and array.ndim and array.size else None


def _or_weigh(part: str) -> str:
    return ", or give what is to be left out weight 0" if part == "target" else ""


def _first(
    leaf: np.ndarray,
    suspicious: Callable[[np.ndarray], Any],
    wild: Callable[[np.ndarray], np.ndarray],
    weight: np.ndarray | None,
) -> tuple[int, ...] | None:
    """The index of the first place that is wild and weighs something; None if there is none.

    Args:
      leaf: [examples, ...].
      suspicious: says fast whether a part of `leaf` may hold such a place.
      wild: gives a bool for each place of a part, or for each index along fewer of its axes.
      weight: [examples, ...] or None.
    """
    for start, rows in _parts(leaf):
        if not suspicious(rows):
            continue
        found = wild(rows)
        if weight is not None:
            found = found & _counts(weight[start : start + len(rows)], found.shape)
        if found.any():
            place = np.unravel_index(int(np.argmax(found)), found.shape)
            return (start + int(place[0]), *map(int, place[1:]))
    return None


def _beyond(leaf: np.ndarray, least: int, most: int, weight: np.ndarray | None) -> tuple[int, ...] | None:
    """The index of the first integer that is below `least` or above `most` and weighs something."""
    return _first(
        leaf,
        lambda rows: rows.min() < least or rows.max() > most,
        lambda rows: (rows < least) | (rows > most),
        weight,
    )


def _parts(leaf: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of an array, some at once, with the index of the first of them."""
    at_once = max(1, _AT_ONCE * len(leaf) // leaf.size)
    return ((start, leaf[start : start + at_once]) for start in range(0, len(leaf), at_once))


def _counts(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which places of an array of `shape` weigh something, to be broadcast; as in `masks`."""
    if shape[: weight.ndim] == weight.shape:
        counts = weight != 0
    elif shape[:1] == weight.shape[:1]:
        counts = np.any(weight != 0, axis=tuple(range(1, weight.ndim)))
    else:
        return np.ones((1,) * len(shape), bool)
    return counts.reshape(*counts.shape, *(1,) * (len(shape) - counts.ndim))


def _has_nan(rows: np.ndarray) -> Any:
    """Whether there is a NaN. The minimum is NaN if any number is, and it is found faster."""
    if rows.dtype.name not in ("float32", "float64"):
        return _is_nan(rows).any()
    with np.errstate(invalid="ignore"):
        return np.isnan(rows.min())


def _is_nan(rows: np.ndarray) -> np.ndarray:
    infinity = {"float16": 0x7C00, "bfloat16": 0x7F80}.get(rows.dtype.name)
    if infinity is None:
        return np.isnan(rows)
    return (rows.view(np.uint16) & np.uint16(0x7FFF)) > infinity  # many times faster than `np.isnan`


def _of_several(rows: np.ndarray) -> np.ndarray:
    """Which rows along the last axis are answers from 0 to 1 that do not add up to 1."""
    rows = rows.astype(np.float32)
    sums = rows.sum(axis=-1)
    return (np.abs(sums - 1) > _NEAR_ONE) & (rows >= 0).all(axis=-1) & (rows <= 1).all(axis=-1)
