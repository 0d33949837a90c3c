"""One abstract trace of a whole fit, before anything is compiled: what callbacks record, and where they act."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback, name_of
from jaxloop.events import Event, Phase
from jaxloop.loop import Loop
from jaxloop.measured import is_wider, unmeasured
from jaxloop.phases import enter, leave_phase
from jaxloop.programs.step_trace import TracedStep, calls_python, traced_step
from jaxloop.step_spec import StepSpec


@dataclass(frozen=True)
class TraceReport:
    """What an abstract trace shows.

    Attributes:
      stats: every name in `loop.stats` by the end, with its dtype.
      acts: each compiled callback by its place, with each event at which it does something.
      maskable: whether the loss in evaluation is one per example or token, so that padding can be masked.
      output: shape and dtype of what the model gives for the first batch, None where that is not known.
      cancels: the phases in whose steps a compiled callback can cancel; both where that is not known.
      examples: how many there are in a batch of each phase, where its loss is one per example or token.
      raises: the phases whose steps call Python while they run, and so can raise.
      effects: the events between steps at which a compiled callback prints or calls Python.
    """

    stats: Mapping[str, np.dtype]
    acts: frozenset[tuple[int, Event]]
    maskable: bool
    output: Any = None
    cancels: frozenset[Phase] = frozenset(Phase)
    examples: Mapping[Phase, int] = dataclasses.field(default_factory=dict)
    raises: frozenset[Phase] = frozenset()
    effects: frozenset[Event] = frozenset()

    @property
    def active(self) -> frozenset[Event]:
        """The events between steps at which a compiled callback does something."""
        return self.effects.union(event for _, event in self.acts if not event.in_step)


def trace_fit(
    spec: StepSpec, loop: Loop, batch: Any | None, validation_batch: Any | None
) -> tuple[TraceReport, dict[Phase, TracedStep]]:
    """Traces one epoch with one step in each phase that has a batch, callbacks included. Nothing runs on a device.

    Errors in callbacks, model or loss that tracing can show come from here, before the first compile. Without a
    training batch, as for an evaluation, no epoch begins or ends; without one of validation, its statistics, which
    nothing will measure, are not there for callbacks to wait for.

    Returns:
      What that shows, and the step of each phase.
    """
    widened: dict[str, np.dtype] = {}
    while True:
        try:
            return _traced_fit_(spec, loop, batch, validation_batch, widened)
        except _Widened as found:
            widened[found.name] = found.dtype


class _Widened(Exception):
    """A statistic was recorded in another dtype, after one that it cannot stay in: it has the wider one everywhere."""

    def __init__(self, name: str, dtype: np.dtype):
        super().__init__(name, dtype)
        self.name = name
        self.dtype = dtype


def _traced_fit_(
    spec: StepSpec, loop: Loop, batch: Any | None, validation_batch: Any | None, widened: Mapping[str, np.dtype]
) -> tuple[TraceReport, dict[Phase, TracedStep]]:
    """As `trace_fit`, with room from the start for the statistics in `widened`."""
    acts: set[tuple[int, Event]] = set()
    steps: dict[Phase, TracedStep] = {}
    seen: dict[Phase, tuple[Any, Any]] = {}
    owners: dict[tuple[str, str], int] = {}
    effects: set[Event] = set()
    owned = [_owning(place, spec.callbacks, owners, acts, widened) for place in range(len(spec.callbacks))]
    spec = replace(spec, new_stats=True, callbacks=(*owned, _looking(seen)))

    def fired(loop: Loop, event: Event, before: Callable[[Loop], Loop] = lambda loop: loop) -> Loop:
        traced, loop = jax.make_jaxpr(lambda loop: spec.fire(before(loop), event), return_shape=True)(loop)
        if traced.effects:
            effects.add(event)
        return loop

    def one_phase(loop: Loop, phase: Phase, batch: Any) -> Loop:
        loop = fired(loop, phase.start, lambda loop: enter(spec, loop, phase, np.int32(1)))
        steps[phase] = traced_step(spec, loop, batch)
        return jax.eval_shape(leave_phase, fired(steps[phase].result, phase.end))

    if validation_batch is None:
        without = {Phase.VALIDATION.stat(metric.name) for metric in spec.metrics}
        loop = loop.replace(stats={name: value for name, value in loop.stats.items() if name not in without})

    room = {name: unmeasured(dtype) for name, dtype in widened.items()}
    loop = fired(loop.replace(stats=loop.stats | room), Event.FIT_START)
    if batch is not None:
        loop = one_phase(fired(loop, Event.EPOCH_START), Phase.TRAINING, batch)
    if validation_batch is not None:
        loop = one_phase(loop, Phase.VALIDATION, validation_batch)
    if batch is not None:
        loop = fired(fired(loop, Event.EPOCH_END), Event.FIT_END)
    maskable = bool(seen[Phase.VALIDATION][1].ndim) if Phase.VALIDATION in seen else False
    output = next(iter(seen.values()))[0] if seen else None
    cancels = frozenset(phase for phase, step in steps.items() if not step.counts)
    trace = TraceReport(
        stats={name: value.dtype for name, value in loop.stats.items()},
        acts=frozenset(acts),
        maskable=maskable,
        output=output,
        cancels=cancels,
        examples={phase: loss.shape[0] for phase, (_, loss) in seen.items() if loss.ndim},
        raises=frozenset(phase for phase, step in steps.items() if calls_python(step.jaxpr)),
        effects=frozenset(effects),
    )
    return trace, steps


def _owning(
    place: int,
    callbacks: tuple[Callback, ...],
    owners: dict[tuple[str, str], int],
    acts: set[tuple[int, Event]],
    widened: Mapping[str, np.dtype],
) -> Callback:
    """The callback at `place`, watched.

    Args:
      place: of the callback among `callbacks`.
      callbacks: all of them.
      owners: is filled with whose each name is that is recorded or remembered under.
      acts: is filled with the place and each event at which the callback does something.
      widened: the statistics that are known to need another dtype than their first.

    Raises:
      ValueError: two callbacks write one name, or what evaluation depends on cannot be put back.
      _Widened: a statistic has become of another dtype.
    """
    callback = callbacks[place]
    copies = getattr(callback, "copies_memory", False)

    def watched(loop: Loop, event: Event) -> Loop:
        after = callback(loop, event)
        if after is not loop:
            acts.add((place, event))
        if not isinstance(after, Loop):
            return after
        for field, verb in (("stats", "record"), ("callback_state", "remember")):
            before_names, after_names = getattr(loop, field), getattr(after, field)
            for name in after_names:
                if after_names[name] is before_names.get(name) or (copies and name in loop.evaluated):
                    continue
                owner = owners.setdefault((field, name), place)
                if owner != place:
                    raise ValueError(
                        f"callbacks: {name_of(callbacks[owner])!r} and {name_of(callback)!r} both {verb} {name!r}, and "
                        "would overwrite each other. Leave one out, or give it another name."
                    )
        for name in after.stats.keys() & loop.stats.keys() - widened.keys():
            if is_wider(after.stats[name], loop.stats[name]):
                raise _Widened(name, after.stats[name].dtype)
        if loop.phase is Phase.VALIDATION and after.model.params is not loop.model.params:
            memory = {name for (field, name), owner in owners.items() if (field, owner) == ("callback_state", place)}
            _check_evaluated(callback, memory - loop.evaluated, callbacks)
        return after

    watched.__name__ = watched.__qualname__ = name_of(callback)
    watched.copies_memory = copies  # type: ignore[attr-defined]
    return watched


def _check_evaluated(callback: Callback, memory: set[str], callbacks: tuple[Callback, ...]) -> None:
    """Refuses parameters that stand in for others in evaluation, where the best could not be restored with them."""
    restoring = [name_of(other) for other in callbacks if getattr(other, "copies_memory", False)]
    if memory and restoring:
        raise ValueError(
            f"callbacks: {name_of(callback)!r} puts other parameters in place in validation, so that {restoring[0]!r} "
            f"cannot bring back the best without {sorted(memory)[0]!r}, which it remembers. Let it write "
            "loop.remember(..., evaluated=True)."
        )


def _looking(seen: dict[Phase, tuple[Any, Any]]) -> Callback:
    """A callback that changes nothing, and notes the output and the loss of each phase's step.

    Raises:
      ValueError: the loss is neither a scalar nor one per example.
    """

    def look(loop: Loop, event: Event) -> Loop:
        if event not in (Event.UPDATE_START, Event.BATCH_END) or loop.phase is None:
            return loop
        batch = (loop.weight,) if loop.weight is not None else (loop.target, loop.input)
        counts = dict.fromkeys(leaf.shape[0] for leaf in jax.tree.leaves(batch))
        if len(counts) > 1:  # several graphs in one batch, which their outputs count too
            counts |= dict.fromkeys(leaf.shape[0] for leaf in jax.tree.leaves(loop.output) if leaf.ndim)
        if counts and jnp.ndim(loop.loss) and loop.loss.shape[0] not in counts:  # steps without data count nothing
            examples = " or ".join(map(str, counts))
            raise ValueError(
                f"loss_fn: its shape must be () or begin with the batch's {examples} examples, got "
                f"{list(loop.loss.shape)}. Give one loss per example or token; jaxloop takes the mean."
            )
        seen[loop.phase] = jax.tree.map(jax.typeof, (loop.output, loop.loss))  # a tracer must not outlive its trace
        return loop

    return look
