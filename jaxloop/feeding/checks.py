"""Checks of data by their numbers: batches in place of epochs, wild labels, NaN."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # pyright: ignore[reportMissingTypeStubs] it has none

from jaxloop import losses
from jaxloop.brief import brief
from jaxloop.data.repeat import length_of
from jaxloop.feeding.searching import beyond, first, has_nan, is_nan, on_host
from jaxloop.feeding.specification import Batch
from jaxloop.losses import without_options
from jaxloop.metrics import Metric
from jaxloop.output_losses import OutputLosses
from jaxloop.outputs import output_and_target
from jaxloop.telling import advise

_OURS = (
    *(losses.softmax_cross_entropy, losses.sigmoid_cross_entropy),
    *(losses.mean_squared_error, losses.mean_absolute_error),
)
_OF_LABELS = (losses.softmax_cross_entropy, optax.softmax_cross_entropy_with_integer_labels)
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
    lists = isinstance(batches, tuple) and len(batches) in (2, 3) and all(map(_is_list_of_numbers, batches))
    lists = lists or (inputs_alone and _is_list_of_numbers(batches))
    if where == "training" and isinstance(batches, tuple) and batches and all(map(_is_list_of_arrays, batches)):
        raise TypeError("training: expected arrays, got lists of arrays. Make each of them one, by numpy.stack.")
    if not hasattr(batches, "shape") and not (several and any(hasattr(part, "shape") for part in parts)) and not lists:
        return
    if lists:
        got = "arrays, got lists of numbers. Make each of them one"
        got = got if several else "an array, got a list of numbers. Make it one"
        raise TypeError(f"{where}: expected {got}, by numpy.asarray.")
    what = "an array" if hasattr(batches, "shape") else f"a {type(batches).__name__} of arrays"
    line = {
        "training": "training=(inputs, targets)",
        "validation": "validation=(inputs, targets)",
        "evaluate": "evaluate(loop, (inputs, targets))",
        "predict": "predict(loop, inputs), or predict(loop, jaxloop.in_batches((inputs, targets), 64))",
    }[where.partition("[")[0]]
    meant = "epochs of batches" if where == "training" else "batches"
    raise TypeError(f"{where}: expected {meant}, got {what}. Write {line}.")


def _is_list_of_numbers(given: Any) -> bool:
    """Whether it is a list, or a list of lists, down to a Python number."""
    while isinstance(given, list) and given:
        given = given[0]
    return isinstance(given, (bool, int, float))


def _is_list_of_arrays(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and hasattr(given[0], "shape")


def check_epoch(epoch: Any) -> None:
    """Refuses a batch, an example, or what has no length, where an epoch is expected.

    Raises:
      TypeError: `training` holds batches or examples, or its epochs have no length.
    """
    if _is_example(epoch):
        named = f"an example, {brief(epoch)}"
        keys = ""
        if isinstance(epoch, Mapping):
            named = f"an example or a batch, a mapping of {', '.join(map(str, epoch))}"
            keys = ", and to TrainingLoop batch_keys=('image', 'label')"
        raise TypeError(
            f"training: expected epochs of batches, but its first element is {named}. Write "
            f"training=jaxloop.TrainingEpochs(examples, batch_size=32){keys}; of batches training=repeat(batches)."
        )
    if isinstance(epoch, (tuple, list)) and len(epoch) in (2, 3) and all(hasattr(part, "shape") for part in epoch):
        raise TypeError(
            "training: expected epochs of batches, but its first element is a batch, a tuple of arrays. "
            "Write training=repeat(batches), where batches are a list: a generator is spent after one pass. For the "
            "samples of a data set, or for inputs and targets that are several arrays each, write "
            "training=TrainingEpochs(samples, batch_size)."
        )
    if length_of(epoch) is None:
        raise TypeError(
            f"training: an epoch must be a sized iterable of batches, got {type(epoch).__name__}. "
            "Write training=repeat(batches, batch_count=100)."
        )


def _is_example(epoch: Any) -> bool:
    """Whether it is what a data set has for one example: an array, a mapping, or parts of which one is a number."""
    if isinstance(epoch, (Mapping, np.ndarray, jax.Array)):
        return True
    if not isinstance(epoch, (tuple, list)) or len(epoch) not in (2, 3):
        return False
    return any(isinstance(part, (int, float, np.generic)) or getattr(part, "shape", None) == () for part in epoch)


def check_numbers(batch: Batch, loss_fn: Any, where: str) -> None:
    """Refuses numbers that would go wrong silently. What weighs nothing may be anything.

    Args:
      batch: (input, target, weight), on the host.
      loss_fn: for our own losses a target that is NaN is refused, since the loss would be NaN too; of several outputs
        that of its own.
      where: what the user calls the data, and which part of them this is: "training: batch 3's".

    Raises:
      ValueError: a weight, or an input or a target that counts, is NaN, or an integer does not fit int32.
    """
    weight = on_host(batch[2])
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        part = ("input", "target", "weight")[path[0].idx]
        name = f"{where} {part}{jax.tree_util.keystr(path[1:])}"
        leaf = on_host(leaf)
        if leaf is None:
            continue
        read = part != "target" or _is_of_ours(loss_fn, path[1:])
        if read and jnp.issubdtype(leaf.dtype, jnp.inexact):
            place = first(leaf, has_nan, is_nan, weight)
            if place is not None:
                raise ValueError(f"{name} is NaN at {place}. Clean the data{_or_weigh(part)}.")
        if leaf.dtype.kind in "iu" and jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize < leaf.dtype.itemsize:
            limits = np.iinfo(np.int32)
            place = beyond(leaf, limits.min, limits.max, weight if part == "target" else None)
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
      loss_fn: of our own cross entropies it is known what they take, and of optax's that takes integer labels.
      metrics: a metric whose `one_class` is true takes the largest of several targets for the class.
      where: as `check_numbers` takes it.

    Raises:
      ValueError: a label is none of the output's classes, so that the cross entropy would take another class, or give
        NaN; or a target is no probability; or an example is of several classes at once, but a metric takes one.
    """
    weight = on_host(batch[2])
    by_output = [(fn, key, *_part(output, batch[1], key)) for fn, key in _losses_by_output(loss_fn)]
    for fn, key, shape, target in by_output:
        if fn in _OF_LABELS:
            _check_labels(shape, target, weight, where if key is None else f"{where} {key!r}")
    for metric in metrics:
        if getattr(metric, "one_class", False):
            keys = (getattr(metric, name, None) for name in ("output", "target"))
            shape, target = _part(output, batch[1], *keys)
            _check_one_class(metric.name, shape, target, weight, where)
            if _is_one_logit(shape, target):
                _check_answers(repr(metric.name), target, weight, where)
    for fn, key, shape, target in by_output:
        named = where if key is None else f"{where} {key!r}"
        if fn is losses.softmax_cross_entropy:
            _check_probabilities(shape, target, weight, named)
        if fn is losses.sigmoid_cross_entropy:
            _check_answers("sigmoid_cross_entropy", target, weight, named)


