"""Losses: one number per example (or token), so that statistics are exact under weights and padding."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxloop.precision import widened, widened_alike

__all__ = [
    "mean_absolute_error",
    "mean_squared_error",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def softmax_cross_entropy(
    logits: jax.Array, target: jax.Array, *, class_weights: Any = None, label_smoothing: float = 0.0
) -> jax.Array:
    """The cross entropy between softmax(logits) and the target, one per example or token.

    `-sum_c w_c p_c log softmax(logits)_c`, where `p` is one-hot for an integer target. Label smoothing `e` makes it
    `(1 - e) p_c + e / classes`, as in Szegedy et al. (CVPR 2016).

    Options are given by `functools.partial`, so that the checks of labels still know the loss. The mean of a batch
    divides by the number of examples (or the sum of their own weights), not by the sum of their class weights, as
    PyTorch does. So the gradient of an example does not depend on the classes of the others, and microbatches and
    devices change nothing. Class weights whose mean over the data is 1 keep the scale of loss and learning rate:
    `len(labels) / (classes * numpy.bincount(labels))`. The loss in validation is weighted too.

    Args:
      logits: float[..., classes], unnormalized.
      target: int[...], the class; or float[..., classes], a probability of each class.
      class_weights: `w`, one number of at least 0 for each class; None if all are 1.
      label_smoothing: `e`, from 0 up to but without 1.

    Returns:
      float[...], in nats. A label that is none of the classes gives NaN. A class of probability 0 costs nothing, even
      if its logit is minus infinity.

    Raises:
      ValueError: the target's shape is neither that of the examples nor that of the logits; or there is not one class
        weight for each class; or an option is out of range.

    Example:
      >>> softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
      Array([1.3862944, 1.3862944], dtype=float32)
      >>> weighted = functools.partial(softmax_cross_entropy, class_weights=[1, 1, 1, 5])
      >>> weighted(jnp.zeros((2, 4)), jnp.array([0, 3]))
      Array([1.3862944, 6.931472 ], dtype=float32)
    """
    _check_arrays("softmax_cross_entropy", "logits", logits, target)
    integer = jnp.issubdtype(target.dtype, jnp.integer) and target.shape == logits.shape[:-1]
    if not integer and target.shape != logits.shape:
        fix = "Check the last layer's size and whether the labels need a squeeze."
        if target.shape == logits.shape[:-1]:
            fix = "Write labels.astype(numpy.int32)."
        raise ValueError(
            f"softmax_cross_entropy: `target` must be integer labels of shape {logits.shape[:-1]} or "
            f"probabilities of shape {logits.shape}, got {target.dtype}{list(target.shape)}. {fix}"
        )
    weights = _per_class("softmax_cross_entropy", "class_weights", class_weights, logits.shape[-1:])
    smoothing = _checked_smoothing("softmax_cross_entropy", label_smoothing)
    if weights is None and not smoothing:
        if integer:
            # An index of -1 is that of the last class, one beyond int32 may be any. That after the last gives NaN.
            target = target.astype(jnp.int32) if target.dtype.itemsize < 4 else target  # uint8 may end at a class
            classes = logits.shape[-1]
            target = jnp.where((target < 0) | (target > classes), classes, target)
            return optax.softmax_cross_entropy_with_integer_labels(widened(logits), target)
        return optax.losses.safe_softmax_cross_entropy(*widened_alike(logits, target))
    return _weighted_cross_entropy(logits, target, weights, smoothing, integer=bool(integer))


def _weighted_cross_entropy(
    logits: jax.Array, target: jax.Array, weights: Any, smoothing: float, *, integer: bool
) -> jax.Array:
    """The cross entropy with class weights and label smoothing."""
    classes = logits.shape[-1]
    logits, probability = (widened(logits), target) if integer else widened_alike(logits, target)
    costs = -jax.nn.log_softmax(logits, axis=-1)
    if weights is not None:
        # A class that weighs nothing costs nothing, even if its logit is minus infinity.
        weights = weights.astype(costs.dtype)
        costs = jnp.where(weights == 0, 0, costs) * weights
    if integer:
        inside = (target >= 0) & (target < classes)
        label = jnp.where(inside, target, 0)
        # Neither a negative label nor one that is too large may be given the weight of another class.
        of_target = jnp.where(inside, jnp.take_along_axis(costs, label[..., None], axis=-1)[..., 0], jnp.nan)
    else:
        of_target = jnp.sum(jnp.where(probability == 0, 0, costs) * probability, axis=-1)
    return of_target if not smoothing else (1 - smoothing) * of_target + smoothing * jnp.mean(costs, axis=-1)


def sigmoid_cross_entropy(
    logits: jax.Array, target: jax.Array, *, pos_weight: Any = None, label_smoothing: float = 0.0
) -> jax.Array:
    """The cross entropy between sigmoid(logits) and the target: its mean over the classes of an example or token.

    `-w p log sigmoid(x) - (1 - p) log sigmoid(-x)` for each logit `x`. Each class is an independent question that is
    answered by yes or no. This is `optax.losses.sigmoid_binary_cross_entropy`, which takes no logarithm of 0. Label
    smoothing `e` makes it `(1 - e) p + e / 2`. Options are given, and the mean is taken, as in
    `softmax_cross_entropy`.

    Args:
      logits: float[batch], one per example; or float[..., classes], unnormalized.
      target: of the same shape, from 0 (no) to 1 (yes), integer, bool or float. An axis of one class may be left out.
      pos_weight: `w`, what a yes weighs where a no weighs 1: a number of at least 0, or one for each class. `no / yes`,
        counted in the data, balances both.
      label_smoothing: `e`, from 0 up to but without 1.

    Returns:
      float[batch] or float[...], in nats.

    Raises:
      ValueError: the shapes differ in any other way, or an option is out of range.

    Example:
      >>> sigmoid_cross_entropy(jnp.zeros((2, 1)), jnp.array([0, 1]))
      Array([0.6931472, 0.6931472], dtype=float32)
      >>> sigmoid_cross_entropy(jnp.zeros(2), jnp.array([0, 1]), pos_weight=3.0)
      Array([0.6931472, 2.0794415], dtype=float32)
    """
    _check_arrays("sigmoid_cross_entropy", "logits", logits, target)
    if logits.shape == (*target.shape, 1):
        target = target[..., None]
    _check_same_shape("sigmoid_cross_entropy", "logits", logits, target)
    shape = logits.shape[-1:] if logits.ndim > 1 else (1,)
    weights = _per_class("sigmoid_cross_entropy", "pos_weight", pos_weight, shape, one_for_all=True)
    smoothing = _checked_smoothing("sigmoid_cross_entropy", label_smoothing)
    logits, target = widened_alike(logits, target)
    if smoothing:
        target = (1 - smoothing) * target + smoothing / 2
    losses = optax.losses.sigmoid_binary_cross_entropy(logits, target)
    if weights is not None:
        # `softplus(-x)` is -log sigmoid(x): a yes costs it once already.
        losses = losses + (weights.astype(losses.dtype) - 1) * target * jax.nn.softplus(-logits)
    return losses if losses.ndim < 2 else jnp.mean(losses, axis=-1)


def without_options(loss_fn: Any) -> Any:
    """The function that `functools.partial` was given, or `loss_fn` itself."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    return loss_fn


