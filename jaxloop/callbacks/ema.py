"""An exponential moving average of the parameters. Evaluation may use it in their place."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.callback import Callback
from jaxloop.events import Event, Phase, should_run
from jaxloop.loop import Loop
from jaxloop.precision import wide_dtype
from jaxloop.real_number import real_number

_EVALUATED = "evaluated_average"


def ema(decay: float, *, evaluate: bool = False, debias: bool = True, name: str = "ema") -> Callback:
    """Keeps an exponential moving average of the parameters, and moves it at the end of each update.

    After update t, counted from 1, `average += w (params - average)` with `w = (1 - decay) / (1 - decay**t)`. This is
    the mean of the parameters after each update so far, weighted by `decay**age`, as `optax.ema` gives it. With
    `debias=False` it is `w = 1 - decay`, as in `optax.incremental_update`. Then the parameters that the run began with
    count too, and a short run never forgets them. Polyak, Juditsky: Acceleration of stochastic approximation by
    averaging, 1992; the correction is Adam's (Kingma, Ba, 2015).

    The average and the count of updates last from fit to fit. A cancelled batch does not move the average. Nor does a
    batch at whose BATCH_END an earlier callback in the list cancels anything: put `ema` before such a callback.
    Parameters of less than 32 bits are averaged in float32, which keeps small steps, and take the memory of one more
    copy. The model's state, such as batch statistics, is not averaged. With `optax.MultiSteps` every batch counts as an
    update.

    The averaged model:

    >>> averaged = loop.model.replace(params=loop.callback_state["ema"]["average"])

    Args:
      decay: how much of the average an update keeps, above 0 and below 1: 0.999 averages about 1,000 updates.
      evaluate: whether validation, `evaluate` and `predict` run on the average. It is then `loop.model.params` from
        BATCH_START to BATCH_END of each of their steps. Between steps the model is always the trained one.
        `early_stopping(restore_best=True)` then restores the average of the best epoch together with the parameters.
      debias: whether the average leaves out the parameters before the first update.
      name: the key in `loop.callback_state`; a second average needs its own.

    Raises:
      ValueError: `decay` is not between 0 and 1. When a fit begins: two averages are to be evaluated.

    Example:
      >>> callbacks = [jl.callbacks.ema(0.999, evaluate=True)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """
    share = real_number("ema: `decay`", decay)
    if not 0 < share < 1:
        raise ValueError(f"ema: `decay` must be above 0 and below 1, got {decay}. 0.999 averages about 1,000 updates.")
    return _Average(share, evaluate, debias, name)


@dataclass(frozen=True)
class _Average:
    """The callback of `ema`."""

    decay: float
    evaluate: bool
    debias: bool
    name: str
    __name__ = "ema"

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            loop = _evaluated_alone(loop, self.name) if self.evaluate else loop
            return _with_room(loop, self.name, self.evaluate)
        if event is Event.BATCH_END and loop.phase is Phase.TRAINING:
            return _moved(loop, self.name, self.decay, self.debias)
        if self.evaluate and loop.phase is Phase.VALIDATION and event in (Event.BATCH_START, Event.BATCH_END):
            return _exchanged(loop, self.name, back=event is Event.BATCH_END)
        return loop


def _with_room(loop: Loop, name: str, evaluate: bool) -> Loop:
    """The loop that remembers the average, its count of updates, and the parameters narrower than their average."""
    params = loop.model.params
    memory = {"average": jax.tree.map(_wide, params), "updates": 0, "set_aside": _narrow(params)}
    return loop.remember(name, memory, lasting=True, evaluated=evaluate)


def _evaluated_alone(loop: Loop, name: str) -> Loop:
    """The loop that remembers which average is evaluated.

    Raises:
      ValueError: another average is evaluated too.
    """
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
    # expm1, since 1 - decay**t would lose most of its digits for a decay near 1.
    weight = (1 - decay) / -jnp.expm1(age * math.log(decay)) if debias else jnp.full((), 1 - decay, age.dtype)
    counts = should_run(loop.stop, loop.phase)

    def moved(old: Any, param: Any) -> Any:
        return jnp.where(counts, old + weight.astype(old.dtype) * (param.astype(old.dtype) - old), old)

    average = jax.tree.map(moved, memory["average"], loop.model.params)
    return _with_memory(loop, name, average=average, updates=jnp.where(counts, updates, memory["updates"]))


def _exchanged(loop: Loop, name: str, *, back: bool) -> Loop:
    """The loop with parameters and average swapped.

    A swap needs no copy where both have one dtype. A narrow parameter cannot hold its wide average: it is kept in
    `set_aside` meanwhile, and the model gets the average rounded to the narrow dtype.
    """
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
    """The leaves whose average has a wider dtype."""
    return [leaf for leaf in jax.tree.leaves(params) if wide_dtype(leaf.dtype) != leaf.dtype]
