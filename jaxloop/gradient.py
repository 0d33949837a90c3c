"""The gradient of the batch's mean loss, as pure functions of a loop. No I/O."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.forward import forward, with_loss, with_model_state
from jaxloop.loop import FIELDS, Loop
from jaxloop.losses import weighted_mean
from jaxloop.model import overwritten_state
from jaxloop.shardings import with_parameters
from jaxloop.step_spec import StepSpec

Changes = dict[str, Any]


class Variables(NamedTuple):
    """What the loss is differentiated by, or the gradient by each.

    Attributes:
      params: the model's parameters.
      overwritten: entries of the model's state that the step replaces by their gradients; see `Model.from_linen`.
    """

    params: Any
    overwritten: dict[str, Any]


#: From variables, and a loop in training with its batch, to the mean loss float[] and what the forward pass changes.
MeanLoss = Callable[[Variables, Loop], tuple[jax.Array, Changes]]


def differentiate(spec: StepSpec, loop: Loop) -> Loop:
    """Forward pass, loss and gradient: sets `output`, `loss`, `gradient` and the model's `state`."""
    variables = Variables(loop.model.params, overwritten_state(loop.model))
    _, changes, gradient = value_and_gradient(functools.partial(mean_loss, spec), variables, loop)
    in_place = with_parameters(spec.placement, loop.model, gradient.params)
    loop = with_changes(loop.replace(gradient=in_place), changes)
    return with_model_state(loop, loop.model.state | gradient.overwritten) if gradient.overwritten else loop


def value_and_gradient(
    mean_loss_fn: MeanLoss, variables: Variables, loop: Loop
) -> tuple[jax.Array, Changes, Variables]:
    """The mean loss of the batch at hand, what its forward pass changes, and the gradient.

    Every gradient of a step is taken here: the one that the optimizer is given, and those that it asks for besides.

    Args:
      mean_loss_fn: what is differentiated, by its first argument.
      variables: where.
      loop: in training, with the batch.
    """
    differentiated: Any = jax.value_and_grad(mean_loss_fn, has_aux=True)  # pyright: ignore[reportUnknownMemberType] JAX's
    (value, changes), gradient = differentiated(variables, loop)
    return value, changes, Variables(_rising(gradient.params), gradient.overwritten)


def mean_loss(spec: StepSpec, variables: Variables, loop: Loop) -> tuple[jax.Array, Changes]:
    """The mean loss of the batch at hand in training, and what the forward pass changes in the loop."""
    after = passed(spec, variables, loop)
    return weighted_mean(after.loss, loop.weight), changes_between(loop, after)


def passed(spec: StepSpec, variables: Variables, loop: Loop) -> Loop:
    """The loop after forward pass and loss of the batch at hand in training, with these variables."""
    model = loop.model.replace(params=variables.params)
    if variables.overwritten:
        model = model.replace(state=model.state | variables.overwritten)
    return with_loss(spec, forward(spec, model, loop))


def changes_between(old: Loop, new: Loop) -> Changes:
    """The fields of `new` that are not the same objects as in `old`.

    Of the model there is only the state: parameters are what is differentiated, and no pass changes them.
    """
    changed = [name for name in FIELDS if getattr(new, name) is not getattr(old, name)]
    return {name: new.model.state if name == "model" else getattr(new, name) for name in changed}


def with_changes(loop: Loop, changes: Changes) -> Loop:
    """The loop with fields as `changes_between` gives them."""
    fields = dict(changes)
    state = fields.pop("model", loop.model.state)
    return with_model_state(loop.replace(**fields), state)


def _rising(gradient: Any) -> Any:
    """The gradient in the direction in which the loss rises; for complex parameters `jax.grad` gives its conjugate."""

    def rising(leaf: Any) -> Any:
        return leaf.conj() if jnp.iscomplexobj(leaf) else leaf

    return jax.tree.map(rising, gradient)
