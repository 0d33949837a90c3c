"""One run of a fit or an evaluation: epochs, phases and their events, on one device."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxloop.engine.dispatch import Dispatches
from jaxloop.engine.host import Host
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.latest import Latest
from jaxloop.engine.ledger import Ledger
from jaxloop.events import Event, Phase, Plan, Scope, leave, should_run
from jaxloop.feeding.feed import Chunks, Feed, Feeds, OnRecompile
from jaxloop.feeding.source import EpochSource
from jaxloop.forward import hold, with_model_state
from jaxloop.loop import Loop
from jaxloop.phases import begin_epoch, enter, leave_epoch, leave_phase
from jaxloop.placement import Device
from jaxloop.programs.canonical import looks_into_values
from jaxloop.programs.programs import Program, Programs
from jaxloop.step_spec import StepSpec
from jaxloop.wire import WireLayout, layout_of, on_device, with_host_scalars


@dataclass(frozen=True)
class Run:
    """Drives loops through the events of a fit on one device.

    Between dispatches the loop is open (see `wire`) and the engine's own. Within a phase it is on the wire,
    unless a host callback cuts the step: then each stage is a program over the loop itself, one step at a time.

    Attributes:
      spec: what the steps are made of.
      host: the host callbacks.
      programs: kept by the training loop.
      active: the events at which compiled callbacks do something.
      cancels: the phases in whose steps they can cancel.
      raises: the phases whose steps call Python while they run, and so can raise.
      device: where it runs.
      steps_per_dispatch: at most how many steps one program takes, or `"auto"`.
      on_recompile: what is done where the loop's structure changes from one epoch to another.
      ledger: where its time goes.
      interrupts: asked at each boundary.
      compile_seconds: filled with the first call of each program that this run was the first to use.
      latest: what is left of it if it fails.
    """

    spec: StepSpec
    host: Host
    programs: Programs
    active: frozenset[Event]
    cancels: frozenset[Phase]
    raises: frozenset[Phase]
    device: Device
    steps_per_dispatch: Any
    on_recompile: OnRecompile = "raise"
    ledger: Ledger = field(default_factory=Ledger)
    interrupts: Interrupts = field(default_factory=Interrupts)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    latest: Latest = field(default_factory=Latest)
    _layouts: dict[Phase, WireLayout] = field(default_factory=dict)

    def fit(self, loop: Loop, epochs: EpochSource, feeds: Feeds, plan: Plan) -> Loop:
        """`plan.epoch_count` epochs, from FIT_START to FIT_END; `stop` still holds FIT if that was cancelled."""
        self.latest.between(loop)
        loop = self.event(loop, Event.FIT_START)
        if loop.plan is not None and loop.plan.assumed:
            each, total = plan.batch_count, plan.total_steps
            self.host.notice(f"Takes each epoch to have {each} batches, as the first has: {total} steps in all")
        while should_run(loop.stop, None) and loop.epoch_index < plan.epoch_count:
            loop = self.epoch(loop, epochs, feeds)
        return self.event(loop, Event.FIT_END)

    def walk(self, loop: Loop, epochs: EpochSource, feeds: Feeds) -> Iterator[tuple[Phase, Loop, Feed]]:
        """The phases of the first epoch, each with the loop at its start and its feed; no step is taken."""
        loop = self.event(begin_epoch(self.spec, self.event(loop, Event.FIT_START)), Event.EPOCH_START)
        for phase, feed in ((Phase.TRAINING, feeds.training(epochs.at(int(loop.epoch) - 1))), *feeds.evaluated()):
            loop = self.event(enter(self.spec, loop, phase, np.int32(len(feed))), phase.start)
            yield phase, loop, feed
            loop = leave_phase(self.event(loop, phase.end))

    def epoch(self, loop: Loop, epochs: EpochSource, feeds: Feeds) -> Loop:
        """One epoch, from EPOCH_START to EPOCH_END."""
        loop = self.event(begin_epoch(self.spec, loop), Event.EPOCH_START)
        if should_run(loop.stop, None):
            feed = feeds.training(epochs.at(int(loop.epoch) - 1))
            _check_length(loop.plan, len(feed))
            loop = self.phase(loop, Phase.TRAINING, feed)
        if should_run(loop.stop, None) and feeds.validation is not None:
            loop = self.phase(loop, Phase.VALIDATION, feeds.validation)
        return leave_epoch(self.event(loop, Event.EPOCH_END))

    def phase(self, loop: Loop, phase: Phase, feed: Feed) -> Loop:
        """One phase, from its START to its END event."""
        loop = self.event(enter(self.spec, loop, phase, np.int32(len(feed))), phase.start)
        if should_run(loop.stop, phase):
            cuts = self.host.cuts(phase)
            if cuts:
                with closing(replace(feed, packs=False).chunks(1)) as chunks:  # however it ends, the data are let go
                    loop = self._apart(loop, phase, feed, cuts, chunks=chunks)
            else:
                loop = self._fused(loop, phase, feed)
        return leave_phase(self.event(loop, phase.end))

    def event(self, loop: Loop, event: Event) -> Loop:
        """An event between steps: the compiled callbacks, then those on the host. A cancelled BATCH is nothing here."""
        self.interrupts.check()
        if event in self.active:
            loop = with_host_scalars(self.programs.event(self.spec, layout_of(loop), event)(loop))
        self.latest.between(loop)
        self.ledger.lap("events")
        loop = self.host.fire(loop, event)
        return loop.replace(stop=leave(loop.stop, Scope.BATCH))

    def _fused(self, loop: Loop, phase: Phase, feed: Feed) -> Loop:
        """The steps over the wire."""
        dispatches = self.dispatches(loop, phase, feed)
        wire = dispatches.run(dispatches.layout.to_wire(loop), self.steps_per_dispatch)
        loop = self.host.take_requests(dispatches.layout.from_wire(wire))
        self.ledger.lap("device")
        return loop

    def dispatches(self, loop: Loop, phase: Phase, feed: Feed) -> Dispatches:
        """What sends the batches of a phase from `loop` on."""
        return Dispatches(
            spec=self.spec,
            layout=self._layout(loop, phase),
            phase=phase,
            feed=feed,
            cancels=phase in self.cancels,
            programs=self.programs,
            host=self.host,
            ledger=self.ledger,
            interrupts=self.interrupts,
            tell=self._tell,
            latest=self.latest,
            donates=phase not in self.raises and not looks_into_values(),
        )

    def _layout(self, loop: Loop, phase: Phase) -> WireLayout:
        """The loop's layout; that of the epoch before where nothing between steps can have changed it.

        Raises:
          ValueError: it is another than in the epoch before, so that the step would compile again.
        """
        before = self._layouts.get(phase)
        if before is not None and not self.active and not self.host.may_change_the_loop:
            return before
        layout = self._layouts[phase] = layout_of(loop)
        if before is not None and layout != before:
            message = (
                f"fit: the {phase.value} step would compile again, since between steps {layout.difference(before)}."
            )
            if self.on_recompile == "raise":
                fix = "Keep structure, shapes and dtypes from epoch to epoch, or give on_recompile='warn'."
                raise ValueError(f"{message} {fix}")
            warnings.warn(message, stacklevel=2)
        return layout

    def _apart(self, loop: Loop, phase: Phase, feed: Feed, cuts: frozenset[Event], *, chunks: Chunks) -> Loop:
        """The steps one by one, their stages apart, with the host callbacks in between."""
        layout = layout_of(loop)
        hand_over, read = self.host.delivery(phase), layout.reader(phase, feed.batch_size)
        loop = on_device(loop, self.device)
        for _, batch in chunks:
            self.ledger.lap("data")
            if feed.prepare is not None:
                batch = self._call(self.programs.preparing(feed.prepare), feed.resident, batch)
            loop, counted = self._step_apart(loop, phase, batch, cuts)
            columns, _ = read(layout.row_of(loop, counted))
            self.latest.between(loop)
            self.ledger.lap("device")
            if columns is not None:
                hand_over(columns)
            loop = self.host.take_requests(loop)
            if not should_run(int(loop.stop), phase):
                break
            self.interrupts.check()
        return with_host_scalars(loop)

    def _step_apart(self, loop: Loop, phase: Phase, batch: Any, cuts: frozenset[Event]) -> tuple[Loop, bool]:
        counted: Any = np.bool_(True)
        state = loop.model.state
        loop = hold(loop, batch)
        for program, event in self.programs.stages(self.spec, phase, cuts):
            loop, counted = self._call(program, loop, counted)
            self.ledger.lap("dispatch")
            if event is None or (event is phase.step_event and not bool(counted["reached"])):
                continue  # cancelled before that event; what is cancelled at it, all callbacks still see
            loop = self.host.fire(loop, event, phase)
            if event is phase.step_event and not should_run(int(loop.stop), phase):
                loop = with_model_state(loop, state)  # no update: what the forward pass left goes too
        return loop, bool(counted)

    def _call(self, program: Program, *arguments: Any) -> Any:
        first = program.compile_seconds is None
        result = program(*arguments)
        if first:
            jax.block_until_ready(result)
            self._tell(program)
        return result

    def _tell(self, program: Program, what: str = "") -> None:
        """Tells of a program that was compiled just now."""
        seconds = program.compile_seconds or 0.0
        self.ledger.lap("compile")
        self.compile_seconds[program.name + what] = seconds
        self.host.notice(f"Compiled {program.name}{what} in {seconds:.1f} s", seconds)


def _check_length(plan: Plan | None, length: int) -> None:
    """Warns of an epoch that makes a compiled callback's number of steps wrong."""
    if plan is not None and plan.assumed and length != plan.batch_count:
        warnings.warn(
            f"fit: an epoch has {length} batches, where the first has {plan.batch_count}. Epochs that come one by one "
            f"do not tell their lengths ahead, so a callback that asks for the number of steps, such as a schedule, "
            f"goes by {plan.total_steps}. Give `training` as a list of epochs, or by index.",
            stacklevel=2,
        )
