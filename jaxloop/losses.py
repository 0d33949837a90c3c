"""Losses: one number per example (or token), so that statistics are exact under weights and padding."""

import jax
import jax.numpy as jnp
import optax

from jaxloop.precision import widened


def softmax_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """The cross entropy between softmax(logits) and the target, one per example or token.

    `-sum_c p_c log softmax(logits)_c`, where `p` is one-hot for an integer target.

    Args:
      logits: float[..., classes], unnormalized.
      target: int[...], the class; or float[..., classes], a probability of each class.

    Returns:
      float[...], in nats.

    Raises:
      ValueError: the target's shape is neither that of the examples nor that of the logits.

    Example:
      >>> softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
      Array([1.3862944, 1.3862944], dtype=float32)
    """
    if jnp.issubdtype(target.dtype, jnp.integer) and target.shape == logits.shape[:-1]:
        return optax.softmax_cross_entropy_with_integer_labels(widened(logits), target)
    if target.shape == logits.shape:
        return optax.softmax_cross_entropy(*_widened(logits, target))
    raise ValueError(
        f"softmax_cross_entropy: `target` must be integer labels of shape {logits.shape[:-1]} or "
        f"probabilities of shape {logits.shape}, got {target.dtype}{list(target.shape)}. "
        "Check the last layer's size and whether the labels need a squeeze."
    )


def sigmoid_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """The cross entropy between sigmoid(logits) and the target: its mean over the classes of an example or token.

    `-p log sigmoid(x) - (1 - p) log sigmoid(-x)` for each logit `x`. Each class is an independent question that is
    answered by yes or no. This is `optax.losses.sigmoid_binary_cross_entropy`, which takes no logarithm of 0.

    Args:
      logits: float[batch], one per example; or float[..., classes], unnormalized.
      target: of the same shape, from 0 (no) to 1 (yes), integer, bool or float. An axis of one class may be left out.

    Returns:
      float[batch] or float[...], in nats.

    Raises:
      ValueError: the shapes differ in any other way.

    Example:
      >>> sigmoid_cross_entropy(jnp.zeros((2, 1)), jnp.array([0, 1]))
      Array([0.6931472, 0.6931472], dtype=float32)
    """
    if logits.shape == (*target.shape, 1):
        target = target[..., None]
    _check_same_shape("sigmoid_cross_entropy", "logits", logits, target)
    losses = optax.losses.sigmoid_binary_cross_entropy(*_widened(logits, target))
    return losses if losses.ndim < 2 else jnp.mean(losses, axis=-1)


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
    _check_same_shape("mean_squared_error", "output", output, target)
    return _mean_of_each(optax.losses.squared_error(*_widened(output, target)))


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
    _check_same_shape("mean_absolute_error", "output", output, target)
    output, target = _widened(output, target)
    return _mean_of_each(jnp.abs(output - target))


def _widened(output: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in the dtype of the loss, at least float32. An integer or bool target takes the dtype of the output."""
    output = widened(output)
    return output, widened(target) if jnp.issubdtype(target.dtype, jnp.inexact) else target.astype(output.dtype)


def _mean_of_each(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


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


def spread_weight(weight: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """The weight of each element of an array of `shape`, whose first axes are those of the weight.

    Args:
      weight: float or bool, (batch,) or (batch, tokens). With `None` every element has weight 1.
      shape: (batch, ...).

    Returns:
      float32 of `shape`.

    Raises:
      ValueError: the weight's axes are not the leading axes of `shape`.
    """
    if weight is None:
        return jnp.ones(shape, jnp.float32)
    weight = jnp.asarray(weight, jnp.float32)
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
    weight = spread_weight(weight, values.shape).astype(values.dtype)
    total = jnp.sum(weight)
    return weighted_sum(values, weight) / jnp.where(total == 0, 1, total)
