"""What an optimizer's update may ask for beside the gradient, computed again from the batch. No I/O."""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.forward import hold
from jaxloop.gradient import Changes, changes_between, with_changes
from jaxloop.loop import Loop
from jaxloop.losses import weighted_mean
from jaxloop.microbatches import gradient_at, loss_at
from jaxloop.optimizer import asked_for, known_in_step
from jaxloop.step_spec import StepSpec


class Saved(NamedTuple):
    """What must outlive the gradient so that the batch can be run again.

    Attributes:
      fields: those fields of the loop before the forward pass that have changed since.
      gradient: as it was before any callback changed it.
    """

    fields: Changes
    gradient: Any


def save(spec: StepSpec, before: Loop, after: Loop) -> Saved | None:
    """What `extra_args` will need of the loop before and after `differentiate`; None if the optimizer asks for nothing.

    Args:
      spec: what the step is made of.
      before: the loop that was differentiated.
      after: the same with its gradient.
    """
    if not asked_for(spec.optimizer):
        return None
    return Saved(changes_between(after, before), after.gradient)


def extra_args(spec: StepSpec, loop: Loop, saved: Saved | None) -> dict[str, Any]:
    """What the optimizer may ask for, by name; the functions among it run the batch again, and change nothing.

    Args:
      spec: what the step is made of.
      loop: at the update; callbacks may have changed it.
      saved: what `save` gave in this step.
    """
    if saved is None:
        return {}
    again = with_changes(loop, saved.fields)
    value = weighted_mean(loop.loss, loop.weight)

    def loss(params: Any) -> jax.Array:
        return loss_at(spec, params, again)

    def gradient(params: Any) -> Any:
        return gradient_at(spec, params, again)

    return known_in_step(value, saved.gradient, loss, gradient, functools.partial(_example_gradients, spec, again))


def _example_gradients(spec: StepSpec, loop: Loop, params: Any) -> Any:
    """The gradient of each example by itself, as a batch of one under a key of its own: a leading axis of examples."""
    alone = replace(spec, accumulate=1)

    def of_one(index: Any, batch: Any) -> Any:
        one = hold(loop, jax.tree.map(_as_batch, batch))
        return gradient_at(alone, params, one.replace(key=jax.random.fold_in(loop.key, index)))

    batch = (loop.input, loop.target, loop.weight)
    count = jax.tree.leaves(batch)[0].shape[0]
    indices = jnp.arange(count)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open
    return jax.vmap(of_one)(indices, batch)


def _as_batch(example: Any) -> Any:
    return example[None]