def mean_squared_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """The mean of `(output - target)**2` over all axes but the first, one per example.

    Args:
      output: float[batch, ...].
      target: of the same shape; nothing is broadcast.

    Returns:
      float[batch].

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> mean_squared_error(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.zeros((2, 2)))
      Array([2., 1.], dtype=float32)
    """
    _check_arrays("mean_squared_error", "output", output, target)
    _check_same_shape("mean_squared_error", "output", output, target)
    return _mean_of_each(optax.losses.squared_error(*widened_alike(output, target)))


def mean_absolute_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """The mean of `|output - target|` over all axes but the first, one per example.

    Args:
      output: float[batch, ...].
      target: of the same shape; nothing is broadcast.

    Returns:
      float[batch].

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> mean_absolute_error(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.zeros((2, 2)))
      Array([1., 1.], dtype=float32)
    """
    _check_arrays("mean_absolute_error", "output", output, target)
    _check_same_shape("mean_absolute_error", "output", output, target)
    output, target = widened_alike(output, target)
    return _mean_of_each(jnp.abs(output - target))


def _per_class(
    where: str, option: str, given: Any, shape: tuple[int, ...], *, one_for_all: bool = False
) -> jax.Array | None:
    """The weight of each class, of `shape`, in the widest floats that JAX has; None if none is given.

    Raises:
      TypeError: they are a mapping.
      ValueError: there is not one for each class, or one is negative or not finite.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        raise TypeError(
            f"{where}: `{option}` must be a sequence of numbers, one for each class, got a mapping. Give its values in "
            "the order of the classes, as [weights[label] for label in range(classes)]."
        )
    weights = given if isinstance(given, Tracer) else np.asarray(given)
    if weights.shape != shape and not (one_for_all and weights.shape == ()):
        raise ValueError(
            f"{where}: `{option}` must be one number for each class, of shape {shape}, since that is the output's last "
            f"axis, got shape {weights.shape}. Give {shape[0]} numbers, or check the model's last layer."
        )
    if not isinstance(weights, Tracer):
        weights = weights.astype(np.float64)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(
                f"{where}: `{option}` must be finite numbers of at least 0, got {given!r}. Check that each class "
                "occurs in the data that they were counted in."
            )
    return jnp.asarray(weights)


def _checked_smoothing(where: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 0 <= given < 1:
        raise ValueError(f"{where}: `label_smoothing` must be a number from 0 to below 1, got {given!r}. Write 0.1.")
    return float(given)


def _mean_of_each(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _check_arrays(where: str, name: str, given: Any, target: Any) -> None:
    """Refuses data without targets, and an output or a target of several parts.

    Raises:
      TypeError: one of them is no array.
    """
    if target is None:
        raise TypeError(
            f"{where}: there is no target, got None. Give data as (inputs, targets), an autoencoder (inputs, inputs)."
        )
    for part, value in ((name, given), ("target", target)):
        if not hasattr(value, "shape"):
            raise TypeError(
                f"{where}: `{part}` must be one array, got a {type(value).__name__}. Of several outputs give each a "
                "loss, as loss_fn={'digit': ...}, or choose one, as lambda output, target: "
                f"jaxloop.losses.{where}(output['digit'], target)."
            )


def _check_same_shape(where: str, name: str, given: jax.Array, target: jax.Array) -> None:
    """Refuses shapes that differ: NumPy's broadcasting would turn (n,) and (n, 1) into n * n losses in silence.

    Raises:
      ValueError: the shapes differ.
    """
    if given.shape == target.shape:
        return
    long, short = (name, "target") if given.ndim > target.ndim else ("target", name)
    fix = "Check the last layer's size and what the data gives as target."
    if (*given.shape, 1) == target.shape or given.shape == (*target.shape, 1):
        fix = f"Drop the last axis of `{long}`, {long}[..., 0], or add one to `{short}`, {short}[..., None]."
    raise ValueError(
        f"{where}: `{name}` and `target` must be of one shape, got {given.shape} and {target.shape}; nothing is "
        f"broadcast here. {fix}"
    )


def spread_weight(weight: jax.Array | None, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The weight of each element of an array of `shape`, whose first axes are those of the weight.

    Args:
      weight: float or bool, (batch,) or (batch, tokens). With `None` every element has weight 1.
      shape: (batch, ...).
      dtype: of what is weighed, at least float32.

    Returns:
      An array of `shape` and `dtype`.

    Raises:
      ValueError: the weight's axes are not the leading axes of `shape`.
    """
    if weight is None:
        return jnp.ones(shape, dtype)
    weight = jnp.asarray(weight, dtype)
    if weight.shape != shape[: weight.ndim]:
        raise ValueError(
            f"weight: its shape {weight.shape} must be the leading axes of what it weighs, {shape}. "
            "Give one weight per example (batch,) or per token (batch, tokens)."
        )
    return jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim)), shape)


def weighted_sum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The sum of `values` times `weight`. A NaN with weight 0 does not count."""
    values = widened(values)
    # Selected before the product, since NaN times 0 is NaN.
    return jnp.sum(jnp.where(weight != 0, values, 0) * weight.astype(values.dtype))


def weighted_mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The weighted mean of per-example values. A scalar is its own mean.

    Args:
      values: float[batch, ...] or float[].
      weight: as `spread_weight` takes it.

    Returns:
      float[], of at least 32 bits; 0 where all weights are 0.
    """
    values = widened(values)
    if values.ndim == 0 or weight is None:
        return jnp.mean(values)
    weight = spread_weight(weight, values.shape, values.dtype)
    total = jnp.sum(weight)
    return weighted_sum(values, weight) / jnp.where(total == 0, 1, total)
