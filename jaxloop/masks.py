"""Masks: examples and tokens of weight 0 cannot affect the others, neither in values nor in gradients."""

from typing import Any

import jax
import jax.numpy as jnp


def without_wild(tree: Any, weight: Any) -> Any:
    """`tree` with 0 in place of each NaN and infinity of weight 0. Everything else stays.

    The gradient of a parameter is a sum over the batch: input times the gradient that comes back. A NaN in the input
    would spoil it, since NaN times 0 is NaN. Finite values stay, because they can be the context of others, such as the
    tokens of a prompt.

    Args:
      tree: PyTree of arrays with the leading axes of the weight. Integers and arrays with other axes stay as they are.
      weight: (batch,) or (batch, tokens).
    """

    def clean(leaf: Any) -> Any:
        nothing = _weighs_nothing(leaf, weight) if jnp.issubdtype(leaf.dtype, jnp.inexact) else None
        return leaf if nothing is None else jnp.where(nothing & ~jnp.isfinite(leaf), jnp.zeros((), leaf.dtype), leaf)

    return jax.tree.map(clean, tree)


def with_stand_ins(tree: Any, weight: Any, *, divided: bool = False) -> Any:
    """`tree` with a copy of an example (or token) that counts in place of each one of weight 0, as a constant.

    It is not enough to mask the losses. The gradient of a loss that is NaN or infinite is NaN or infinite too, and its
    product with 0 is NaN. A loss function can handle a copy of what it is given anyway, but not every loss function can
    handle zeros.

    Args:
      tree: PyTree of arrays with the leading axes of the weight. Arrays with other axes stay as they are.
      weight: as in `without_wild`.
      divided: whether the batch is divided over devices. To take an example by its index would gather all of them.
    """

    def stand_in(leaf: Any) -> Any:
        nothing = _weighs_nothing(leaf, weight)
        if nothing is None:
            return leaf
        axes = weight.ndim if leaf.shape[: weight.ndim] == weight.shape else 1
        first_of = _first_of_divided if divided else _first
        flat = leaf.reshape(nothing.size, *leaf.shape[axes:])
        one = jax.lax.stop_gradient(first_of(flat, nothing.reshape(-1)))
        return jnp.where(nothing, one, leaf)

    return jax.tree.map(stand_in, tree)


def _first(flat: Any, nothing: Any) -> Any:
    """The first example that counts; if none does, it does not matter which."""
    return jax.lax.dynamic_index_in_dim(flat, jnp.argmin(nothing), keepdims=False)


def _first_of_divided(flat: Any, nothing: Any) -> Any:
    """The same as a minimum and a sum over all examples, of which all but one are 0: each device takes its own."""
    places = jnp.arange(nothing.size)
    first = jnp.minimum(jnp.min(jnp.where(nothing, nothing.size, places)), nothing.size - 1)
    chosen = (places == first).reshape(-1, *(1,) * (flat.ndim - 1))
    if flat.dtype == bool:
        return jnp.any(chosen & flat, axis=0)
    return jnp.sum(jnp.where(chosen, flat, jnp.zeros((), flat.dtype)), axis=0, dtype=flat.dtype)


def _weighs_nothing(leaf: Any, weight: Any) -> Any:
    """bool, (batch, tokens, 1...) or (batch, 1...): where `leaf` has weight 0; None if their axes do not match."""
    nothing = ~weight if weight.dtype == bool else weight == 0
    if leaf.shape[:1] != weight.shape[:1]:
        return None
    if leaf.shape[: weight.ndim] != weight.shape:  # no axis of tokens: an example has weight 0 if all its tokens have
        nothing = jnp.all(nothing, axis=tuple(range(1, weight.ndim)))
    return nothing.reshape(*nothing.shape, *(1,) * (leaf.ndim - nothing.ndim))
