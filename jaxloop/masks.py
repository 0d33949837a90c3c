"""Masks: what weighs nothing is kept away from what counts, in values and in gradients."""

from typing import Any

import jax
import jax.numpy as jnp


def without_wild(tree: Any, weight: Any) -> Any:
    """`tree` with 0 in place of each NaN and infinity that weighs nothing; all else stays.

    The gradient of a parameter is a sum over the batch of what came in times what goes back, and NaN times 0 is NaN.
    What is finite may be context for others, such as the tokens of a prompt, and is left alone.

    Args:
      tree: PyTree of arrays, whose leading axes are the weight's. Others are left alone, and so are integers.
      weight: (batch,) or (batch, tokens).
    """

    def clean(leaf: Any) -> Any:
        nothing = _weighs_nothing(leaf, weight) if jnp.issubdtype(leaf.dtype, jnp.inexact) else None
        return leaf if nothing is None else jnp.where(nothing & ~jnp.isfinite(leaf), jnp.zeros((), leaf.dtype), leaf)

    return jax.tree.map(clean, tree)


def with_stand_ins(tree: Any, weight: Any) -> Any:
    """`tree` with an example (or token) that counts in place of each that weighs nothing, as a constant.

    To mask the losses alone is not enough: the gradient of a loss that is NaN or infinite is so too, and times 0 it is
    NaN. A stand-in is of the kind that the loss expects, which zeros need not be.

    Args:
      tree: PyTree of arrays, whose leading axes are the weight's. Others are left alone.
      weight: as `without_wild` takes it.
    """

    def stand_in(leaf: Any) -> Any:
        nothing = _weighs_nothing(leaf, weight)
        if nothing is None:
            return leaf
        axes = weight.ndim if leaf.shape[: weight.ndim] == weight.shape else 1
        first = jnp.argmin(nothing.reshape(-1))  # where all weigh nothing it is any of them
        flat = leaf.reshape(nothing.size, *leaf.shape[axes:])
        one = jax.lax.stop_gradient(jax.lax.dynamic_index_in_dim(flat, first, keepdims=False))
        return jnp.where(nothing, one, leaf)

    return jax.tree.map(stand_in, tree)


def _weighs_nothing(leaf: Any, weight: Any) -> Any:
    """bool, (batch, tokens, 1...) or (batch, 1...): where `leaf` weighs nothing; None where that cannot be said."""
    nothing = ~weight if weight.dtype == bool else weight == 0
    if leaf.shape[:1] != weight.shape[:1]:
        return None
    if leaf.shape[: weight.ndim] != weight.shape:  # it has no axis of tokens
        nothing = jnp.all(nothing, axis=tuple(range(1, weight.ndim)))
    return nothing.reshape(*nothing.shape, *(1,) * (leaf.ndim - nothing.ndim))
