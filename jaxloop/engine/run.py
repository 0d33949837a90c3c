"""One run of a fit or an evaluation: phases, dispatches, events and stopping."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxloop.engine.feed import EpochSource, Feed, Feeds, kind_of
from jaxloop.engine.host import Host
from jaxloop.engine.programs import Program, Programs
from jaxloop.events import Event, Phase, Plan, Scope, leave, should_run
from jaxloop.loop import Loop
from jaxloop.phases import begin_epoch, enter, leave_epoch, leave_phase
from jaxloop.placement import Device
from jaxloop.steps import Parts, hold, with_model_state
from jaxloop.wire import Layout, handed_over, layout_of, opened


@dataclass(frozen=True)
class Run:
    """Drives loops through the events of a fit on one device.

    Between dispatches the loop is open (see `wire`) and the engine's own. Within a phase it is on the wire,
    unless a host callback cuts the step: then each stage is a program over the loop itself, one step at a time.

    Attributes:
      parts: what the steps are made of.
      host: the host callbacks.
      programs: kept by the training loop.
      active: the events at which compiled callbacks do something.
      device: where it runs.
      steps_per_dispatch: at most how many steps one program takes.
      compile_seconds: filled with the first call of each program that this run was the first to use.
    """

    parts: Parts
    host: Host
    programs: Programs
    active: frozenset[Event]
    device: Device
    steps_per_dispatch: int
    compile_seconds: dict[str, float] = field(default_factory=dict)
    _layouts: dict[Phase, Layout] = field(default_factory=dict)
    _latest: list[Any] = field(default_factory=lambda: [None, None])

    def fit(self, loop: Loop, epochs: EpochSource, feeds: Feeds, plan: Plan) -> Loop:
        """`plan.epoch_count` epochs, from FIT_START to FIT_END; `stop` still holds FIT if that was cancelled."""
        loop = self.event(loop, Event.FIT_START)
        while should_run(loop.stop, None) and loop.epoch_index < plan.epoch_count:
            loop = self.epoch(loop, epochs, feeds)
        return self.event(loop, Event.FIT_END)

    def latest(self) -> Loop | None:
        """The loop behind the last dispatch that was sent, open; None where it cannot be had. Waits for it."""
        layout, held = self._latest
        try:
            return held if layout is None or held is None else layout.opened(held)
        except RuntimeError:  # the dispatch itself has failed, and its arrays with it
            return None

    def epoch(self, loop: Loop, epochs: EpochSource, feeds: Feeds) -> Loop:
        """One epoch, from EPOCH_START to EPOCH_END."""
        loop = self.event(begin_epoch(loop), Event.EPOCH_START)
        if should_run(loop.stop, None):
            loop = self.phase(loop, Phase.TRAINING, feeds.training(epochs.at(int(loop.epoch) - 1)))
        if should_run(loop.stop, None) and feeds.validation is not None:
            loop = self.phase(loop, Phase.VALIDATION, feeds.validation)
        return leave_epoch(self.event(loop, Event.EPOCH_END))

    def phase(self, loop: Loop, phase: Phase, feed: Feed) -> Loop:
        """One phase, from its START to its END event."""
        loop = self.event(enter(self.parts, loop, phase, np.int32(len(feed))), phase.start)
        if should_run(loop.stop, phase):
            cuts = self.host.cuts(phase)
            loop = self._apart(loop, phase, feed, cuts) if cuts else self._fused(loop, phase, feed)
        return leave_phase(self.event(loop, phase.end))

    def event(self, loop: Loop, event: Event) -> Loop:
        """An event between steps: the compiled callbacks, then those on the host. A cancelled BATCH is nothing here."""
        if event in self.active:
            loop = opened(self.programs.event(self.parts, layout_of(loop), event)(loop))
        self._latest[:] = None, loop
        loop = self.host.fire(loop, event)
        return loop.replace(stop=leave(loop.stop, Scope.BATCH))

    def _fused(self, loop: Loop, phase: Phase, feed: Feed) -> Loop:
        """The steps over the wire. Rows are read when the next dispatch has been sent, so exactly one late."""
        layout = self._layout(loop, phase)
        wire = layout.closed(loop)
        deliver = self._delivery(layout, phase, feed)
        programs: dict[Any, Program] = {}
        if feed.lengths and self.steps_per_dispatch == 1:
            self._compile_announced(layout, wire, phase, feed)
        on_cpu = self.device.platform == "cpu"
        held = None
        reading = True
        try:
            for count, batch in feed.chunks(self.steps_per_dispatch):
                reading = False
                kind = kind_of(batch) if feed.lengths else None
                if (count, kind) in programs:
                    wire, rows = programs[count, kind].jitted(wire, batch)
                else:
                    programs[count, kind] = self._program(layout, phase, count, kind)
                    wire, rows = self._call(programs[count, kind], wire, batch)
                self._latest[:] = layout, wire
                if not on_cpu:
                    rows.copy_to_host_async()
                goes_on = held is None or deliver(np.asarray(held))
                held = rows
                if not goes_on:
                    break
                reading = True
        except BaseException:
            if reading and held is not None:  # the data failed: what was sent counts, and is told
                deliver(np.asarray(held))
            raise
        if held is not None:
            deliver(np.asarray(held))
        return self.host.take_requests(layout.opened(wire))

    def _program(self, layout: Layout, phase: Phase, count: int, kind: Any) -> Program:
        return self.programs.steps(self.parts, layout, phase, count, device=self.device, kind=kind)

    def _compile_announced(self, layout: Layout, wire: Any, phase: Phase, feed: Feed) -> None:
        """Compiles a program for each shape that the data announce, so that nothing compiles later."""
        for batch in feed.announced():
            program = self._program(layout, phase, 1, kind_of(batch))
            if program.compile_seconds is None:
                program.compile(wire, batch)
                self._tell(program, f" for {', '.join(_shape(leaf) for leaf in jax.tree.leaves(batch))}")

    def _layout(self, loop: Loop, phase: Phase) -> Layout:
        """The loop's layout; that of the epoch before where nothing between steps can have changed it."""
        fixed = not self.active and not self.host.may_change_the_loop
        if not fixed or phase not in self._layouts:
            self._layouts[phase] = layout_of(loop)
        return self._layouts[phase]

    def _delivery(self, layout: Layout, phase: Phase, feed: Feed) -> Callable[[np.ndarray], bool]:
        """What hands the rows of a dispatch to the observers, and says whether the phase goes on."""
        observers = self.host.observers(phase)
        host = self.host

        def deliver(rows: np.ndarray) -> bool:
            columns, stop = layout.read(rows, phase, feed.batch_size)
            if columns is not None:
                for observe in observers:
                    observe(columns)
            stop |= host.requests
            return stop == 0 or bool(should_run(stop, phase))

        return deliver

    def _apart(self, loop: Loop, phase: Phase, feed: Feed, cuts: frozenset[Event]) -> Loop:
        """The steps one by one, their stages apart, with the host callbacks in between."""
        layout = layout_of(loop)
        deliver = self._delivery(layout, phase, feed)
        loop = handed_over(loop, self.device)
        for _, batch in feed.chunks(1):
            loop, counted = self._step_apart(loop, phase, batch, cuts)
            self._latest[:] = None, loop
            deliver(layout.row_of(loop, counted))
            loop = self.host.take_requests(loop)
            if not should_run(int(loop.stop), phase):
                break
        return opened(loop)

    def _step_apart(self, loop: Loop, phase: Phase, batch: Any, cuts: frozenset[Event]) -> tuple[Loop, bool]:
        counted: Any = np.bool_(True)
        state = loop.model.state
        loop = hold(loop, batch)
        for program, event in self.programs.stages(self.parts, phase, cuts):
            loop, counted = self._call(program, loop, counted)
            if event is None or (event is phase.step_event and not should_run(int(loop.stop), phase)):
                continue
            loop = self.host.fire(loop, event, phase)
            if event is phase.step_event and not should_run(int(loop.stop), phase):
                loop = with_model_state(loop, state)  # no update: what the forward pass left goes too
        return loop, bool(counted)

    def _call(self, program: Program, *arguments: Any) -> Any:
        first = program.compile_seconds is None
        result = program(*arguments)
        if first:
            self._tell(program)
        return result

    def _tell(self, program: Program, what: str = "") -> None:
        """Tells of a program that was compiled just now."""
        seconds = program.compile_seconds or 0.0
        self.compile_seconds[program.name + what] = seconds
        self.host.notice(f"Compiled {program.name}{what} in {seconds:.1f} s", seconds)


def _shape(leaf: Any) -> str:
    return f"{leaf.dtype.name}{list(leaf.shape)}"
