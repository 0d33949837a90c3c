"""The forward pass of the batch at hand, its loss and its gradient, as pure functions of a loop. No I/O."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.events import Phase
from jaxloop.loop import FIELDS, Loop
from jaxloop.losses import weighted_mean
from jaxloop.masks import with_stand_ins, without_wild
from jaxloop.model import overwritten_state
from jaxloop.optimizer import asked_for, known_in_step
from jaxloop.step_spec import StepSpec


def hold(loop: Loop, batch: tuple[Any, ...]) -> Loop:
    """The loop with the batch at hand."""
    return loop.replace(**dict(zip(("input", "target", "weight"), batch, strict=True)))


def differentiate(spec: StepSpec, loop: Loop) -> Loop:
    """Forward pass, loss and gradient: sets `output`, `loss`, `gradient` and the model's `state`."""
    mean_loss = functools.partial(_mean_loss, spec, loop)
    old = overwritten_state(loop.model)
    (gradient, new), changed = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(loop.model.params, old)
    gradient = _rising(gradient)
    state = changed.pop("model")
    return with_model_state(loop.replace(gradient=gradient, **changed), state | new if new else state)


def _rising(gradient: Any) -> Any:
    """The gradient in the direction in which the loss rises: of complex parameters `jax.grad` gives its conjugate."""
    return jax.tree.map(lambda leaf: leaf.conj() if jnp.iscomplexobj(leaf) else leaf, gradient)


def _mean_loss(
    spec: StepSpec, loop: Loop, params: Any, overwritten: Mapping[str, Any] = MappingProxyType({})
) -> tuple[jax.Array, dict[str, Any]]:
    """The mean loss of the batch at hand in training, and what the loop's fields become; of the model, its state."""
    model = loop.model.replace(params=params, training=True)
    model = model.replace(state=model.state | overwritten) if overwritten else model
    if spec.differentiable_step is None:
        output, model = model.forward(loop.input, loop.step_key("model"))
        after = loop.replace(output=output, model=model)
        after = after.replace(loss=_masked_loss(spec, after))
    else:
        loss, after = spec.differentiable_step(model, loop)
        after = after.replace(loss=loss)
    changed = {name: getattr(after, name) for name in FIELDS if getattr(after, name) is not getattr(loop, name)}
    changed["model"] = after.model.state
    return weighted_mean(after.loss, loop.weight), changed


def predict(spec: StepSpec, loop: Loop) -> Loop:
    """Forward pass in inference mode: sets `output`; a `differentiable_step` sets `loss` too."""
    model = loop.model.replace(training=False)
    if spec.differentiable_step is None:
        return loop.replace(output=model.forward(loop.input, loop.step_key("model"))[0])
    loss, after = spec.differentiable_step(model, loop)
    return after.replace(loss=loss, model=loop.model)


def evaluation_loss(spec: StepSpec, loop: Loop) -> Loop:
    """Sets `loss` from the output, unless a `differentiable_step` has done so."""
    return loop if spec.differentiable_step is not None else loop.replace(loss=_loss(spec, loop))


def with_model_state(loop: Loop, state: Any) -> Loop:
    """The loop whose model holds `state`."""
    return loop.replace(model=loop.model.replace(state=state))


def left_behind(spec: StepSpec, before: Loop, after: Loop) -> dict[str, Any]:
    """What the optimizer may ask for and `differentiate`, or a callback behind it, has replaced.

    Args:
      spec: what the step is made of.
      before: the loop that was differentiated.
      after: the same with its gradient.
    """
    if not asked_for(spec.optimizer):
        return {}
    changed = [name for name in FIELDS if getattr(after, name) is not getattr(before, name)]
    fields = {name: before.model.state if name == "model" else getattr(before, name) for name in changed}
    return {"fields": fields, "gradient": after.gradient}


def known_of(spec: StepSpec, loop: Loop, behind: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer may ask for. The functions run the batch again from the loop before, and leave no change."""
    fields = dict(behind["fields"])
    state = fields.pop("model", loop.model.state)
    again = with_model_state(loop.replace(**fields), state)

    def loss_at(params: Any) -> jax.Array:
        return _mean_loss(spec, again, params)[0]

    return known_in_step(
        weighted_mean(loop.loss, loop.weight),
        behind["gradient"],
        loss_at,
        lambda params: _rising(jax.grad(loss_at)(params)),
        functools.partial(_example_gradients, spec, again),
    )


def _example_gradients(spec: StepSpec, loop: Loop, params: Any) -> Any:
    """The gradient of each example by itself, as a batch of one under a key of its own: a leading axis of examples."""

    def of_one(index: Any, batch: Any) -> Any:
        alone = hold(loop, jax.tree.map(lambda leaf: leaf[None], batch))
        alone = alone.replace(key=jax.random.fold_in(loop.key, index))
        return _rising(jax.grad(lambda params: _mean_loss(spec, alone, params)[0])(params))

    batch = (loop.input, loop.target, loop.weight)
    return jax.vmap(of_one)(jnp.arange(jax.tree.leaves(batch)[0].shape[0]), batch)


def _loss(spec: StepSpec, loop: Loop) -> jax.Array:
    assert spec.loss_fn is not None
    return spec.loss_fn(loop.output, loop.target)


def _masked_loss(spec: StepSpec, loop: Loop) -> jax.Array:
    """The loss, whose gradient knows nothing of what weighs nothing; a scalar cannot be masked."""
    assert spec.loss_fn is not None
    if loop.weight is None or not jax.eval_shape(spec.loss_fn, loop.output, loop.target).ndim:
        return _loss(spec, loop)
    output, target = with_stand_ins((loop.output, loop.target), loop.weight)
    return _loss(spec, loop.replace(output=output, target=target))


def cleaned(spec: StepSpec, loop: Loop) -> Loop:
    """The loop without what is not finite and weighs nothing in the input, and in the target where a step takes it.

    In evaluation nothing is differentiated, and examples are taken each by itself, as padding has it, but not tokens.
    """
    if loop.weight is None or (loop.phase is Phase.VALIDATION and jnp.ndim(loop.weight) < 2):
        return loop
    loop = loop.replace(input=without_wild(loop.input, loop.weight))
    if spec.differentiable_step is None:
        return loop
    return loop.replace(target=without_wild(loop.target, loop.weight))