def _is_one_logit(shape: tuple[int, ...], target: np.ndarray | None) -> bool:
    """Whether each example, or token, has one logit and one target; whatever the numbers of examples are."""
    if target is None or target.ndim == 0 or (len(shape) != 1 and shape[-1:] != (1,)):
        return False
    return target.shape[1:] in (shape[1:], shape[1:-1])


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
    return getattr(output, "shape", ()), on_host(target)


def _check_labels(shape: tuple[int, ...], target: np.ndarray | None, weight: np.ndarray | None, where: str) -> None:
    if target is None or len(shape) < 2 or target.dtype.kind not in "iu" or target.ndim != len(shape) - 1:
        return
    place = beyond(target, 0, shape[-1] - 1, weight)
    if place is not None:
        fix = (
            "They begin at 1, so subtract 1." if target.min() == 1 and target[place] == shape[-1] else "Renumber them."
        )
        raise ValueError(
            f"{where} target is {target[place]} at {place}; with an output of {shape[-1]} classes labels go from "
            f"0 to {shape[-1] - 1}. {fix} Or give what is to be left out weight 0, or the model more outputs."
        )


def _check_probabilities(
    shape: tuple[int, ...], target: np.ndarray | None, weight: np.ndarray | None, where: str
) -> None:
    """Refuses one class, whose loss is always 0, and probabilities below 0; advises where they do not add up to 1."""
    if shape[-1:] == (1,):
        raise ValueError(
            f"{where} output has one class, {list(shape)}, for which softmax_cross_entropy is always 0. For a question "
            "of yes or no take jaxloop.losses.sigmoid_cross_entropy, for numbers mean_squared_error; else give the "
            "model one output for each class."
        )
    if target is None or len(shape) < 2 or target.ndim != len(shape) or target.shape[-1] != shape[-1]:
        return
    place = first(target, lambda rows: rows.min() < 0, lambda rows: rows < 0, weight)
    if place is not None:
        raise ValueError(
            f"{where} target is {target[place]} at {place}, but softmax_cross_entropy takes probabilities, or integer "
            "labels. For numbers take jaxloop.losses.mean_squared_error."
        )
    place = first(target, lambda rows: True, _off_one, weight)
    if place is not None:
        advise(
            f"{where} target at {place} adds up to {np.sum(target[place], dtype=np.float64):g}, but to "
            "softmax_cross_entropy the classes exclude each other, and their probabilities add up to 1. Where several "
            "can be true take jaxloop.losses.sigmoid_cross_entropy."
        )


