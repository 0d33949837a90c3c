"""One abstract trace of a whole fit, before anything is compiled: what callbacks record, and where they act."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxloop.events import Event, Phase
from jaxloop.loop import Loop
from jaxloop.phases import enter, leave_phase
from jaxloop.steps import Parts, evaluation_loss, hold, predict, step


@dataclass(frozen=True)
class Findings:
    """What an abstract trace shows.

    Attributes:
      stats: every name in `loop.stats` by the end.
      active: the events between steps at which a compiled callback does something.
      maskable: whether the loss in evaluation is one per example or token, so that padding can be masked.
    """

    stats: frozenset[str]
    active: frozenset[Event]
    maskable: bool


def probe(parts: Parts, loop: Loop, batch: Any | None, validation_batch: Any | None) -> Findings:
    """Traces one epoch with one step in each phase that has a batch, callbacks included. Nothing runs on a device.

    Errors in callbacks, model or loss that tracing can show come from here, before the first compile.
    """
    parts = replace(parts, new_stats=True)
    active: set[Event] = set()

    def fire(loop: Loop, event: Event) -> Loop:
        after = parts.fire(loop, event)
        if after is not loop:
            active.add(event)
        return after

    def one_phase(loop: Loop, phase: Phase, batch: Any) -> Loop:
        loop = fire(enter(parts, loop, phase, np.int32(1)), phase.start)
        return leave_phase(fire(step(parts, loop, batch)[0], phase.end))

    def fit(loop: Loop, batch: Any, validation_batch: Any) -> Loop:
        loop = fire(fire(loop, Event.FIT_START), Event.EPOCH_START)
        if batch is not None:
            loop = one_phase(loop, Phase.TRAINING, batch)
        if validation_batch is not None:
            loop = one_phase(loop, Phase.VALIDATION, validation_batch)
        return fire(fire(loop, Event.EPOCH_END), Event.FIT_END)

    after = jax.eval_shape(fit, loop, batch, validation_batch)
    maskable = validation_batch is not None and _maskable(parts, loop, validation_batch)
    return Findings(frozenset(after.stats), frozenset(active), maskable)


def _maskable(parts: Parts, loop: Loop, batch: Any) -> bool:
    def loss(loop: Loop, batch: Any) -> Any:
        return evaluation_loss(parts, predict(parts, hold(loop, batch))).loss

    return jax.eval_shape(loss, loop.replace(phase=Phase.VALIDATION), batch).ndim > 0
