"""The host's side of events: calls host callbacks, delivers rows to observers, gathers what they cancel."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxloop.callback import bound, name_of, noted, same_kind
from jaxloop.engine.ledger import Ledger
from jaxloop.events import Event, Phase, Plan, Scope
from jaxloop.loop import Loop
from jaxloop.phases import between_steps
from jaxloop.telling import warn
from jaxloop.views import Columns, LoopView
from jaxloop.wire import on_device, own_copy


class Host:
    """The host callbacks of one fit, in tables by event.

    In a phase a callback that reads statistics and whose only step event is `BATCH_END` is an observer: it is
    given rows. Every other one that has step events is called there, and the step is cut for it; so it is for an
    observer at the step events where it reads more.
    """

    def __init__(
        self, callbacks: tuple[Any, ...], device: Any, *, ledger: Ledger | None = None, names: tuple[str, ...] = ()
    ):
        """Args: the callbacks, bound; the device; where their time is put down to; their names there."""
        self.callbacks = self._open = callbacks
        self.device = device
        self.ledger = ledger or Ledger()
        self.requests = 0
        names = names or tuple(map(name_of, callbacks))
        self._laps = {id(callback): f"callback {name}" for callback, name in zip(callbacks, names, strict=True)}
        self._at = {
            event: [callback for callback in callbacks if event in callback.host_declaration.events] for event in Event
        }

    @property
    def may_change_the_loop(self) -> bool:
        """Whether a callback reads the loop, and so may give back another."""
        declarations = [callback.host_declaration for callback in self.callbacks]
        return any(declared.reads_at(event) == "loop" for declared in declarations for event in declared.events)

    def cuts(self, phase: Phase) -> frozenset[Event]:
        """The step events at which the step must come back to the host."""
        return frozenset().union(*(self._cuts(callback, phase) for callback in self.callbacks))

    def fire(self, loop: Loop, event: Event, phase: Phase | None = None) -> Loop:
        """What the host callbacks make of `loop` at `event`; `loop` and the result are the engine's own.

        Args:
          loop: open, or in the middle of a step that is cut.
          event: where the run is.
          phase: for a step event, the phase at hand.
        """
        for callback in self._at[event]:
            if phase is not None and event not in self._cuts(callback, phase):
                continue
            if callback.host_declaration.reads_at(event) == "loop":
                loop = self._call_with_loop(callback, loop, event, in_step=phase is not None)
            else:
                loop = self._call_with_view(callback, loop, event)
            self.ledger.lap(self._laps[id(callback)])
        return loop

    def observes(self, phase: Phase) -> list[Any]:
        """The observers in `phase`, in list order."""
        return [
            callback
            for callback in self.callbacks
            if Event.BATCH_END in callback.host_declaration.events - self._cuts(callback, phase)
        ]

    def rows_may_wait(self, phase: Phase) -> bool:
        """Whether every observer in `phase` can wait for rows, to have more of them at once."""
        return all(getattr(callback, "rows_may_wait", False) for callback in self.observes(phase))

    def delivery(self, phase: Phase) -> Callable[[Columns], None]:
        """What hands the rows of a dispatch in `phase` to the observers, each by row or all at once."""
        takers = [
            (callback.rows if hasattr(callback, "rows") else functools.partial(self._call_by_row, callback), callback)
            for callback in self.observes(phase)
        ]
        observers = [(take, self._laps[id(callback)], callback) for take, callback in takers]
        lap = self.ledger.lap

        def deliver(columns: Columns) -> None:
            failure: BaseException | None = None
            for take, name, callback in observers:
                try:  # on the hot path: a context manager would cost more than most callbacks
                    take(columns)
                except BaseException as error:
                    if hasattr(callback, "rows"):
                        _note_rows(error, callback, columns, 0, columns.count - 1)
                    failure = _first_of(failure, error)
                lap(name)
            if failure is not None:  # raised once all have the rows
                raise failure

        return deliver

    def take_requests(self, loop: Loop) -> Loop:
        """`loop` with what observers have cancelled since this was last asked."""
        requests, self.requests = self.requests, 0
        return loop.replace(stop=loop.stop | np.int32(requests)) if requests else loop

    def notice(self, text: str, seconds: float = 0.0) -> None:
        """Tells a person, through whichever callback speaks to one, of what took `seconds` and is no step."""
        for callback in self.callbacks:
            if hasattr(callback, "notice"):
                callback.notice(text, seconds)
                self.ledger.lap(self._laps[id(callback)])

    def close(self, error: BaseException | None = None) -> None:
        """Closes every callback that can be and is open still, all of them even if some fail; see `close_all`."""
        open_still, self._open = self._open, ()
        close_all(open_still, error)

    def _cuts(self, callback: Any, phase: Phase) -> frozenset[Event]:
        declaration = callback.host_declaration
        events = declaration.events & {Event.BATCH_START, phase.step_event, Event.BATCH_END}
        deeper = events.intersection(dict(declaration.deeper))
        observes = declaration.reads == "stats" and events - deeper == {Event.BATCH_END}
        return deeper if observes else events

    def _call_with_loop(self, callback: Any, loop: Loop, event: Event, *, in_step: bool) -> Loop:
        with noted(callback, event):
            result = callback(on_device(own_copy(loop, self.device), self.device), event)
        if result is None:
            return loop
        if not isinstance(result, Loop):
            raise TypeError(
                f"callback {name_of(callback)!r} at {event.name}: with reads='loop' it must return a loop or None, "
                f"got {type(result).__name__}."
            )
        if in_step:  # `fire` of compiled callbacks asks the same
            result = same_kind(callback, loop, result, event, new_stats=True)
        else:  # it may have been kept from the middle of a step
            result = between_steps(result, loop.phase)
        own = own_copy(result, self.device)
        own = own.replace(stop=own.stop | np.int32(loop.stop))  # what others have cancelled stays cancelled
        return on_device(own, self.device) if in_step else own

    def _call_with_view(self, callback: Any, loop: Loop, event: Event) -> Loop:
        with noted(callback, event):
            cancelled = self._view(callback, _Fields(loop), event)
        return loop.replace(stop=loop.stop | np.int32(cancelled)) if cancelled else loop

    def _call_by_row(self, callback: Any, columns: Columns) -> None:
        index = 0
        try:
            for index in range(columns.count):
                row: dict[str, Any] = {name: columns[name][index] for name in columns}
                row |= {"stats": {name: row[name] for name in columns.stats}, "phase": columns.phase}
                self.requests |= int(self._view(callback, row, Event.BATCH_END))
        except BaseException as error:
            _note_rows(error, callback, columns, index, index)
            raise

    def _view(self, callback: Any, values: Any, event: Event) -> Scope:
        """Calls with a view of `values`; what the callback cancelled."""
        cancelled: list[Scope] = []
        reads = callback.host_declaration.reads_at(event)
        view = LoopView(values, reads=reads, name=name_of(callback), cancel=cancelled.append)
        result = callback(view, event)
        if result is not None and not isinstance(result, LoopView):
            raise TypeError(
                f"callback {name_of(callback)!r} at {event.name}: with reads={reads!r} it can change nothing, and "
                f"must return None or the loop it was given, got {type(result).__name__}. Declare reads='loop'."
            )
        total = Scope(0)
        for scope in cancelled:
            total |= scope
        return total


def bound_or_closed(callbacks: Sequence[Any], plan: Plan) -> tuple[Any, ...]:
    """Host callbacks, each bound to `plan` if it can be; where one fails to be, those before it are closed."""
    done: list[Any] = []
    for callback in callbacks:
        try:
            done += bound((callback,), plan)
        except BaseException as error:
            error.add_note(f"jaxloop: while callback {name_of(callback)!r} was bound to the plan of the fit")
            close_all(done, error)
            raise
    return tuple(done)


def close_all(callbacks: Sequence[Any], error: BaseException | None) -> None:
    """Closes every callback that can be, all of them even if some fail.

    Args:
      callbacks: the host callbacks of a fit.
      error: what has ended the fit, which stays what is raised: what fails now is noted on it. None for a fit that is
        over, whose result must not be lost: what fails then is warned of.

    Raises:
      RuntimeWarning: something failed, and warnings are errors.
      BaseException: what was raised without an `error` and is no `Exception`, such as KeyboardInterrupt.
    """
    failures: list[tuple[str, BaseException]] = []
    for callback in callbacks:
        try:
            if hasattr(callback, "close"):
                callback.close()
        except BaseException as failure:
            failures.append((name_of(callback), failure))
    for name, failure in failures:
        if error is not None:
            error.add_note(f"jaxloop: callback {name!r} could not be closed either, {failure!r}")
        elif not isinstance(failure, Exception):
            raise failure
        else:
            warn(
                f"fit: callback {name!r} could not be closed, {failure!r}. The fit is over, and its loop and history "
                "are whole; what this callback has written may not be.",
                stacklevel=4,
            )


def _note_rows(error: BaseException, callback: Any, columns: Columns, first: int, last: int) -> None:
    """Notes on `error` that `callback` raised it over the rows from `first` to `last`."""
    epoch, batches = columns["epoch_index"][first], columns["batch_index"]
    which = f"batch {batches[first]}" if first == last else f"batches {batches[first]} to {batches[last]}"
    place = f"{columns.phase.value} {which} of epoch {epoch} (counted from 0)"
    error.add_note(f"jaxloop: in callback {name_of(callback)!r} at {Event.BATCH_END.name}, {place}")


def _first_of(failure: BaseException | None, error: BaseException) -> BaseException:
    """What is raised of two: the first, on which the second is noted."""
    if failure is None:
        return error
    failure.add_note(f"jaxloop: the next observer failed too, {error!r}")
    return failure


class _Fields:
    """A loop's fields by name."""

    def __init__(self, loop: Loop):
        self._loop = loop

    def __getitem__(self, name: str) -> Any:
        return getattr(self._loop, name)
