"""A fit as a whole: host callbacks bound and closed however it ends, errors noted, the history kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxloop.callback import name_of
from jaxloop.engine.closing import bound_or_closed
from jaxloop.engine.host import Host
from jaxloop.engine.run import Run
from jaxloop.engine.session import Progress, Session
from jaxloop.events import Scope, leave
from jaxloop.history import History, Recorder
from jaxloop.loop import Loop
from jaxloop.measured import with_nan
from jaxloop.wire import on_device


def fitted(session: Session, began: float, consoles: Sequence[Any]) -> tuple[Loop, History]:
    """Runs the fit of a session; its loop, as device arrays, and what was measured.

    Args:
      session: of a fit.
      began: when setting up began, by `time.perf_counter`.
      consoles: host callbacks that come before those of the user.
    """
    progress = Progress()
    ledger, placement = progress.ledger, session.placement
    ledger.since = began
    recorder = Recorder(session.plan, progress.compile_seconds)
    shown = (*consoles, *session.callbacks.host)
    names = ("History", *map(name_of, shown))
    host = Host((recorder, *bound_or_closed(shown, session.plan)), placement, ledger=ledger, names=names)
    run = Run(session, progress, host)
    ledger.lap("setup")
    latest = progress.latest
    try:
        with latest.told(lambda error: latest.leave_with(error, placement)):
            with progress.interrupts:
                for text in (f"Training on {placement.describe()}", *session.notices):
                    host.notice(text)
                loop = run.fit()
            host.close()
    except BaseException as error:
        host.close(error)
        raise
    stopped = "cancelled" if loop.stop & Scope.FIT else "completed"
    loop = loop.replace(stop=leave(loop.stop, Scope.FIT), stats=with_nan(loop.stats))
    loop = on_device(loop, placement)
    history = recorder.history(stopped)
    ledger.lap("setup")
    return loop, replace(history, timing=dict(ledger.seconds))
