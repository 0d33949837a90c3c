"""A fit as a whole: host callbacks bound and closed however it ends, errors noted, the history kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxloop.callback import name_of
from jaxloop.callbacks.checkpoint import checkpoints_among
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.closing import bound_or_closed
from jaxloop.engine.ending import ending
from jaxloop.engine.host import Host
from jaxloop.engine.hosted import runs_here
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.leaving import leaving
from jaxloop.engine.run import Preempted, Run
from jaxloop.engine.saving import Saves
from jaxloop.engine.session import Progress, Session
from jaxloop.events import Scope, leave
from jaxloop.history import History, Stopped
from jaxloop.loop import Loop
from jaxloop.measured import with_nan
from jaxloop.ownership import on_device
from jaxloop.recorder import Recorder


def fitted(session: Session, began: float, consoles: Sequence[Any]) -> tuple[Loop, History]:
    """Runs the fit of a session; its loop, as device arrays, and what was measured.

    Args:
      session: of a fit.
      began: when setting up began, by `time.perf_counter`.
      consoles: host callbacks that come before those of the user.
    """
    with leaving(session.placement.several_processes):
        return _fitted(session, began, consoles)


def _fitted(session: Session, began: float, consoles: Sequence[Any]) -> tuple[Loop, History]:
    checkpoints = checkpoints_among(session.callbacks.host)
    placement, place = session.placement, session.place
    progress = Progress(interrupts=Interrupts(terminates=bool(checkpoints)), agreement=Agreement(placement))
    ledger = progress.ledger
    ledger.since = began
    session, recorder = _with_recorder(session, progress)
    everywhere = (*consoles, *session.callbacks.host)
    shown = [callback for callback in everywhere if runs_here(callback, placement)]
    elsewhere = [callback for callback in everywhere if not runs_here(callback, placement)]
    names = ("History", *map(name_of, shown))
    bound = bound_or_closed(shown, session.plan)
    asks_at = frozenset(event for each in session.callbacks.host for event in each.host_declaration.events)
    host = Host((recorder, *bound), placement, ledger=ledger, names=names, elsewhere=elsewhere, asks_at=asks_at)
    ledger.lap("setup")
    latest, saves = progress.latest, None
    try:
        with latest.told(lambda error: latest.leave_with(error, placement)), progress.interrupts:
            host.notice(f"Training on {placement.describe()}", routine=True)
            for text in session.notices:
                host.notice(text)
            if place is not None and place.finished:
                host.notice("Nothing is left to train")
                loop, stopped = session.loop, _ended(session.loop)
            else:
                saves = Saves(session, progress, host, recorder, checkpoints) if checkpoints else None
                loop, stopped = _run(Run(session, progress, host, saves))
            history = _told(recorder.history(stopped), loop, session, host, progress)
            host.close(how=stopped)  # while SIGTERM still waits: it must not keep loggers from closing their files
    except BaseException as error:
        if saves is not None:
            _close_after(error, saves)
        host.close(error)
        raise
    loop = loop.replace(stop=leave(loop.stop, Scope.FIT), stats=with_nan(loop.stats))
    loop = on_device(loop, placement)
    ledger.lap("setup")
    return loop, replace(history, timing=dict(ledger.seconds))


def _with_recorder(session: Session, progress: Progress) -> tuple[Session, Recorder]:
    """What collects the history. In a run that goes on it has the rows from the start: so has one that is over."""
    recorder, place = Recorder(session.plan, progress.compile_seconds), session.place
    if place is None:
        return session, recorder
    states = dict(place.states)
    recorder.resume(session.loop, states.pop("History"), place.journals)
    return replace(session, place=replace(place, states=states)), recorder


def _run(run: Run) -> tuple[Loop, Stopped]:
    """The loop at the end, and why it ended."""
    try:
        loop = run.fit()
    except Preempted as preempted:
        assert run.saves is not None
        run.saves.end()
        run.progress.interrupts.handled()
        run.host.notice("SIGTERM has come: the run was saved, and stops here. The same command goes on from there")
        return preempted.loop, "preempted"
    return loop, _ended(loop)


def _told(history: History, loop: Loop, session: Session, host: Host, progress: Progress) -> History:
    """The history with what ended the fit, once a person was told of it."""
    callbacks = (*session.callbacks.compiled, *host.callbacks)
    # The host sees who cancels, but for compiled callbacks, other processes, and loops that come back within a step.
    too_many = session.placement.several_processes or host.may_change_the_loop
    unseen = () if too_many else [each for each in session.callbacks.compiled if not hasattr(each, "why_stopped")]
    text = ending(
        loop, history, callbacks=callbacks, asked=host.asked, unseen=unseen, phases=tuple(progress.ended.values())
    )
    if text:
        host.notice(text)
    progress.ledger.lap("setup")
    host.timed(progress.ledger.seconds)
    return replace(history, ending=text, validated_at_start=session.validates_first)


def _ended(loop: Loop) -> Stopped:
    return "cancelled" if loop.stop & Scope.FIT else "completed"


def _close_after(error: BaseException, saves: Saves) -> None:
    """Waits for what is being written when a fit has failed. What failed first is what is raised."""
    try:
        saves.close()
    except BaseException as failure:
        if failure is not error:
            error.add_note(f"jaxloop: a checkpoint could not be saved either, {failure!r}")
