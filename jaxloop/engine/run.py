"""One run of a fit or an evaluation: epochs, phases and their events."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from jaxloop.engine.boundary import Boundaries, Boundary
from jaxloop.engine.dispatch import dispatched
from jaxloop.engine.host import Host
from jaxloop.engine.phase_steps import PhaseSteps
from jaxloop.engine.session import Progress, Session
from jaxloop.engine.stepwise import taken_apart
from jaxloop.events import Event, Phase, Plan, Scope, leave, should_run
from jaxloop.feeding.feed import Feed
from jaxloop.loop import Loop
from jaxloop.phases import begin_epoch, enter, leave_epoch, leave_phase
from jaxloop.programs.programs import Program
from jaxloop.wire import WireLayout, with_host_scalars


@dataclass(frozen=True)
class Run:
    """Drives a session's loop through its events.

    Between phases the loop has scalars of NumPy (see `wire`) and is the engine's own. Within a phase it is on the wire,
    unless a host callback cuts the step: then each stage is a program over the loop itself, one step at a time.

    Attributes:
      session: what is constant.
      progress: what changes.
      host: the host callbacks.
    """

    session: Session
    progress: Progress
    host: Host

    def fit(self) -> Loop:
        """All epochs of the plan, from FIT_START to FIT_END; `stop` still holds FIT if that was cancelled."""
        loop, plan = self.session.loop, self.session.plan
        self.progress.latest.between(loop)
        loop = self.event(loop, Event.FIT_START)
        if loop.plan is not None and loop.plan.assumed:
            each, total = plan.batch_count, plan.total_steps
            self.host.notice(f"Takes each epoch to have {each} batches, as the first has: {total} steps in all")
        while should_run(loop.stop, None) and loop.epoch_index < plan.epoch_count:
            loop = self.epoch(loop)
        return self.event(loop, Event.FIT_END)

    def walk(self) -> Iterator[tuple[Phase, Loop, PhaseSteps]]:
        """The phases of the first epoch, each with the loop at its start and its steps. No step is taken."""
        session = self.session
        loop = self.event(begin_epoch(session.spec, self.event(session.loop, Event.FIT_START)), Event.EPOCH_START)
        training = session.feeds.training(session.source.at(int(loop.epoch) - 1))
        for phase, feed in ((Phase.TRAINING, training), *session.feeds.evaluated()):
            loop = self.event(enter(session.spec, loop, phase, np.int32(len(feed))), phase.start)
            yield phase, loop, self.steps(loop, phase, feed)
            loop = leave_phase(self.event(loop, phase.end))

    def epoch(self, loop: Loop) -> Loop:
        """One epoch, from EPOCH_START to EPOCH_END."""
        session = self.session
        loop = self.event(begin_epoch(session.spec, loop), Event.EPOCH_START)
        if should_run(loop.stop, None):
            feed = session.feeds.training(session.source.at(int(loop.epoch) - 1))
            _check_length(loop.plan, len(feed))
            loop = self.phase(loop, Phase.TRAINING, feed)
        if should_run(loop.stop, None) and session.feeds.validation is not None:
            loop = self.phase(loop, Phase.VALIDATION, session.feeds.validation)
        return leave_epoch(self.event(loop, Event.EPOCH_END))

    def phase(self, loop: Loop, phase: Phase, feed: Feed, start: int = 0) -> Loop:
        """One phase, from its START to its END event.

        Args:
          loop: before the phase; or, if `start` is not 0, in the phase at the boundary before batch `start`.
          phase: the phase.
          feed: its batches.
          start: the batch to go on with: the position of a boundary, in a run with as many steps a dispatch.
        """
        if not start:
            loop = self.event(enter(self.session.spec, loop, phase, np.int32(len(feed))), phase.start)
        if should_run(loop.stop, phase):
            driver = taken_apart if self.host.cuts(phase) else dispatched
            steps = self.steps(loop, phase, feed)
            last = self._to_its_end(driver(steps, self.host, self.progress, self._told, loop, start))
            loop = self.host.take_requests(last.loop())
            self.progress.ledger.lap("device")
        return leave_phase(self.event(loop, phase.end))

    def event(self, loop: Loop, event: Event) -> Loop:
        """An event between steps: the compiled callbacks, then those on the host. Cancelling BATCH has no effect."""
        self.progress.interrupts.check()
        session = self.session
        if event in session.trace.active:
            program = session.programs.event(session.spec, session.layout_of(loop), event, session.placement)
            loop = with_host_scalars(program(loop))
        self.progress.latest.between(loop)
        self.progress.ledger.lap("events")
        loop = self.host.fire(loop, event)
        return loop.replace(stop=leave(loop.stop, Scope.BATCH))

    def steps(self, loop: Loop, phase: Phase, feed: Feed) -> PhaseSteps:
        """The steps of a phase from `loop` on."""
        return PhaseSteps(self.session, self._layout(loop, phase), phase, feed)

    def _to_its_end(self, boundaries: Boundaries) -> Boundary:
        """The last boundary of a phase. At each one the engine looks for interrupts, whatever the driver."""
        interrupts = self.progress.interrupts
        try:
            with closing(boundaries):
                last = next(boundaries)
                for last in boundaries:  # noqa: B007 the last is what is asked for
                    if interrupts.pending:
                        interrupts.check()
            return last
        except RuntimeError as error:
            cause = error.__cause__
            if isinstance(cause, StopIteration) and hasattr(cause, "__notes__"):
                raise cause from None  # a callback's own, as its note says, which Python lets through no generator
            raise

    def _layout(self, loop: Loop, phase: Phase) -> WireLayout:
        """The loop's layout. It is that of the epoch before if nothing between steps can have changed it.

        Raises:
          ValueError: it differs from that of the epoch before, so that the step would compile again.
        """
        before = self.progress.layouts.get(phase)
        if before is not None and not self.session.trace.active and not self.host.may_change_the_loop:
            return before
        layout = self.progress.layouts[phase] = self.session.layout_of(loop)
        if before is not None and layout != before and not self.host.cuts(phase):
            message = (
                f"fit: the {phase.value} step would compile again, since between steps {layout.difference(before)}."
            )
            if self.session.on_recompile == "raise":
                fix = "Keep structure, shapes and dtypes from epoch to epoch, or give on_recompile='warn'."
                raise ValueError(f"{message} {fix}")
            warnings.warn(message, stacklevel=2)
        return layout

    def _told(self, program: Program, what: str) -> None:
        """Tells of a program that was compiled just now."""
        seconds = program.compile_seconds or 0.0
        self.progress.ledger.lap("compile")
        self.progress.compile_seconds[program.name + what] = seconds
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
