"""The forward pass of the batch at hand, from input to loss, as pure functions of a loop. No I/O."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.blame import checked_loss, kinds_of, located
from jaxloop.broadcasting import check_spread
from jaxloop.casting import in_dtype, narrowed, restored
from jaxloop.events import Phase
from jaxloop.loop import Loop
from jaxloop.masks import with_stand_ins, without_wild
from jaxloop.model import Model
from jaxloop.shardings import gathered
from jaxloop.step_spec import DifferentiableStep, LossFn, StepSpec


class ForwardPass(NamedTuple):
    """How a batch goes through the model, in two halves: in evaluation INFERENCE_PREDICTION_END comes between them.

    Attributes:
      to_output: from the model to use, and the loop, to the loop with `output` and with the model that the pass leaves.
      to_loss: from that loop to the loop with `loss`; does nothing if the first half has set it.
      takes_target: whether the first half is given the target too.
    """

    to_output: Callable[[Model, Loop], Loop]
    to_loss: Callable[[Loop], Loop]
    takes_target: bool


def forward_pass(spec: StepSpec) -> ForwardPass:
    """The forward pass of a run: by the user's `differentiable_step`, or by the model and `loss_fn`."""
    if spec.differentiable_step is not None:
        return ForwardPass(functools.partial(_own_output_and_loss, spec.differentiable_step), _unchanged, True)
    assert spec.loss_fn is not None
    return ForwardPass(_model_output, functools.partial(_loss_of_output, spec), False)


def forward(spec: StepSpec, model: Model, loop: Loop) -> Loop:
    """The first half of the forward pass, in training and evaluation: sets `output`, and `model` to what it leaves.

    Args:
      spec: what the step is made of.
      model: what the batch goes through; its mode is that of the loop's phase.
      loop: in a phase, with a batch at hand.
    """
    model = gathered(spec.placement, model)
    to_output = forward_pass(spec).to_output
    model = model.replace(training=loop.phase is Phase.TRAINING)
    if spec.compute_dtype is None:
        return to_output(model, loop)
    return _in_dtype(spec.compute_dtype, to_output, model, loop)


def _in_dtype(dtype: Any, to_output: Callable[[Model, Loop], Loop], model: Model, loop: Loop) -> Loop:
    """`to_output(model, loop)` with parameters and input as `dtype`. Output and loss are float32, at least."""
    entering = loop.replace(input=narrowed(loop.input, dtype))
    if _spreads_wild(loop):  # what is finite may be infinite in narrow floats
        entering = loop.replace(input=without_wild(entering.input, loop.weight))
    after = to_output(in_dtype(model, dtype), entering)
    input = loop.input if after.input is entering.input else restored(after.input)
    return after.replace(input=input, output=restored(after.output), loss=restored(after.loss))


def with_loss(spec: StepSpec, loop: Loop) -> Loop:
    """The second half: sets `loss` from the output, unless a `differentiable_step` has done so."""
    return forward_pass(spec).to_loss(loop)


def predict(spec: StepSpec, loop: Loop) -> Loop:
    """The first half in evaluation, which leaves the model as it was."""
    return forward(spec, loop.model, loop).replace(model=loop.model)


def hold(loop: Loop, batch: tuple[Any, ...]) -> Loop:
    """The loop with the batch at hand."""
    return loop.replace(**dict(zip(("input", "target", "weight"), batch, strict=True)))


def cleaned(spec: StepSpec, loop: Loop) -> Loop:
    """The loop without what is not finite and weighs nothing, in whatever the model is given."""
    if not _spreads_wild(loop):
        return loop
    loop = loop.replace(input=without_wild(loop.input, loop.weight))
    if not forward_pass(spec).takes_target:
        return loop
    return loop.replace(target=without_wild(loop.target, loop.weight))


def _spreads_wild(loop: Loop) -> bool:
    """Whether what is not finite and weighs nothing could reach the rest.

    In evaluation nothing is differentiated, so a NaN stays in its own example, whose loss is masked: only the tokens
    of an example reach each other there.
    """
    return loop.weight is not None and (loop.phase is not Phase.VALIDATION or jnp.ndim(loop.weight) >= 2)


def with_model_state(loop: Loop, state: Any) -> Loop:
    """The loop whose model holds `state`."""
    return loop.replace(model=loop.model.replace(state=state))


def _own_output_and_loss(differentiable_step: DifferentiableStep, model: Model, loop: Loop) -> Loop:
    with located("differentiable_step", loop, loop.input):
        result = differentiable_step(model, loop)
    return _checked_step(result)


def _checked_step(result: Any) -> Loop:
    """The loop that a `differentiable_step` gave, with its loss.

    Raises:
      TypeError: it gave something else.
    """
    given: tuple[Any, ...] = tuple(result) if isinstance(result, (tuple, list)) else ()  # pyright: ignore
    if len(given) != 2 or not isinstance(given[1], Loop):
        raise TypeError(
            f"differentiable_step: it must return (loss, loop), got {kinds_of(result)}. End it with "
            "`return loss, loop.replace(output=output, model=model)`."
        )
    return given[1].replace(loss=checked_loss("differentiable_step", given[0]))


def _unchanged(loop: Loop) -> Loop:
    return loop


def _model_output(model: Model, loop: Loop) -> Loop:
    with located("the model", loop, loop.input):
        output, model = model.forward(loop.input, loop.step_key("model"))
    return loop.replace(output=output, model=model)


def _loss_of_output(spec: StepSpec, loop: Loop) -> Loop:
    output, target, loss_fn = loop.output, loop.target, spec.loss_fn
    assert loss_fn is not None
    if loop.phase is Phase.TRAINING and loop.weight is not None and _is_per_example(loop, loss_fn, output, target):
        # The gradient must know nothing of what weighs nothing. In evaluation masking the losses is enough.
        output, target = with_stand_ins((output, target), loop.weight, divided=spec.placement is not None)
    with located("loss_fn", loop, {"output": output, "target": target}):
        check_spread("loss_fn", loss_fn, output, target)
        loss = loss_fn(output, target)
    return loop.replace(loss=checked_loss("loss_fn", loss))


def _is_per_example(loop: Loop, loss_fn: LossFn, output: Any, target: Any) -> bool:
    """Whether there is one loss per example or token; a scalar cannot be masked."""
    with located("loss_fn", loop, {"output": output, "target": target}):
        loss = jax.eval_shape(loss_fn, output, target)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open
    return bool(checked_loss("loss_fn", loss).ndim)
