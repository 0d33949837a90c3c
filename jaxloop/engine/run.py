"""One run of a fit or an evaluation: epochs, phases and their events."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from jaxloop.asking import Ask
from jaxloop.engine.agreement import raised_everywhere
from jaxloop.engine.boundary import Boundaries, Boundary
from jaxloop.engine.dispatch import dispatched
from jaxloop.engine.ending import PhaseEnd
from jaxloop.engine.host import Host
from jaxloop.engine.phase_steps import PhaseSteps
from jaxloop.engine.place import Place
from jaxloop.engine.saving import Saves
from jaxloop.engine.session import Progress, Session
from jaxloop.engine.stepwise import taken_apart
from jaxloop.events import TRAINING, Event, Plan, Scope, Split, leave, should_run
from jaxloop.feeding.feed import Feed
from jaxloop.long_work import long_work
from jaxloop.loop import Loop
from jaxloop.ownership import own_copy, with_host_scalars
from jaxloop.phases import begin_epoch, enter, leave_epoch, leave_phase
from jaxloop.programs.programs import Program
from jaxloop.telling import advise
from jaxloop.wire import WireLayout


class Preempted(Exception):
    """SIGTERM has come, and the run was saved. It is raised within the engine only.

    Attributes:
      loop: the loop that was saved.
    """

    def __init__(self, loop: Loop):
        super().__init__("the run was preempted")
        self.loop = loop


@dataclass(frozen=True)
class Run:
    """Drives a session's loop through its events.

    Between phases the loop has scalars of NumPy (see `wire`) and is the engine's own. Within a phase it is on the wire,
    unless a host callback cuts the step: then each stage is a program over the loop itself, one step at a time.

    Attributes:
      session: what is constant.
      progress: what changes.
      host: the host callbacks.
      saves: the checkpoints; None if there are none.
    """

    session: Session
    progress: Progress
    host: Host
    saves: Saves | None = None

    def fit(self) -> Loop:
        """All epochs of the plan, from FIT_START to FIT_END; `stop` still holds FIT if that was cancelled."""
        loop, plan, place = self.session.loop, self.session.plan, self.session.place
        self.progress.latest.between(loop)
        loop = self.event(loop, Event.FIT_START) if place is None else self._going_on(loop, place)
        if place is None and self.session.validates_first:
            loop = loop.replace(epoch_index=np.int32(-1))
        if loop.plan is not None and loop.plan.assumed:
            each, total = plan.batch_count, plan.total_steps
            self.host.notice(f"Takes each epoch to have {each} batches, as the first has: {total} steps in all")
        if place is not None and place.split is not None:
            loop = self._between_epochs(self.epoch(loop, place))
        while not loop.stop & Scope.FIT and loop.epoch_index < plan.epoch_count:
            loop = self._between_epochs(self.epoch(loop))
        loop = self.event(loop, Event.FIT_END)
        if self.saves is not None:
            self.saves.finished(loop)
        return loop

    def walk(self) -> Iterator[tuple[Split, Loop, PhaseSteps]]:
        """The phases of the first epoch, each with the loop at its start and its steps. No step is taken."""
        session = self.session
        loop = self.event(begin_epoch(session.spec, self.event(session.loop, Event.FIT_START)), Event.EPOCH_START)
        training = session.feeds.training(session.source.at(int(loop.epoch) - 1))
        for split, feed in {TRAINING: training, **session.feeds.validation}.items():
            loop = self.event(enter(session.spec, loop, split, np.int32(len(feed))), split.phase.start)
            yield split, loop, self.steps(loop, split, feed)
            loop = leave_phase(self.event(loop, split.phase.end))

    def epoch(self, loop: Loop, place: Place | None = None) -> Loop:
        """One epoch, from EPOCH_START to EPOCH_END; or from a place in one of its phases on.

        The epoch of index -1 only validates.
        """
        session = self.session
        entered = None if place is None else place.split
        if place is None:
            loop = self.event(begin_epoch(session.spec, loop), Event.EPOCH_START)
        trains = loop.epoch_index >= 0 and entered is None and should_run(loop.stop, None)
        if trains or entered == TRAINING:
            feed = session.feeds.training(session.source.at(int(loop.epoch) - 1))
            _check_length(loop.plan, len(feed))
            loop, place = self.phase(loop, TRAINING, feed, place), None
        return leave_epoch(self.event(self._validated(loop, place), Event.EPOCH_END))

    def _validated(self, loop: Loop, place: Place | None) -> Loop:
        """The loop after validation on each set, in order; or from a place in one of them on.

        A validation that was cancelled before it began is cancelled for all sets, and one that is cancelled within a
        set for that set.
        """
        skipped = loop.stop & np.int32(Scope.VALIDATION) if place is None else np.int32(0)
        for split, feed in self.session.feeds.validation.items():
            if place is not None and place.split == split:
                loop, place = self.phase(loop, split, feed, place), None
            elif place is None and should_run(loop.stop, None):
                loop = self.phase(loop.replace(stop=loop.stop | skipped), split, feed)
        return loop

    def phase(self, loop: Loop, split: Split, feed: Feed, place: Place | None = None) -> Loop:
        """One phase, from its START to its END event.

        Args:
          loop: before the phase; or, if there is a `place`, in the phase, at the boundary that was there.
          split: the phase, and the set that it runs over.
          feed: its batches.
          place: where the phase goes on; None if it begins.
        """
        phase = split.phase
        if place is None:
            loop = self.event(enter(self.session.spec, loop, split, np.int32(len(feed))), phase.start)
        # What a compiled callback has cancelled before a save is found out as it would have been: by the next dispatch.
        if place is not None or should_run(loop.stop, phase):
            driver = taken_apart if self.host.cuts(phase) else dispatched
            steps = self.steps(loop, split, feed)
            if self.saves is not None:
                self.saves.enter(split, steps.layout, loop)
            last = self._to_its_end(driver(steps, self.host, self.progress, self._told, loop, place))
            loop = self.progress.agreement.stopped(self.host.take_requests(last.loop()))
            self.progress.ledger.lap("device")
        loop = self.event(loop, phase.end)
        self.progress.ended[split] = PhaseEnd.of(loop, split)
        return leave_phase(loop)

    def event(self, loop: Loop, event: Event) -> Loop:
        """An event between steps: the compiled callbacks, then those on the host. Cancelling BATCH has no effect."""
        agreement = self.progress.agreement
        if self.saves is None and not agreement.several:  # else it waits for a moment that is for all processes
            self.progress.interrupts.check()
        session = self.session
        if event in session.trace.active:
            program = session.programs.event(session.spec, session.layout_of(loop), event, session.placement)
            loop = with_host_scalars(program(loop))
        self.progress.latest.between(loop)
        self.progress.ledger.lap("events")
        loop = self.host.fire(loop, event)
        if agreement.several and event in self.host.asks_at:
            loop = agreement.stopped(loop)
        return loop.replace(stop=leave(loop.stop, Scope.BATCH))

    def steps(self, loop: Loop, split: Split, feed: Feed) -> PhaseSteps:
        """The steps of a phase from `loop` on."""
        return PhaseSteps(self.session, self._layout(loop, split), split, feed)

    def _to_its_end(self, boundaries: Boundaries) -> Boundary:
        """The last boundary of a phase. At each one the engine saves, and looks for interrupts, whatever the driver."""
        progress, saves = self.progress, self.saves
        interrupts = progress.interrupts
        several = progress.agreement.several
        try:
            with closing(boundaries):
                for last in boundaries:
                    # It is read once: what comes while the run is saved waits for the next.
                    pending = progress.pending() if several else interrupts.pending
                    if saves is not None and (pending or saves.are_due(last.position)):
                        saves.at(last, now=pending)
                    if pending:
                        self._leave(last.loop)
            return last  # pyright: ignore[reportPossiblyUnboundVariable] there is one before the first dispatch
        except RuntimeError as error:
            cause = error.__cause__
            if isinstance(cause, StopIteration) and hasattr(cause, "__notes__"):
                raise cause from None  # a callback's own, as its note says, which Python lets through no generator
            raise

    def _going_on(self, loop: Loop, place: Place) -> Loop:
        """The loop of a run that was saved, once data and host callbacks are where they were."""
        self.host.requests = place.requests
        with long_work():  # a loader may have to read all again
            self._put_back(loop, place)
        return self.host.resume(loop, place.states)

    def _put_back(self, loop: Loop, place: Place) -> None:
        """Brings the data back to where they were. Loaders that can only be read in turn are read again up to there."""
        session, marks, tell = self.session, place.marks, self.host.notice
        validation, index = session.feeds.validation, int(loop.epoch)

        def read_validation() -> None:
            for split, feed in validation.items():  # a loader may share a random state with that of training
                feed.batches.pass_over(marks[split.name])

        if place.split == TRAINING:
            session.source.put_back(index - 1, place.position, marks[TRAINING.name], tell, read_validation)
        elif int(loop.epoch_index) + (place.split is not None) < session.plan.epoch_count:  # another epoch will come
            session.source.put_back(index, 0, marks[TRAINING.name], tell, read_validation)
        for split, feed in validation.items():
            feed.batches.put_back(place.position if place.split == split else 0, marks[split.name], tell)

    def _between_epochs(self, loop: Loop) -> Loop:
        """The loop between two epochs, at which the engine saves and looks for interrupts too."""
        self.progress.hear()
        pending = self.progress.pending()
        if self.saves is not None:
            self.saves.after_epoch(loop, now=pending)
        if pending:
            self._leave(lambda: loop)
        return loop

    def _leave(self, loop: Callable[[], Loop]) -> None:
        """Leaves the run, since SIGINT or SIGTERM has come. If there are checkpoints, it was saved."""
        interrupts, heard = self.progress.interrupts, self.progress.agreement.heard
        try:
            interrupts.check()
            if heard & Ask.INTERRUPT:
                raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raised_everywhere(error)  # all processes have heard of it
            if self.saves is not None:
                error.add_note("jaxloop: the run was saved first; the same command goes on from there")
            raise
        if interrupts.terminated or heard & Ask.TERMINATE:
            raise Preempted(own_copy(loop(), self.session.placement))

    def _layout(self, loop: Loop, split: Split) -> WireLayout:
        """The loop's layout. It is that of the epoch before if nothing between steps can have changed it.

        Raises:
          ValueError: it differs from that of the epoch before, so that the step would compile again.
        """
        before = self.progress.layouts.get(split)
        if before is not None and not self.session.trace.active and not self.host.may_change_the_loop:
            return before
        layout = self.progress.layouts[split] = self.session.layout_of(loop)
        if before is not None and layout != before and not self.host.cuts(split.phase):
            message = (
                f"fit: the {split.name} step would compile again, since between steps {layout.difference(before)}."
            )
            if self.session.on_recompile == "raise":
                fix = "Keep structure, shapes and dtypes from epoch to epoch, or give on_recompile='warn'."
                raise ValueError(f"{message} {fix}")
            advise(message)
        return layout

    def _told(self, program: Program, what: str) -> None:
        """Tells of a program that is about to be compiled, or was just now."""
        seconds = program.compile_seconds
        if seconds is None:
            self.host.compiling(f"Compiling {program.name}{what} ...")
            return
        self.progress.ledger.lap("compile")
        self.progress.compile_seconds[program.name + what] = seconds
        self.host.notice(f"Compiled {program.name}{what} in {seconds:.1f} s", seconds, routine=True)


def _check_length(plan: Plan | None, length: int) -> None:
    """Warns of an epoch that makes a compiled callback's number of steps wrong."""
    if plan is not None and plan.assumed and length != plan.batch_count:
        advise(
            f"fit: an epoch has {length} batches, where the first has {plan.batch_count}. Epochs that come one by one "
            f"do not tell their lengths ahead, so a callback that asks for the number of steps, such as a schedule, "
            f"goes by {plan.total_steps}. Give `training` as a list of epochs, or by index.",
        )
