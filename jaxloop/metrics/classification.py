"""Metrics of classification: from logits, and the classes or probabilities they should have given."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.measured import UNMEASURED
from jaxloop.metrics.means import add_to_mean, empty_mean, mean_of, two_sum


@dataclass(frozen=True)
class Accuracy:
    """The share of examples (or tokens) whose predicted class is the target's: `sum w_i [y_i = t_i] / sum w_i`.

    The prediction is the class of the largest logit, the first of them in a tie; from one logit it is class 1 where
    the logit is above 0, that is, where its sigmoid is above 1/2.

    | `output` | `target` |
    | --- | --- |
    | float[..., classes] | int[...], or probabilities float[..., classes] |
    | float[batch] or float[..., 1]: one logit | 0 or 1, int or float, of the output's shape, or without the axis of 1 |

    Example:
      >>> metric = Accuracy()
      >>> output, target = jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    name: str = "accuracy"

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        _check_arrays(self.name, output, target)
        single = _single_logit(output, target)
        predicted, label = _labels(self.name, output, target) if single is None else _yes_or_no(*single)
        correct = (predicted == label).astype(jnp.float32)
        return add_to_mean(state, correct, spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class TopKAccuracy:
    """The share of examples (or tokens) with fewer than `k` classes above the target's logit.

    Classes that tie with the target are not above it. A logit that is NaN is above all others, and never right.
    `output` is float[..., classes]; `target` int[...] or, as probabilities, float[..., classes].

    Args:
      k: how many guesses the model has, at least 1 and at most the number of classes.
      name: `"top{k}_accuracy"` unless given; `metrics=["top3_accuracy"]` means `TopKAccuracy(3)`.

    Example:
      >>> metric = TopKAccuracy(2)
      >>> output, target = jnp.array([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]]), jnp.array([2, 0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    k: int = 5
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, (int, np.integer)) or self.k < 1:
            raise ValueError(f"TopKAccuracy: `k` must be a whole number of at least 1, got {self.k!r}.")
        if not self.name:
            object.__setattr__(self, "name", f"top{self.k}_accuracy")

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        _check_arrays(self.name, output, target)
        count = _logit_count(output)
        if count < max(self.k, 2):
            raise ValueError(
                f"{self.name}: the output must have at least {max(self.k, 2)} classes, got {count} in shape "
                f"{output.shape}. Choose a smaller `k`, or Accuracy() for one logit, or check the model's last layer."
            )
        label = _labels(self.name, output, target)[1]
        classes = jnp.arange(count)
        at_target = jnp.sum(jnp.where(classes == label[..., None], output, 0), axis=-1, keepdims=True)
        above = jnp.sum(~(output <= at_target), axis=-1)
        correct = (above < self.k) & (label >= 0) & (label < count)
        return add_to_mean(state, correct.astype(jnp.float32), spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class MatthewsCorrelationCoefficient:
    """The correlation of predicted and true classes: 1 where all agree, 0 for chance, exact under weights.

    With s the weight of all examples, c of those predicted right, p_k of those predicted as class k and t_k of those
    that are of class k:

        (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    the R_K of Gorodkin (Computational Biology and Chemistry 28, 2004), which scikit-learn's `matthews_corrcoef`
    computes, and for two classes Matthews's (TP TN - FP FN) / sqrt(...). It is 0 where the denominator is 0, and NaN
    where nothing was measured. Examples whose target is none of the classes are left out.

    Args:
      classes: how many logits there are; `None` means one logit, for the classes 0 and 1. Shapes are those of
        `Accuracy`.
      name: of the statistic. The name given in place of the object means one logit.

    Example:
      >>> metric = MatthewsCorrelationCoefficient()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 0, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0., dtype=float32)
    """

    classes: int | None = None
    name: str = "matthews_correlation_coefficient"

    def __post_init__(self) -> None:
        whole = isinstance(self.classes, (int, np.integer)) and not isinstance(self.classes, bool)
        if self.classes is not None and not (whole and self.classes >= 2):
            raise ValueError(
                f"MatthewsCorrelationCoefficient: `classes` must be at least 2, or None for one logit, "
                f"got {self.classes!r}."
            )

    def init(self) -> dict[str, Any]:
        """float32[classes, classes], true by predicted: the weights so far, and their rounding errors."""
        shape = (self.classes or 2,) * 2
        return {name: np.zeros(shape, np.float32) for name in ("weight", "weight_error")}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        _check_arrays(self.name, output, target)
        predicted, label = self._predicted_and_label(output, target)
        one_hot = functools.partial(jax.nn.one_hot, num_classes=len(state["weight"]), dtype=jnp.float32)
        true = one_hot(label.reshape(-1)) * spread_weight(weight, label.shape).reshape(-1, 1)
        added = jnp.matmul(true.T, one_hot(predicted.reshape(-1)), precision="highest")
        total, error = two_sum(state["weight"], added)
        return {"weight": total, "weight_error": state["weight_error"] + error}

    def compute(self, state: dict[str, Any]) -> jax.Array:
        # Class against the rest, sums of positive terms only: nothing cancels before the numerator's difference,
        # which is at most sqrt(2) times the denominator. So float32 is enough however rare a class is.
        matrix = state["weight"] + state["weight_error"]
        total = jnp.sum(matrix)
        matrix = matrix / total
        rest_of_row = _sum_of_others(matrix, axis=1)
        right, missed = jnp.diag(matrix), jnp.diag(rest_of_row)
        mistaken = jnp.diag(_sum_of_others(matrix, axis=0))
        neither = jnp.diag(_sum_of_others(rest_of_row, axis=0))
        covariance = jnp.sum(right * neither - mistaken * missed)
        spread_true = jnp.sum((right + missed) * (mistaken + neither))
        spread_predicted = jnp.sum((right + mistaken) * (missed + neither))
        scale = jnp.sqrt(spread_true) * jnp.sqrt(spread_predicted)
        correlation = jnp.where(scale == 0, 0, covariance / jnp.where(scale == 0, 1, scale))
        return jnp.where(total == 0, UNMEASURED, correlation)

    def _predicted_and_label(self, output: Any, target: Any) -> tuple[Any, Any]:
        logits = _single_logit(output, target)
        if self.classes is None and logits is not None:
            return _yes_or_no(*logits)
        count = _logit_count(output)
        if self.classes is None and count > 1:
            raise ValueError(
                f"{self.name}: it expects one logit, of shape (batch,) or (batch, 1), got an output of shape "
                f"{output.shape} for targets of shape {target.shape}. For {count} logits give "
                f"MatthewsCorrelationCoefficient(classes={count})."
            )
        if self.classes is not None and (logits is not None or self.classes != count):
            raise ValueError(
                f"{self.name}: it expects {self.classes} logits, got an output of shape {output.shape} for targets of "
                f"shape {target.shape}. Make `classes` the size of the last axis, or leave it out for one logit."
            )
        return _labels(self.name, output, target)


def _sum_of_others(matrix: jax.Array, axis: int) -> jax.Array:
    """At each place the sum of all other places along `axis`, by addition alone."""
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(matrix, 0, 1, axis=axis))

    def before(matrix: jax.Array) -> jax.Array:
        sums = jax.lax.slice_in_dim(jnp.cumsum(matrix, axis=axis), 0, -1, axis=axis)
        return jnp.concatenate([nothing, sums], axis=axis)

    return before(matrix) + jnp.flip(before(jnp.flip(matrix, axis)), axis)


def _check_arrays(name: str, output: Any, target: Any) -> None:
    """Refuses trees.

    Raises:
      TypeError: the output or the target is not an array.
    """
    for what, given in (("output", output), ("target", target)):
        if not hasattr(given, "shape"):
            raise TypeError(
                f"{name}: the {what} must be one array, got {jax.tree.map(jnp.shape, given)} (shapes). "
                f'Give Mean(fn, "{name}") with a function of (output, target) that picks what is measured.'
            )


def _single_logit(output: Any, target: Any) -> tuple[Any, Any] | None:
    """Logit and target of each example where there is one logit for each, without an axis for it; else None."""
    if output.shape == (*target.shape, 1):
        return output[..., 0], target
    if output.shape == target.shape and output.ndim > 1 and output.shape[-1] == 1:
        return output[..., 0], target[..., 0]
    return (output, target) if output.shape == target.shape and output.ndim == 1 else None


def _logit_count(output: Any) -> int:
    return output.shape[-1] if output.ndim > 1 else 1


def _yes_or_no(logit: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class, 0 or 1, from one logit."""
    return (logit > 0).astype(jnp.int32), (target > 0.5).astype(jnp.int32)


def _labels(name: str, output: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class from logits of several.

    Raises:
      ValueError: the shapes do not fit.
    """
    if output.ndim > 1 and target.shape == output.shape:
        return jnp.argmax(output, axis=-1), jnp.argmax(target, axis=-1)
    if output.ndim < 2:
        raise ValueError(
            f"{name}: an output of shape {output.shape}, one logit per example, needs targets of 0 or 1 of its shape, "
            f"got {target.shape}. Check the model's last layer and whether the targets need a squeeze."
        )
    if target.shape != output.shape[:-1]:
        raise ValueError(
            f"{name}: an output of shape {output.shape} needs integer targets of shape {output.shape[:-1]}, or "
            f"probabilities of the output's shape, got {target.shape}. Check the model's last layer and whether the "
            "targets need a squeeze."
        )
    return jnp.argmax(output, axis=-1), target
