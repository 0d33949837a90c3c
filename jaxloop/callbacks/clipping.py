"""Gradient clipping, as a compiled callback."""

import jax
import jax.numpy as jnp

from jaxloop.callback import Callback
from jaxloop.events import Event
from jaxloop.loop import Loop
from jaxloop.precision import global_norm, widened


def clip_by_global_norm(max_norm: float) -> Callback:
    """Scales the gradient down so that its global norm is at most `max_norm`, before the optimizer sees it.

    `g * min(1, max_norm / ||g||)`, with the norm over all leaves together; Pascanu, Mikolov, Bengio: On the
    difficulty of training recurrent neural networks, ICML 2013. Records the norm before clipping as
    `"gradient_norm"`. Of bfloat16 and float16 gradients too the norm is taken in float32; `optax.clip_by_global_norm`,
    as a part of the optimizer, sums in the gradient's own dtype, where thousands of small squares are lost.

    With `optax.MultiSteps` the gradient of each batch is clipped by itself, not their mean: to clip that, put
    `optax.clip_by_global_norm` into the optimizer that `MultiSteps` wraps.

    Args:
      max_norm: the largest norm that is let through, above 0.

    Raises:
      ValueError: `max_norm` is not above 0.

    Example:
      >>> jl.TrainingLoop(..., callbacks=[jl.callbacks.clip_by_global_norm(1.0)])
    """
    if not max_norm > 0:
        raise ValueError(f"clip_by_global_norm: `max_norm` must be above 0, got {max_norm}.")
    max_norm = float(max_norm)  # a NumPy number has a dtype, which could become the gradient's

    def clip(loop: Loop, event: Event) -> Loop:
        if event is not Event.UPDATE_START:
            return loop
        norm = global_norm(loop.gradient)
        scale = max_norm / jnp.maximum(norm, max_norm)
        gradient = jax.tree.map(lambda leaf: _scaled(leaf, scale), loop.gradient)
        return loop.record("gradient_norm", norm).replace(gradient=gradient)

    return clip


def _scaled(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    wide = widened(leaf)
    return (wide * scale.astype(wide.dtype)).astype(leaf.dtype)
