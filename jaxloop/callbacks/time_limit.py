"""Ends a fit after a span of time."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jaxloop.callback import on_host
from jaxloop.events import Event, Phase, Plan, Scope
from jaxloop.views import Columns, LoopView


def stop_after(limit: timedelta) -> "StopAfter":
    """Ends the fit once it has run for `limit`, so that a run fits into the time that there is.

    Training then ends after the step at hand. The epoch is validated as it is, its END events come, and the fit ends as
    `"cancelled"`. So leave time for a validation. The time counts from FIT_START on, compiling included; in a resumed
    run without the time in which nothing ran. The device never waits for the clock. Steps that were sent when the time
    is over still count: one dispatch, or a tenth of a second of small steps.

    Args:
      limit: how long, more than nothing.

    Raises:
      TypeError: `limit` is no `timedelta`.
      ValueError: it is not more than nothing.

    Example:
      >>> callbacks = [jl.callbacks.stop_after(datetime.timedelta(hours=7.5))]
    """
    if not isinstance(limit, timedelta):
        raise TypeError(f"stop_after: `limit` must be a timedelta, got {limit!r}. Write datetime.timedelta(hours=2).")
    if limit <= timedelta(0):
        raise ValueError(f"stop_after: `limit` must be longer than nothing, got {limit!r}.")
    return StopAfter(limit)


@on_host(Event.FIT_START, Event.BATCH_END, Event.EPOCH_END)
class StopAfter:
    """See `stop_after`."""

    rows_may_wait = True
    __name__ = "stop_after"  # what a user has written

    def __init__(self, limit: timedelta):
        self._limit = limit
        self._began: float | None = None  # until FIT_START: a run that was over already never comes there

    def bind(self, plan: Plan) -> "StopAfter":
        """A clock of its own for each fit."""
        return StopAfter(self._limit)

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.FIT_START:
            self._began = time.monotonic()
        elif event is Event.EPOCH_END:
            loop.cancel(Scope.FIT, when=self._is_over())

    def rows(self, columns: Columns) -> Scope | None:
        """Ends the training at hand once the time is over."""
        return Scope.TRAINING if columns.phase is Phase.TRAINING and self._is_over() else None

    def why_stopped(self, loop: Any, history: Any) -> str | None:
        """Why it has cancelled the fit; None if it has not."""
        return f"{self._limit} are over" if self._is_over() else None

    def state(self) -> dict[str, Any]:
        """How long it has run."""
        return {"seconds": self._seconds()}

    def resume(self, loop: Any, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self._began = time.monotonic() - state["seconds"]

    def __repr__(self) -> str:
        return f"stop_after({self._limit!r})"

    def _seconds(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _is_over(self) -> bool:
        return self._seconds() >= self._limit.total_seconds()
