"""Gradient clipping, as a compiled callback."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxloop.callback import Callback
from jaxloop.events import Event
from jaxloop.loop import Loop
from jaxloop.precision import global_norm, widened
from jaxloop.real_number import real_number


def clip_by_global_norm(max_norm: float) -> Callback:
    """Scales the gradient down so that its global norm is at most `max_norm`, before the optimizer gets it.

    `g * min(1, max_norm / ||g||)`, with the norm over all leaves together; Pascanu, Mikolov, Bengio: On the
    difficulty of training recurrent neural networks, ICML 2013. It records the norm before clipping as
    `"gradient_norm"`. The norm of bfloat16 and float16 gradients is computed in float32. `optax.clip_by_global_norm`,
    as a part of the optimizer, computes it in the gradient's own dtype, which loses thousands of small squares.

    With `optax.MultiSteps` it clips the gradient of each batch, not their mean. To clip the mean, put
    `optax.clip_by_global_norm` into the optimizer that `MultiSteps` wraps.

    Args:
      max_norm: the largest norm of the gradient, above 0.

    Raises:
      ValueError: `max_norm` is not above 0.

    Example:
      >>> callbacks = [jl.callbacks.clip_by_global_norm(1.0)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """
    norm = real_number("clip_by_global_norm: `max_norm`", max_norm)
    if not norm > 0:
        raise ValueError(f"clip_by_global_norm: `max_norm` must be above 0, got {max_norm}.")
    return _Clip(norm)


@dataclass(frozen=True)
class _Clip:
    """The callback of `clip_by_global_norm`."""

    max_norm: float
    __name__ = "clip_by_global_norm.clip"

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is not Event.UPDATE_START:
            return loop
        norm = global_norm(loop.gradient)
        scale = self.max_norm / jnp.maximum(norm, self.max_norm)  # exactly 1 for a small norm, also for a norm of 0
        gradient = jax.tree.map(lambda leaf: _scaled(leaf, scale), loop.gradient)
        return loop.record("gradient_norm", norm).replace(gradient=gradient)


def _scaled(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    wide = widened(leaf)
    return (wide * scale.astype(wide.dtype)).astype(leaf.dtype)
