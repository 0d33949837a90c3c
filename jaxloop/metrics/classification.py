"""Metrics of classification, from logits and the true classes or probabilities."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.measured import unmeasured
from jaxloop.metrics.means import add_to_mean, empty_mean, mean_of, two_sum


@dataclass(frozen=True)
class Accuracy:
    """The share of examples (or tokens) whose predicted class is the true class: `sum w_i [y_i = t_i] / sum w_i`.

    The predicted class is that of the largest logit, and in a tie the first of them. If there is only one logit, the
    predicted class is 1 where the logit is above 0, that is, where its sigmoid is above 1/2. An example with a NaN in
    its logits or its target is wrong.

    | `output` | `target` |
    | --- | --- |
    | float[..., classes] | int[...], or probabilities float[..., classes] |
    | float[batch] or float[..., 1]: one logit | 0 or 1, int or float, of the output's shape, or without the axis of 1 |

    Args:
      name: the name of the statistic.
      multilabel: whether each logit is an independent question that is answered by yes or no, as in
        `losses.sigmoid_cross_entropy`. Then `target` is 0 or 1 and has the output's shape, and labels are counted:
        `sum w_i [y_ij = t_ij] / (classes sum w_i)`. With None, data whose targets are several classes at once, or none,
        are refused: the largest target would be taken for the class. True or False allows such data.

    Example:
      >>> metric = Accuracy()
      >>> output, target = jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    name: str = "accuracy"
    multilabel: bool | None = None

    @property
    def one_class(self) -> bool:
        """Whether targets of the output's shape must be probabilities of one class."""
        return self.multilabel is None

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        _check_arrays(self.name, output, target)
        single = _each_alone(self.name, output, target) if self.multilabel else _single_logit(output, target)
        predicted, label = _labels(self.name, output, target) if single is None else _yes_or_no(*single)
        correct = ((predicted == label) & _known(output, target, single)).astype(jnp.float32)
        return add_to_mean(state, correct, spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class TopKAccuracy:
    """The share of examples (or tokens) for which fewer than `k` classes have a larger logit than the true class.

    Classes that tie with the true class do not count as larger. An example with a NaN in its logits or its target is
    wrong. `output` is float[..., classes]. `target` is int[...], or float[..., classes] for probabilities.

    Args:
      k: the number of guesses, at least 1 and at most the number of classes.
      name: the name of the statistic, by default `"top{k}_accuracy"`. `metrics=["top3_accuracy"]` means
        `TopKAccuracy(3)`.

    Example:
      >>> metric = TopKAccuracy(2)
      >>> output, target = jnp.array([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]]), jnp.array([2, 0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    k: int = 5
    name: str = ""
    one_class: ClassVar[bool] = True

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
        classes = jax.lax.broadcasted_iota(label.dtype, output.shape, output.ndim - 1)
        at_target = jnp.sum(jnp.where(classes == label[..., None], output, 0), axis=-1, keepdims=True)
        above = jnp.sum(output > at_target, axis=-1)
        correct = (above < self.k) & (label >= 0) & (label < count) & _known(output, target, None)
        return add_to_mean(state, correct.astype(jnp.float32), spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class MatthewsCorrelationCoefficient:
    """The correlation of predicted and true classes: 1 if all agree, 0 for chance, exact under weights.

    Let s be the weight of all examples, c of those with a right prediction, p_k of those with the prediction k, and t_k
    of those with the true class k:

        (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    This is the R_K of Gorodkin (Computational Biology and Chemistry 28, 2004), which scikit-learn's
    `matthews_corrcoef` computes. For two classes it is Matthews's (TP TN - FP FN) / sqrt(...). It is 0 if the
    denominator is 0, and NaN if nothing was measured. Examples whose target is none of the classes are left out. An
    example with a NaN in its logits or its target is wrong: its prediction is one more class, which no example has.

    Args:
      classes: the number of logits. `None` means one logit, for the classes 0 and 1. Shapes are as in `Accuracy`.
      name: the name of the statistic. In `metrics`, the name alone means one logit.

    Example:
      >>> metric = MatthewsCorrelationCoefficient()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 0, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0., dtype=float32)
    """

    classes: int | None = None
    name: str = "matthews_correlation_coefficient"
    one_class: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.classes, (int, np.integer)) and not isinstance(self.classes, bool)
        if self.classes is not None and not (whole and self.classes >= 2):
            raise ValueError(
                f"MatthewsCorrelationCoefficient: `classes` must be at least 2, or None for one logit, "
                f"got {self.classes!r}."
            )

    def init(self) -> dict[str, Any]:
        """float32[classes, classes + 1], true class by prediction: the weights so far, and their rounding errors."""
        shape = (self.classes or 2, (self.classes or 2) + 1)
        return {name: np.zeros(shape, np.float32) for name in ("weight", "weight_error")}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        _check_arrays(self.name, output, target)
        predicted, label, known = self._predicted_and_label(output, target)
        classes, one_hot = len(state["weight"]), functools.partial(jax.nn.one_hot, dtype=jnp.float32)
        predicted = jnp.where(known, predicted, classes)
        label = jnp.where(jnp.isnan(label), 0, label) if jnp.issubdtype(label.dtype, jnp.floating) else label
        true = one_hot(label.reshape(-1), classes) * spread_weight(weight, label.shape).reshape(-1, 1)
        added = jnp.matmul(true.T, one_hot(predicted.reshape(-1), classes + 1), precision="highest")
        total, error = two_sum(state["weight"], added)
        return {"weight": total, "weight_error": state["weight_error"] + error}

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

    def _predicted_and_label(self, output: Any, target: Any) -> tuple[Any, Any, Any]:
        """Predicted class, true class, and whether logits and target are free of NaN."""
        logits = _single_logit(output, target)
        if self.classes is None and logits is not None:
            return *_yes_or_no(*logits), _known(output, target, logits)
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
        return *_labels(self.name, output, target), _known(output, target, None)


def _sum_of_others(matrix: jax.Array, axis: int) -> jax.Array:
    """For each element the sum of all other elements along `axis`.

    It only adds. To subtract the element from the whole sum would cancel digits.
    """
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(matrix, 0, 1, axis=axis))

    def before(matrix: jax.Array) -> jax.Array:
        sums = jax.lax.slice_in_dim(jnp.cumsum(matrix, axis=axis), 0, -1, axis=axis)
        return jnp.concatenate([nothing, sums], axis=axis)

    return before(matrix) + jnp.flip(before(jnp.flip(matrix, axis)), axis)


def _check_arrays(name: str, output: Any, target: Any) -> None:
    """Refuses an output or a target that is a tree.

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
    """The logit and the target of each example, without an axis of 1, if each example has one logit; else None."""
    if output.shape == (*target.shape, 1):
        return output[..., 0], target
    if output.shape == target.shape and output.ndim > 1 and output.shape[-1] == 1:
        return output[..., 0], target[..., 0]
    return (output, target) if output.shape == target.shape and output.ndim == 1 else None


def _each_alone(name: str, output: Any, target: Any) -> tuple[Any, Any]:
    """The logit and the target of each label.

    Raises:
      ValueError: the shapes do not fit.
    """
    if output.shape == (*target.shape, 1):
        return output[..., 0], target
    if output.shape != target.shape:
        raise ValueError(
            f"{name}: with multilabel=True there is a target of 0 or 1 for each logit; the output is of shape "
            f"{output.shape}, the target of {target.shape}. Check the model's last layer, or leave out multilabel=True."
        )
    return output, target


def _known(output: Any, target: Any, single: tuple[Any, Any] | None) -> Any:
    """Whether logits and target are free of NaN: bool of the shape of the examples, or of the labels in `single`."""
    known: Any = True
    for array in (output, target) if single is None else single:
        if jnp.issubdtype(array.dtype, jnp.floating):
            is_nan = jnp.isnan(array)
            known &= ~(jnp.any(is_nan, axis=-1) if single is None and array.ndim == output.ndim else is_nan)
    return known


def _logit_count(output: Any) -> int:
    return output.shape[-1] if output.ndim > 1 else 1


def _yes_or_no(logit: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class, 0 or 1, from one logit."""
    return (logit > 0).astype(jnp.int32), (target.astype(jnp.float32) > 0.5).astype(jnp.int32)


def _labels(name: str, output: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class from several logits.

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
    return _of_one_dtype(jnp.argmax(output, axis=-1), jnp.asarray(target))


def _of_one_dtype(predicted: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in a dtype that can hold both: the dtype of the label, if it has at least as many bits as an index."""
    if label.dtype.itemsize < predicted.dtype.itemsize:
        return predicted, label.astype(predicted.dtype)
    return predicted.astype(label.dtype), label
