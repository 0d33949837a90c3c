"""An exponential moving average of the parameters, which evaluation may use in their place."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.callback import Callback
from jaxloop.events import Event, Phase, should_run
from jaxloop.loop import Loop
from jaxloop.precision import wide_dtype

_EVALUATED = "evaluated_average"


def ema(decay: float, *, evaluate: bool = False, debias: bool = True, name: str = "ema") -> Callback:
    """Keeps an exponential moving average of the parameters, moved at the end of each update.

    After update t, counted from 1, `average += w (params - average)` with `w = (1 - decay) / (1 - decay**t)`: the
    mean of the parameters behind each update so far, of weight `decay**age`, as `optax.ema` gives it. With
    `debias=False` it is `w = 1 - decay`, as in `optax.incremental_update`, and the parameters that the run began with
    count too, which a short run never forgets. Polyak, Juditsky: Acceleration of stochastic approximation by
    averaging, 1992; the correction is Adam's (Kingma, Ba, 2015).

    The average and the count of updates last from fit to fit. A batch that was cancelled does not move it, nor does one
    at whose BATCH_END a callback earlier in the list cancels something: put `ema` before such. Parameters of less than
    32 bits are averaged in float32, where small steps are not lost, and take the room of a copy besides. The model's
    state, such as batch statistics, is not averaged. With `optax.MultiSteps` every batch counts as an update.

    The averaged model:

    >>> averaged = loop.model.replace(params=loop.callback_state["ema"]["average"])

    Args:
      decay: how much of the average an update leaves, above 0 and below 1: 0.999 averages about 1,000 updates.
      evaluate: whether validation, `evaluate` and `predict` run on the average, which then is `loop.model.params`
        from BATCH_START to BATCH_END of each of their steps; between steps the model is always the trained one.
        `early_stopping(restore_best=True)` then brings back the average of the best epoch with the parameters.
      debias: whether the average forgets at once what the parameters were before the first update.
      name: in `loop.callback_state`; a second average needs its own.

    Raises:
      ValueError: `decay` is not between 0 and 1. When a fit begins: two averages are to be evaluated.

    Example:
      >>> jl.TrainingLoop(..., callbacks=[jl.callbacks.ema(0.999, evaluate=True)])
    """
    if not 0 < decay < 1:
        raise ValueError(f"ema: `decay` must be above 0 and below 1, got {decay}. 0.999 averages about 1,000 updates.")
    decay = float(decay)  # a NumPy number has a dtype, which could become the average's

    def average(loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            return _with_room(_evaluated_alone(loop, name) if evaluate else loop, name, evaluate)
        if event is Event.BATCH_END and loop.phase is Phase.TRAINING:
            return _moved(loop, name, decay, debias)
        if evaluate and loop.phase is Phase.VALIDATION and event in (Event.BATCH_START, Event.BATCH_END):
            return _exchanged(loop, name, back=event is Event.BATCH_END)
        return loop

    return average


def _with_room(loop: Loop, name: str, evaluate: bool) -> Loop:
    """The loop that remembers the average, the updates in it, and parameters narrower than their average."""
    params = loop.model.params
    memory = {"average": jax.tree.map(_wide, params), "updates": 0, "set_aside": _narrow(params)}
    return loop.remember(name, memory, lasting=True, evaluated=evaluate)


def _evaluated_alone(loop: Loop, name: str) -> Loop:
    loop = loop.remember(_EVALUATED, {name: ()}, evaluated=True)
    others = sorted(set(loop.callback_state[_EVALUATED]) - {name})
    if others:
        raise ValueError(
            f"ema: an evaluation runs on one set of weights, but both {others[0]!r} and {name!r} are to be evaluated. "
            "Leave `evaluate=True` to one of them."
        )
    return loop


def _moved(loop: Loop, name: str, decay: float, debias: bool) -> Loop:
    """The loop whose average has moved towards the parameters, if the step counts."""
    memory = _memory(loop, name)
    updates = memory["updates"] + 1
    age = updates.astype(jnp.result_type(float))
    weight = (1 - decay) / -jnp.expm1(age * math.log(decay)) if debias else jnp.full((), 1 - decay, age.dtype)
    counts = should_run(loop.stop, loop.phase)

    def moved(old: Any, param: Any) -> Any:
        return jnp.where(counts, old + weight.astype(old.dtype) * (param.astype(old.dtype) - old), old)

    average = jax.tree.map(moved, memory["average"], loop.model.params)
    return _with_memory(loop, name, average=average, updates=jnp.where(counts, updates, memory["updates"]))


def _exchanged(loop: Loop, name: str, *, back: bool) -> Loop:
    """The loop with parameters and average in each other's place; what is too wide for that goes by way of a copy."""
    memory = _memory(loop, name)
    average, tree = jax.tree.flatten(memory["average"])
    pairs = list(zip(average, jax.tree.leaves(loop.model.params), strict=True))
    waiting = iter(memory["set_aside"])
    params = [
        wide if wide.dtype == param.dtype else next(waiting) if back else wide.astype(param.dtype)
        for wide, param in pairs
    ]
    average = [param if wide.dtype == param.dtype else wide for wide, param in pairs]
    set_aside = memory["set_aside"] if back else _narrow(loop.model.params)
    loop = _with_memory(loop, name, average=jax.tree.unflatten(tree, average), set_aside=set_aside)
    params = jax.tree.unflatten(jax.tree.structure(loop.model.params), params)
    return loop.replace(model=loop.model.replace(params=params))


def _memory(loop: Loop, name: str) -> dict[str, Any]:
    if name not in loop.callback_state:
        raise ValueError(
            f"ema: the loop holds no average {name!r}, which is made at FIT_START. Give a loop that was fitted with "
            "this callback, or a model."
        )
    return loop.callback_state[name]


def _with_memory(loop: Loop, name: str, **changes: Any) -> Loop:
    return loop.replace(callback_state=loop.callback_state | {name: loop.callback_state[name] | changes})


def _wide(param: Any) -> jax.Array:
    return jnp.asarray(param, wide_dtype(param.dtype))


def _narrow(params: Any) -> list[Any]:
    """The leaves whose average has another dtype."""
    return [leaf for leaf in jax.tree.leaves(params) if wide_dtype(leaf.dtype) != leaf.dtype]
