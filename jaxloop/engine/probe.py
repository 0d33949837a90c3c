"""One abstract trace of a whole fit, before anything is compiled: what callbacks record, and where they act."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback, name_of
from jaxloop.engine.traced import TracedStep, traced_step
from jaxloop.events import Event, Phase
from jaxloop.loop import Loop
from jaxloop.phases import enter, leave_phase
from jaxloop.steps import Parts


@dataclass(frozen=True)
class Findings:
    """What an abstract trace shows.

    Attributes:
      stats: every name in `loop.stats` by the end.
      acts: each compiled callback by its place, with each event at which it does something.
      maskable: whether the loss in evaluation is one per example or token, so that padding can be masked.
      output: shape and dtype of what the model gives for the first batch, None where that is not known.
      cancels: the phases in whose steps a compiled callback can cancel; both where that is not known.
    """

    stats: frozenset[str]
    acts: frozenset[tuple[int, Event]]
    maskable: bool
    output: Any = None
    cancels: frozenset[Phase] = frozenset(Phase)

    @property
    def active(self) -> frozenset[Event]:
        """The events between steps at which a compiled callback does something."""
        return frozenset(event for _, event in self.acts if not event.in_step)


def probe(
    parts: Parts, loop: Loop, batch: Any | None, validation_batch: Any | None
) -> tuple[Findings, dict[Phase, TracedStep]]:
    """Traces one epoch with one step in each phase that has a batch, callbacks included. Nothing runs on a device.

    Errors in callbacks, model or loss that tracing can show come from here, before the first compile. Without a
    training batch, as for an evaluation, no epoch begins or ends; without one of validation, its statistics, which
    nothing will measure, are not there for callbacks to wait for.

    Returns:
      What that shows, and the step of each phase.
    """
    acts: set[tuple[int, Event]] = set()
    steps: dict[Phase, TracedStep] = {}
    seen: dict[Phase, tuple[Any, Any]] = {}
    owners: dict[tuple[str, str], int] = {}
    owned = [_owning(place, parts.callbacks, owners, acts) for place in range(len(parts.callbacks))]
    parts = replace(parts, new_stats=True, callbacks=(*owned, _looking(seen)))

    def fired(loop: Loop, *events: Event) -> Loop:
        return jax.eval_shape(lambda loop: functools.reduce(parts.fire, events, loop), loop)

    def one_phase(loop: Loop, phase: Phase, batch: Any) -> Loop:
        loop = jax.eval_shape(lambda loop: parts.fire(enter(parts, loop, phase, np.int32(1)), phase.start), loop)
        steps[phase] = traced_step(parts, loop, batch)
        return jax.eval_shape(lambda loop: leave_phase(parts.fire(loop, phase.end)), steps[phase].result)

    if validation_batch is None:
        unmeasured = {Phase.VALIDATION.stat(metric.name) for metric in parts.metrics}
        loop = loop.replace(stats={name: value for name, value in loop.stats.items() if name not in unmeasured})

    loop = fired(loop, Event.FIT_START)
    if batch is not None:
        loop = one_phase(fired(loop, Event.EPOCH_START), Phase.TRAINING, batch)
    if validation_batch is not None:
        loop = one_phase(loop, Phase.VALIDATION, validation_batch)
    if batch is not None:
        loop = fired(loop, Event.EPOCH_END, Event.FIT_END)
    maskable = bool(seen[Phase.VALIDATION][1].ndim) if Phase.VALIDATION in seen else False
    output = next(iter(seen.values()))[0] if seen else None
    cancels = frozenset(phase for phase, step in steps.items() if not step.counts)
    return Findings(frozenset(loop.stats), frozenset(acts), maskable, output, cancels), steps


def _owning(
    place: int,
    callbacks: tuple[Callback, ...],
    owners: dict[tuple[str, str], int],
    acts: set[tuple[int, Event]],
) -> Callback:
    """The callback at `place`, watched.

    Args:
      place: of the callback among `callbacks`.
      callbacks: all of them.
      owners: is filled with whose each name is that is recorded or remembered under.
      acts: is filled with the place and each event at which the callback does something.

    Raises:
      ValueError: two callbacks write one name.
    """
    callback = callbacks[place]

    def watched(loop: Loop, event: Event) -> Loop:
        after = callback(loop, event)
        if after is not loop:
            acts.add((place, event))
        if not isinstance(after, Loop):
            return after
        for field, verb in (("stats", "record"), ("callback_state", "remember")):
            before_names, after_names = getattr(loop, field), getattr(after, field)
            for name in after_names:
                if after_names[name] is before_names.get(name):
                    continue
                owner = owners.setdefault((field, name), place)
                if owner != place:
                    raise ValueError(
                        f"callbacks: {name_of(callbacks[owner])!r} and {name_of(callback)!r} both {verb} {name!r}, and "
                        "would overwrite each other. Leave one out, or give it another name."
                    )
        return after

    watched.__name__ = watched.__qualname__ = name_of(callback)
    return watched


def _looking(seen: dict[Phase, tuple[Any, Any]]) -> Callback:
    """A callback that changes nothing, and notes the output and the loss of each phase's step.

    Raises:
      ValueError: the loss is neither a scalar nor one per example.
    """

    def look(loop: Loop, event: Event) -> Loop:
        if event not in (Event.UPDATE_START, Event.BATCH_END) or loop.phase is None:
            return loop
        examples = jax.tree.leaves(loop.input)[0].shape[0]
        if jnp.ndim(loop.loss) and loop.loss.shape[0] != examples:
            raise ValueError(
                f"loss_fn: its shape must be () or begin with the batch's {examples} examples, got "
                f"{list(loop.loss.shape)}. Give one loss per example or token; jaxloop takes the mean."
            )
        seen[loop.phase] = loop.output, loop.loss
        return loop

    return look