def _off_one(rows: np.ndarray) -> np.ndarray:
    """Which rows along the last axis do not add up to 1."""
    return np.abs(rows.sum(axis=-1, dtype=np.float32) - 1) > _NEAR_ONE


def _check_answers(name: str, target: np.ndarray | None, weight: np.ndarray | None, where: str) -> None:
    """Refuses what is no answer from 0 (no) to 1 (yes)."""
    if target is None or target.dtype == bool:
        return

    def suspicious(rows: np.ndarray) -> bool:
        return not (rows.min() >= 0 and rows.max() <= 1)

    place = first(target, suspicious, lambda rows: (rows < 0) | (rows > 1), weight)
    if place is not None:
        fix = "Write (target + 1) / 2." if target[place] == -1 else "Scale them, or take another."
        raise ValueError(
            f"{where} target is {target[place]} at {place}, but {name} takes answers from 0 (no) to 1 (yes). {fix}"
        )


def _check_one_class(
    name: str, shape: tuple[int, ...], target: np.ndarray | None, weight: np.ndarray | None, where: str
) -> None:
    if target is None or len(shape) < 2 or target.ndim != len(shape) or not target.shape[-1] == shape[-1] > 1:
        return
    place = first(target, lambda rows: True, _of_several, weight)
    if place is not None:
        raise ValueError(
            f"{where} target at {place} adds up to {np.sum(target[place], dtype=np.float64):g}: it is not of one "
            f"class, but {name!r} takes the largest for the class. Where each label is yes or no give "
            "jaxloop.metrics.Accuracy(multilabel=True), and no metric of one class; else probabilities, or labels."
        )


def _or_weigh(part: str) -> str:
    other = {
        "input": ", or replace it before a step sees it, as by `.map`, with a mask if the model should know",
        "target": ", or give what is to be left out weight 0",
    }
    return other.get(part, "")


def _of_several(rows: np.ndarray) -> np.ndarray:
    """Which rows along the last axis are answers from 0 to 1 that do not add up to 1."""
    rows = rows.astype(np.float32)
    sums = rows.sum(axis=-1)
    return (np.abs(sums - 1) > _NEAR_ONE) & (rows >= 0).all(axis=-1) & (rows <= 1).all(axis=-1)
