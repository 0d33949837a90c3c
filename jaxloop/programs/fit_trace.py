"""One abstract trace of a whole fit, before anything is compiled: what callbacks record, and where they act."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np

from jaxloop.blame import of_first_batch
from jaxloop.callback import Callback, name_of
from jaxloop.events import TRAINING, Event, Phase, Split
from jaxloop.loop import Loop
from jaxloop.measured import is_wider, unmeasured
from jaxloop.phases import enter, leave_phase
from jaxloop.programs.adjusting import check_adjusted, relabels
from jaxloop.programs.printing import listening
from jaxloop.programs.step_trace import StepEnds, TracedStep, calls_python, traced_step
from jaxloop.step_spec import StepSpec
from jaxloop.tracers import check_leaks

#: When a run can be saved: in a phase, between two epochs (None), or after FIT_END.
Moment = Split | Literal[Event.FIT_END] | None


@dataclass(frozen=True)
class TraceReport:
    """What an abstract trace shows of a fit.

    Attributes:
      stats: every name in `loop.stats` at the end, with its dtype.
      acts: each compiled callback by its place, with each event at which it does something.
      maskable: whether the loss in evaluation is one per example or token, so that padding can be masked.
      output: shape and dtype of what the model gives for the first batch; None if that is not known.
      cancels: the phases whose steps a compiled callback can cancel; both if that is not known.
      examples: how many there are in a batch of each split, if its loss is one per example or token.
      raises: the phases whose steps call Python while they run, and so can raise.
      effects: the events between steps at which a compiled callback prints or calls Python.
      moments: the loop as shapes and dtypes, at each moment at which a run can be saved; see `Moment`.
      prints: what has printed while it was traced.
      ends: what the first phase does first to the input and last to the output of the model, and to the gradient.
      relabelled: the splits in which a callback replaces target or weight before the loss sees them.
    """

    stats: Mapping[str, np.dtype[Any]]
    acts: frozenset[tuple[int, Event]]
    maskable: bool
    output: Any = None
    cancels: frozenset[Phase] = frozenset(Phase)
    examples: Mapping[Split, int] = field(default_factory=dict[Split, int])
    raises: frozenset[Phase] = frozenset()
    effects: frozenset[Event] = frozenset()
    moments: Mapping[Moment, Loop] = field(default_factory=dict[Moment, Loop], compare=False, repr=False)
    prints: tuple[str, ...] = ()
    ends: StepEnds = field(default_factory=StepEnds, compare=False, repr=False)
    relabelled: frozenset[Split] = frozenset()

    @functools.cached_property
    def active(self) -> frozenset[Event]:
        """The events between steps at which a compiled callback does something."""
        return self.effects.union(event for _, event in self.acts if not event.in_step)


def trace_fit(spec: StepSpec, loop: Loop, batches: Mapping[Split, Any]) -> tuple[TraceReport, dict[Split, TracedStep]]:
    """Traces one epoch with one step in each phase that has a batch, callbacks included. Nothing runs on a device.

    Errors in callbacks, model or loss that tracing can show are raised here, before the first compile. Without a
    training batch, as for an evaluation, no epoch begins or ends. Without a batch of a set of validation, callbacks see
    no statistics of that, since nothing will measure them.

    Args:
      spec: what the steps are made of.
      loop: at the start of the fit.
      batches: of each phase that there is, training first.

    Returns:
      What the trace shows, and the step of each phase.
    """
    wider: dict[str, np.dtype[Any]] = {}
    while True:
        try:
            return _trace_once(spec, loop, batches, wider)
        except _WiderStatistic as found:
            wider[found.name] = found.dtype


class _WiderStatistic(Exception):
    """A statistic was recorded in a wider dtype than before: it must have that one from the start."""

    def __init__(self, name: str, dtype: np.dtype[Any]):
        super().__init__(name, dtype)
        self.name = name
        self.dtype = dtype


@dataclass
class _Trace:
    """One trace, and what it has shown so far. It is filled while callbacks are traced.

    Attributes:
      given: what the steps of the fit are made of.
      wider: statistics that have the dtype given here from the start.
      acts, effects, moments, prints, relabelled: as in `TraceReport`.
      owners: the place of the callback that owns a name, by the loop's field and the name.
      steps: the step of each split.
      outputs: shapes and dtypes of output and loss in each split.
      output: output and gradient of a split whose step is being traced.
      calling: the callback that is being called, and the event, for messages.
      trains: whether a callback changes the parameters in a training step, as the optimizer does.
    """

    given: StepSpec
    wider: Mapping[str, np.dtype[Any]]
    acts: set[tuple[int, Event]] = field(default_factory=set[tuple[int, Event]])
    effects: set[Event] = field(default_factory=set[Event])
    owners: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    steps: dict[Split, TracedStep] = field(default_factory=dict[Split, TracedStep])
    outputs: dict[Split, tuple[Any, Any]] = field(default_factory=dict[Split, tuple[Any, Any]])
    output: dict[Split, tuple[Any, Any]] = field(default_factory=dict[Split, tuple[Any, Any]])
    moments: dict[Moment, Loop] = field(default_factory=dict[Moment, Loop])
    calling: str = ""
    prints: dict[str, None] = field(default_factory=dict[str, None])
    relabelled: set[Split] = field(default_factory=set[Split])
    trains: bool = False

    @functools.cached_property
    def spec(self) -> StepSpec:
        """What is given, with all that callbacks do noted here."""
        watched = [_watched(self, place) for place in range(len(self.given.callbacks))]
        return replace(self.given, new_stats=True, callbacks=(*watched, _noting_outputs(self)))

    def hear(self, traced: bool) -> None:
        """Notes that something was printed. A model may print its shapes; what a callback prints, it means to see."""
        if self.calling or traced:
            self.prints.setdefault(self.calling or "the model or the loss", None)

    def report(self, loop: Loop) -> TraceReport:
        """What it has shown, given the loop at the end of the fit."""
        losses = {split: loss for split, (_, loss) in self.outputs.items()}
        evaluated = [loss for split, loss in losses.items() if split.phase is Phase.VALIDATION]
        return TraceReport(
            stats={name: value.dtype for name, value in loop.stats.items()},
            acts=frozenset(self.acts),
            maskable=bool(evaluated) and all(loss.ndim for loss in evaluated),
            output=next((output for output, _ in self.outputs.values()), None),
            cancels=frozenset(split.phase for split, step in self.steps.items() if not step.counts),
            examples={split: loss.shape[0] for split, loss in losses.items() if loss.ndim},
            raises=frozenset(split.phase for split, step in self.steps.items() if calls_python(step.jaxpr)),
            effects=frozenset(self.effects),
            moments=self.moments,
            prints=tuple(self.prints),
            relabelled=frozenset(self.relabelled),
            ends=self._ends(),
        )

    def _ends(self) -> StepEnds:
        """Those of the first phase. What a callback trains needs no gradient."""
        ends = next((step.ends for step in self.steps.values()), StepEnds())
        return replace(ends, flat=False) if self.trains else ends


def _trace_once(
    spec: StepSpec, loop: Loop, batches: Mapping[Split, Any], wider: Mapping[str, np.dtype[Any]]
) -> tuple[TraceReport, dict[Split, TracedStep]]:
    """As `trace_fit`, with the statistics in `wider` in those dtypes from the start.

    Raises:
      _WiderStatistic: another statistic has become of a wider dtype.
    """
    trace = _Trace(spec, wider)
    with listening(trace.hear):
        report = _traced(trace, loop, batches)
    for callback in spec.callbacks:
        check_leaks(callback, f"callback {name_of(callback)!r}")
    for name in ("loss_fn", "differentiable_step"):
        check_leaks(getattr(spec, name), name)
    return report, trace.steps


def _traced(trace: _Trace, loop: Loop, batches: Mapping[Split, Any]) -> TraceReport:
    """What the trace shows of a fit that begins with this loop."""
    spec, wider = trace.spec, trace.wider
    missing = [split for split in spec.splits if split is not TRAINING and split not in batches]
    unmeasurable = {split.stat(metric.name) for split in missing for metric in spec.metrics}
    if unmeasurable:
        loop = loop.replace(stats={name: value for name, value in loop.stats.items() if name not in unmeasurable})
    room = {name: unmeasured(dtype) for name, dtype in wider.items()}
    loop = _fired(trace, loop.replace(stats=loop.stats | room), Event.FIT_START)
    if TRAINING in batches:
        loop = _fired(trace, loop, Event.EPOCH_START)
    for split, batch in batches.items():
        loop = _phase_of_one_step(trace, loop, split, batch)
    if TRAINING in batches:
        loop = trace.moments[None] = _fired(trace, loop, Event.EPOCH_END)
        loop = trace.moments[Event.FIT_END] = _fired(trace, loop, Event.FIT_END)
    return trace.report(loop)


def _phase_of_one_step(trace: _Trace, loop: Loop, split: Split, batch: Any) -> Loop:
    """The loop after a phase, as shapes and dtypes."""

    def entered(loop: Loop) -> Loop:
        return enter(trace.spec, loop, split, np.int32(1))

    loop = _fired(trace, loop, split.phase.start, entered)
    with of_first_batch():
        first = not trace.steps  # the others have the same model
        shown = functools.partial(trace.output.pop, split, (None, None)) if first else None
        step = traced_step(trace.spec, loop, batch, shown)
    trace.output.clear()  # a tracer must not outlive its trace
    trace.steps[split] = step
    trace.moments[split] = step.result
    loop = _fired(trace, step.result, split.phase.end)
    return jax.eval_shape(leave_phase, loop)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open


def _fired(trace: _Trace, loop: Loop, event: Event, before: Callable[[Loop], Loop] | None = None) -> Loop:
    """The loop after an event between steps, and after `before` that, as shapes and dtypes."""

    def fire(loop: Loop) -> Loop:
        return trace.spec.fire(loop if before is None else before(loop), event)

    tracing = jax.make_jaxpr(fire, return_shape=True)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open
    program, loop = tracing(loop)
    if program.effects:
        trace.effects.add(event)
    return loop


def _watched(trace: _Trace, place: int) -> Callback:
    """The callback at `place`. It does what it did, and `trace` notes what that is.

    Raises:
      ValueError: two callbacks write one name, or what evaluation depends on cannot be put back.
      _WiderStatistic: a statistic has become of a wider dtype.
    """
    callback = trace.given.callbacks[place]

    def watched(loop: Loop, event: Event) -> Loop:
        trace.calling = f"callback {name_of(callback)!r} at {event.name}"
        after: Any = callback(loop, event)
        trace.calling = ""
        if after is not loop:
            trace.acts.add((place, event))
        if isinstance(after, Loop):  # `fire` refuses anything else, and says where it came from
            _claim_names(trace, place, loop, after)
            if event is Event.EPOCH_END:
                check_adjusted(trace.given.callbacks, place, after, trace.owners)
            if loop.split and relabels(loop, event, after):
                trace.relabelled.add(loop.split)
            _check_widths(trace, loop, after)
            _check_evaluated(trace, place, loop, after)
            trace.trains |= loop.phase is Phase.TRAINING and after.model.params is not loop.model.params
        return after

    named: Any = watched
    named.__name__ = named.__qualname__ = name_of(callback)
    named.copies_memory = _copies_memory(callback)
    return named


def _copies_memory(callback: Callback) -> bool:
    return getattr(callback, "copies_memory", False)


def _claim_names(trace: _Trace, place: int, loop: Loop, after: Loop) -> None:
    """Notes which names the callback at `place` has written; a name belongs to the first callback that writes it."""
    callbacks = trace.given.callbacks
    copies = _copies_memory(callbacks[place])
    for part, verb in (("stats", "record"), ("callback_state", "remember")):
        old, new = getattr(loop, part), getattr(after, part)
        for name in new:
            if new[name] is old.get(name) or (copies and name in loop.evaluated):
                continue
            owner = trace.owners.setdefault((part, name), place)
            if owner != place:
                raise ValueError(
                    f"callbacks: {name_of(callbacks[owner])!r} and {name_of(callbacks[place])!r} both {verb} "
                    f"{name!r}, and would overwrite each other. Leave one out, or give it another name."
                )


def _check_widths(trace: _Trace, loop: Loop, after: Loop) -> None:
    for name in after.stats.keys() & loop.stats.keys() - trace.wider.keys():
        if is_wider(after.stats[name], loop.stats[name]):
            raise _WiderStatistic(name, after.stats[name].dtype)


def _check_evaluated(trace: _Trace, place: int, loop: Loop, after: Loop) -> None:
    """Refuses parameters that replace others in evaluation, if the best could not be restored with them."""
    if loop.phase is not Phase.VALIDATION or after.model.params is loop.model.params:
        return
    memory = {name for (part, name), owner in trace.owners.items() if (part, owner) == ("callback_state", place)}
    missing = memory - loop.evaluated
    callbacks = trace.given.callbacks
    restoring = [name_of(other) for other in callbacks if _copies_memory(other)]
    if missing and restoring:
        raise ValueError(
            f"callbacks: {name_of(callbacks[place])!r} puts other parameters in place in validation, so that "
            f"{restoring[0]!r} cannot bring back the best without {sorted(missing)[0]!r}, which it remembers. Let it "
            "write loop.remember(..., evaluated=True)."
        )


def _noting_outputs(trace: _Trace) -> Callback:
    """A callback that changes nothing, and notes output and loss of each split's step."""

    def note(loop: Loop, event: Event) -> Loop:
        split = loop.split
        if event in (Event.UPDATE_START, Event.BATCH_END) and split is not None:
            if not trace.steps:  # only the first step takes it from there, while it is traced
                trace.output.setdefault(split, (loop.output, loop.gradient))
            # A tracer must not outlive its trace.
            trace.outputs[split] = jax.tree.map(jax.typeof, (loop.output, loop.loss))
        return loop

    return note
