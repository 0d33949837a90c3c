"""Sums by true and predicted class: the confusion matrix, and the correlation that it gives."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.measured import unmeasured
from jaxloop.metrics.labels import (
    check_arrays,
    check_classes,
    class_count,
    known,
    labels,
    logit_count,
    single_logit,
    yes_or_no,
)
from jaxloop.metrics.means import two_sum
from jaxloop.outputs import Key, name_by_output, output_and_target

_MOST_CLASSES = 8192  # whose matrix, with its rounding errors, takes half a gigabyte
_BLOCK = 128  # rows that one product of matrices adds up, at least


class _SumsByClass:
    """What keeps the weights by true and predicted class. A dataclass has the fields, each in its own order."""

    classes: int | None
    name: str
    output: Key | None
    target: Key | None
    one_class: ClassVar[bool] = True

    def bind(self, output: Any, target: Any) -> Self:
        """The metric with the number of classes that the shapes of output and target show."""
        if self.classes is not None:
            return self
        return dataclasses.replace(cast(Any, self), classes=_found(self, output, target))

    def init(self) -> dict[str, Any]:
        """float32[classes, classes + 1], true class by prediction: the weights so far, and their rounding errors."""
        shape = (self.classes or 2, (self.classes or 2) + 1)
        return {name: np.zeros(shape, np.float32) for name in ("weight", "weight_error")}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        """The sums with those of one batch; the last column is for examples with a NaN."""
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        predicted, label, is_known = _predicted_and_label(self, output, target)
        classes = len(state["weight"])
        predicted = jnp.where(is_known, predicted, classes)
        label = jnp.where(jnp.isnan(label), 0, label) if jnp.issubdtype(label.dtype, jnp.floating) else label
        added = _added(classes, label, predicted, spread_weight(weight, label.shape))
        total, error = two_sum(state["weight"], added)
        return {"weight": total, "weight_error": state["weight_error"] + error}


@dataclass(frozen=True)
class ConfusionMatrix(_SumsByClass):
    """The weight of the examples (or tokens) of each true class that were given each prediction: `[true, predicted]`.

    It is no number, so it is in no row, log or history. `evaluate` returns it, as float64[classes, classes] of NumPy.
    It is measured in validation and in evaluations; there a callback finds its sums in `loop.metrics[name]`. It is that
    of scikit-learn's `confusion_matrix`, exact for counts up to 2**48. Examples whose target is none of the classes are
    left out. An example with a NaN in its logits or its target has no prediction, so the row of its class is NaN.

    Args:
      classes: the number of logits, or 2. With None a `TrainingLoop` finds it out from the first batch. By itself, None
        means one logit, for the classes 0 and 1. Shapes are as in `Accuracy`.
      normalize: `"true"` for shares of each true class, `"predicted"` of each predicted class, `"all"` of all examples.
        The shares of a class without any are 0.
      name: the name of the result.
      output, target: as in `Accuracy`.

    Example:
      >>> metric = ConfusionMatrix(classes=2)
      >>> output, target = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      array([[1., 1.],
             [0., 1.]])
    """

    classes: int | None = None
    normalize: Literal["true", "predicted", "all"] | None = None
    name: str = ""
    output: Key | None = None
    target: Key | None = None
    scalar: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_classes("ConfusionMatrix", self.classes)
        if self.normalize not in (None, "true", "predicted", "all"):
            raise ValueError(
                f"ConfusionMatrix: `normalize` must be 'true', 'predicted', 'all' or None, got {self.normalize!r}."
            )
        object.__setattr__(self, "name", self.name or name_by_output("confusion_matrix", self.output))

    def compute(self, state: dict[str, Any]) -> np.ndarray:
        """The matrix in NumPy. Waits for the device."""
        counts = np.asarray(state["weight"], np.float64) + np.asarray(state["weight_error"], np.float64)
        matrix = np.where(counts[:, -1:] > 0, np.nan, counts[:, :-1])
        if self.normalize is None:
            return matrix
        axis = {"true": 1, "predicted": 0, "all": None}[self.normalize]
        total = matrix.sum(axis=axis, keepdims=True)
        return np.divide(matrix, total, out=np.zeros_like(matrix), where=total != 0)


@dataclass(frozen=True)
class MatthewsCorrelationCoefficient(_SumsByClass):
    """The correlation of predicted and true classes: 1 if all agree, 0 for chance, exact under weights.

    Let s be the weight of all examples, c of those with a right prediction, p_k of those with the prediction k, and t_k
    of those with the true class k:

        (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    This is the R_K of Gorodkin (Computational Biology and Chemistry 28, 2004), which scikit-learn's
    `matthews_corrcoef` computes. For two classes it is Matthews's (TP TN - FP FN) / sqrt(...). It is 0 if the
    denominator is 0, and NaN if nothing was measured. Examples whose target is none of the classes are left out. An
    example with a NaN in its logits or its target is wrong: its prediction is one more class, which no example has.

    Args:
      classes: the number of logits. With None a `TrainingLoop` finds it out from the first batch. By itself, None means
        one logit, for the classes 0 and 1. Shapes are as in `Accuracy`.
      name: the name of the statistic.
      output, target: as in `Accuracy`.

    Example:
      >>> metric = MatthewsCorrelationCoefficient()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 0, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0., dtype=float32)
    """

    classes: int | None = None
    name: str = ""
    output: Key | None = None
    target: Key | None = None

    def __post_init__(self) -> None:
        check_classes("MatthewsCorrelationCoefficient", self.classes)
        name = self.name or name_by_output("matthews_correlation_coefficient", self.output)
        object.__setattr__(self, "name", name)

    def compute(self, state: dict[str, Any]) -> jax.Array:
        # Each class is compared with the rest, in sums of positive terms. So nothing cancels before the difference in
        # the numerator, whose terms are at most sqrt(2) times the denominator. Float32 is enough, however rare a class
        # is.
        matrix = state["weight"] + state["weight_error"]
        total = jnp.sum(matrix)
        shares = matrix / jnp.where(total == 0, 1, total)
        matrix = jnp.pad(shares, ((0, 1), (0, 0)))  # no example has the class that stands for NaN
        rest_of_row = _sum_of_others(matrix, axis=1)
        right, missed = jnp.diag(matrix), jnp.diag(rest_of_row)
        mistaken = jnp.diag(_sum_of_others(matrix, axis=0))
        neither = jnp.diag(_sum_of_others(rest_of_row, axis=0))
        covariance = jnp.sum(right * neither - mistaken * missed)
        spread_true = jnp.sum((right + missed) * (mistaken + neither))
        spread_predicted = jnp.sum((right + mistaken) * (missed + neither))
        scale = jnp.sqrt(spread_true) * jnp.sqrt(spread_predicted)
        correlation = jnp.where(scale == 0, 0, covariance / jnp.where(scale == 0, 1, scale))
        return jnp.where(total == 0, unmeasured(jnp.float32), correlation)


def _found(metric: _SumsByClass, output: Any, target: Any) -> int | None:
    """The number of classes of an output; None for one logit.

    Raises:
      ValueError: there are so many that it is not likely that a matrix of them is meant.
    """
    classes = class_count(metric.name, *output_and_target(metric.name, output, target, metric.output, metric.target))
    if classes is not None and classes > _MOST_CLASSES:
        raise ValueError(
            f"{metric.name}: it keeps a matrix of all classes, and the output has {classes}, so that this would take "
            f"{8 * classes * (classes + 1) / 1e9:.1f} GB. Leave the metric out, or give "
            f"{type(metric).__name__}(classes={classes}) if you mean it."
        )
    return classes


def _predicted_and_label(metric: _SumsByClass, output: Any, target: Any) -> tuple[Any, Any, Any]:
    """Predicted class, true class, and whether logits and target are free of NaN.

    Raises:
      TypeError, ValueError: output or target are not those of the metric's number of classes.
    """
    check_arrays(metric.name, output, target)
    logits = single_logit(output, target)
    if metric.classes is None and logits is not None:
        return *yes_or_no(*logits), known(output, target, logits)
    count = logit_count(output)
    if metric.classes is None and count > 1:
        raise ValueError(
            f"{metric.name}: it expects one logit, of shape (batch,) or (batch, 1), got an output of shape "
            f"{output.shape} for targets of shape {target.shape}. For {count} logits give "
            f"{type(metric).__name__}(classes={count})."
        )
    if metric.classes is not None and (logits is not None or metric.classes != count):
        raise ValueError(
            f"{metric.name}: it expects {metric.classes} logits, got an output of shape {output.shape} for targets of "
            f"shape {target.shape}. Make `classes` the size of the last axis, or leave it out for one logit."
        )
    return *labels(metric.name, output, target), known(output, target, None)


def _added(classes: int, label: jax.Array, predicted: jax.Array, weight: jax.Array) -> jax.Array:
    """The weight of one batch by true class and prediction, float32[classes, classes + 1].

    A product of small matrices adds one row after the other: thousands of weights lose digits, and a count ends at
    2**24. So the rows are divided into blocks, whose sums take no more memory than the rows, and these are added.
    A block has every n-th row, and n is a power of two, so that rows stay on their devices.
    """
    blocks = 1 << (label.size // max(_BLOCK, classes)).bit_length()

    def in_blocks(values: jax.Array) -> jax.Array:
        return jnp.pad(values.reshape(-1), (0, -values.size % blocks)).reshape(-1, blocks)

    one_hot = functools.partial(jax.nn.one_hot, dtype=jnp.float32)
    true = one_hot(in_blocks(label), classes) * in_blocks(weight)[..., None]
    guess = one_hot(in_blocks(predicted), classes + 1)
    return jnp.sum(jnp.einsum("rbt,rbp->btp", true, guess, precision="highest"), axis=0)


def _sum_of_others(matrix: jax.Array, axis: int) -> jax.Array:
    """For each element the sum of all other elements along `axis`.

    It only adds. To subtract the element from the whole sum would cancel digits.
    """
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(matrix, 0, 1, axis=axis))

    def before(matrix: jax.Array) -> jax.Array:
        sums = jax.lax.slice_in_dim(jnp.cumsum(matrix, axis=axis), 0, -1, axis=axis)
        return jnp.concatenate([nothing, sums], axis=axis)

    return before(matrix) + jnp.flip(before(jnp.flip(matrix, axis)), axis)
