"""Gradient clipping, as a compiled callback."""

import jax
import jax.numpy as jnp
import optax

from jaxloop.callback import Callback
from jaxloop.events import Event
from jaxloop.loop import Loop


def clip_by_global_norm(max_norm: float) -> Callback:
    """Scales the gradient down so that its global norm is at most `max_norm`, before the optimizer sees it.

    `g * min(1, max_norm / ||g||)`, with the norm over all leaves together; Pascanu, Mikolov, Bengio: On the
    difficulty of training recurrent neural networks, ICML 2013. Records the norm before clipping as
    `"gradient_norm"`.

    Args:
      max_norm: the largest norm that is let through, above 0.

    Raises:
      ValueError: `max_norm` is not above 0.

    Example:
      >>> jl.TrainingLoop(..., callbacks=[jl.callbacks.clip_by_global_norm(1.0)])
    """
    if not max_norm > 0:
        raise ValueError(f"clip_by_global_norm: `max_norm` must be above 0, got {max_norm}.")

    def clip(loop: Loop, event: Event) -> Loop:
        if event is not Event.UPDATE_START:
            return loop
        norm = optax.tree.norm(loop.gradient)
        scale = max_norm / jnp.maximum(norm, max_norm)
        gradient = jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), loop.gradient)
        return loop.record("gradient_norm", norm).replace(gradient=gradient)

    return clip
