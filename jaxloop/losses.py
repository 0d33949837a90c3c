"""Losses: one number per example (or token), so that weights and padding can be exact."""

import jax
import jax.numpy as jnp
import optax


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
        return optax.softmax_cross_entropy_with_integer_labels(logits, target)
    if target.shape == logits.shape:
        return optax.softmax_cross_entropy(logits, target)
    raise ValueError(
        f"softmax_cross_entropy: `target` must be integer labels of shape {logits.shape[:-1]} or "
        f"probabilities of shape {logits.shape}, got {target.dtype}{list(target.shape)}. "
        "Check the last layer's size and whether the labels need a squeeze."
    )


def spread_weight(weight: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """The weight of each element of something of `shape`, which starts with the weight's own axes.

    Args:
      weight: float or bool, (batch,) or (batch, tokens); `None` weighs all alike.
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
    """The sum of `values` times `weight`; where the weight is 0 a NaN does not count."""
    return jnp.sum(jnp.where(weight != 0, values, 0) * weight)


def weighted_mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The mean of per-example values under a weight; a scalar is its own mean.

    Args:
      values: float[batch, ...] or float[].
      weight: as `spread_weight` takes it.

    Returns:
      float[]; 0 where all weights are 0.
    """
    if values.ndim == 0 or weight is None:
        return jnp.mean(values)
    weight = spread_weight(weight, values.shape)
    total = jnp.sum(weight)
    return weighted_sum(values, weight) / jnp.where(total == 0, 1, total)
