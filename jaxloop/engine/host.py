"""The host's side of events: calls host callbacks, delivers rows to observers, gathers what they cancel."""

import collections
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxloop.callback import add_note, name_of, same_kind
from jaxloop.engine.closing import close_all
from jaxloop.engine.hosted import LAP, Hosted, called_with_view, check_recorded, has_memory, hosted_as, scope_of
from jaxloop.engine.ledger import Ledger
from jaxloop.events import Event, Phase, Scope
from jaxloop.loop import Loop
from jaxloop.missing import note_missing
from jaxloop.ownership import on_device, own_copy
from jaxloop.phases import between_steps
from jaxloop.placement import Placement
from jaxloop.views import Columns, LoopView

#: Where loggers take what there is to log: at these events they come after the others, so that what those record there
#: is logged.
_LOGGED_AT = (Event.FIT_START, Event.EPOCH_END)


class Host:
    """The host callbacks of one fit.

    A callback that reads statistics, and whose only step event in a phase is `BATCH_END`, is an observer there: it is
    given rows. Any other callback is called at its step events, and the step is cut for it. The step is also cut at
    those events where an observer reads more.

    Attributes:
      callbacks: bound, in list order.
      may_change_the_loop: whether one reads the loop, and so may give back another.
      asked: what each callback has cancelled, by its name.
      requests: what observers have cancelled and `take_requests` has not taken.
      asks_at: as given.

    Args:
      callbacks: bound.
      placement: where the run lives.
      ledger: where their time is put down to.
      names: what they are called there.
      elsewhere: those that run on another process only. Steps are cut for them here too.
      asks_at: events at which one may cancel, on any process.
    """

    def __init__(
        self,
        callbacks: tuple[Any, ...],
        placement: Placement,
        *,
        ledger: Ledger | None = None,
        names: tuple[str, ...] = (),
        elsewhere: Sequence[Any] = (),
        asks_at: frozenset[Event] = frozenset(),
    ):
        self.asks_at = asks_at
        self.callbacks = self._open = callbacks
        self.ledger = ledger or Ledger()
        self.requests = 0
        self.asked: dict[str, int] = {}
        self._placement = placement
        laps = names or tuple(map(name_of, callbacks))
        self._hosted = [hosted_as(callback, lap) for callback, lap in zip(callbacks, laps, strict=True)]
        self._anywhere = [*self._hosted, *(hosted_as(callback, name_of(callback)) for callback in elsewhere)]
        self._in_turn = {event: sorted(self._hosted, key=lambda hosted: hosted.logs_at(event)) for event in _LOGGED_AT}
        self.may_change_the_loop = any("loop" in hosted.reads.values() for hosted in self._hosted)

    def cuts(self, phase: Phase) -> frozenset[Event]:
        """The step events at which the step must come back to the host."""
        return frozenset().union(*[hosted.cuts[phase] for hosted in self._anywhere])

    def fire(self, loop: Loop, event: Event, phase: Phase | None = None) -> Loop:
        """What the host callbacks make of `loop` at `event`; `loop` and the result are the engine's own.

        Args:
          loop: with scalars of NumPy, or in the middle of a step that is cut.
          event: where the run is.
          phase: for a step event, the phase at hand.
        """
        for hosted in self._in_turn.get(event, self._hosted):
            if event in hosted.reads and (phase is None or event in hosted.cuts[phase]):
                loop = self._fire_one(hosted, loop, event, phase)
        return loop

    def observers(self, phase: Phase) -> list[Any]:
        """The observers in `phase`, in list order."""
        return [hosted.callback for hosted in self._hosted if hosted.observes(phase)]

    def rows_may_wait(self, phase: Phase) -> bool:
        """Whether every observer in `phase` can wait for rows, to have more of them at once."""
        return all(getattr(callback, "rows_may_wait", False) for callback in self.observers(phase))

    def delivery(self, phase: Phase) -> Callable[[Columns], None]:
        """What hands the rows of a dispatch in `phase` to the observers, each by row or all at once."""
        observers = [
            (getattr(hosted.callback, "rows", None) or functools.partial(self._call_by_row, hosted), hosted)
            for hosted in self._hosted
            if hosted.observes(phase)
        ]
        lap = self.ledger.lap

        def deliver(columns: Columns) -> None:
            failure: BaseException | None = None
            for take, hosted in observers:
                try:  # on the hot path: a context manager would cost more than most callbacks
                    asked = take(columns)
                    if asked is not None:
                        self._request(hosted, scope_of(hosted, asked))
                except BaseException as error:
                    if hasattr(hosted.callback, "rows"):
                        _note_rows(error, hosted.callback, columns, 0, columns.count - 1)
                    failure = _first_of(failure, error)
                lap(hosted.lap)
            if failure is not None:  # raised once all have the rows
                raise failure

        return deliver

    def take_requests(self, loop: Loop) -> Loop:
        """`loop` with what observers have cancelled since this was last asked."""
        requests, self.requests = self.requests, 0
        return loop.replace(stop=loop.stop | np.int32(requests)) if requests else loop

    def states(self) -> dict[str, Any]:
        """What the callbacks keep between processes, by their names.

        Raises:
          TypeError: JSON cannot hold it, with a note of the callback.
        """
        kept: dict[str, Any] = {}
        for name, hosted in self._by_name():
            if has_memory(hosted.callback):
                with _noting(f"jaxloop: while the state of callback {name!r} was saved"):
                    kept[name] = json.loads(json.dumps(hosted.callback.state()))
                self.ledger.lap(hosted.lap)
        return kept

    def resume(self, loop: Loop, states: Mapping[str, Any]) -> Loop:
        """The loop that goes on, once the callbacks are where they were. `loop` and the result are the engine's own.

        A callback with a memory that was not in the run begins now, by FIT_START. One without a memory just goes on.
        """
        for name, hosted in self._by_name():
            if not has_memory(hosted.callback):
                continue
            if name not in states:
                loop = self._fire_one(hosted, loop, Event.FIT_START) if Event.FIT_START in hosted.reads else loop
                continue
            with _noting(f"jaxloop: while callback {name!r} went on from its saved state"):
                hosted.callback.resume(self._shown(hosted, loop), states[name])
            self.ledger.lap(hosted.lap)
        missing = sorted(states.keys() - {name for name, _ in self._by_name()})
        if missing:
            self.notice(f"The checkpoint holds the state of {', '.join(missing)}, which this fit does not have")
        return loop

    def notice(self, text: str, seconds: float = 0.0, *, routine: bool = False) -> None:
        """Tells a person of what took `seconds` and is no step, through the callbacks that have `notice`.

        Those that are `quiet` are told "" of what is routine.
        """
        for hosted in self._hosted:
            if hasattr(hosted.callback, "notice"):
                told = "" if routine and getattr(hosted.callback, "quiet", False) is True else text
                hosted.callback.notice(told, seconds)
                self.ledger.lap(hosted.lap)

    def compiling(self, text: str) -> None:
        """Tells a person that something is about to be compiled, through the callbacks that have `compiling`."""
        for hosted in self._hosted:
            if hasattr(hosted.callback, "compiling"):
                hosted.callback.compiling(text)  # its time is that of compiling

    def timed(self, seconds: Mapping[str, float]) -> None:
        """Tells the callbacks that have `timed` where the seconds of the fit went."""
        for hosted in self._hosted:
            if hasattr(hosted.callback, "timed"):
                hosted.callback.timed(seconds)

    def close(self, error: BaseException | None = None, how: str = "failed") -> None:
        """Closes the callbacks that are open still; see `close_all`."""
        open_still, self._open = self._open, ()
        close_all(open_still, error, how)

    def _fire_one(self, hosted: Hosted, loop: Loop, event: Event, phase: Phase | None = None) -> Loop:
        try:
            if hosted.reads[event] == "loop":
                result = hosted.callback(self._copy(loop), event)
            else:
                result = called_with_view(hosted, vars(loop), event)
        except Exception as error:
            add_note(error, hosted.callback, event)
            note_missing(error, loop.stats)
            raise
        if isinstance(result, Scope):
            if result:
                self._note(hosted, int(result))
                loop = loop.replace(stop=loop.stop | np.int32(result))
        else:
            loop = self._taken(hosted, loop, result, event, in_step=phase is not None)
        self.ledger.lap(hosted.lap)
        return loop

    def _request(self, hosted: Hosted, asked: int) -> None:
        """Keeps what an observer has cancelled until it is taken."""
        self.requests |= asked
        self._note(hosted, asked)

    def _note(self, hosted: Hosted, asked: int) -> None:
        """Notes who has cancelled what, for the sentence at the end."""
        if asked:
            self.asked[hosted.name] = self.asked.get(hosted.name, 0) | asked

    def _shown(self, hosted: Hosted, loop: Loop) -> Any:
        """What a callback sees of the loop at FIT_START."""
        reads = hosted.callback.host_declaration.reads_at(Event.FIT_START)
        if reads == "loop":
            return self._copy(loop)
        return LoopView(vars(loop), reads=reads, name=hosted.name, cancel=_no_cancel)

    def _copy(self, loop: Loop) -> Loop:
        return on_device(own_copy(loop, self._placement), self._placement)

    def _by_name(self) -> Iterator[tuple[str, Hosted]]:
        """The callbacks by the names that they have in a checkpoint: a second of one name has a number."""
        seen: collections.Counter[str] = collections.Counter()
        for hosted in self._hosted:
            name = hosted.lap.removeprefix(LAP)
            seen[name] += 1
            yield (name if seen[name] == 1 else f"{name} {seen[name]}"), hosted

    def _taken(self, hosted: Hosted, loop: Loop, result: Any, event: Event, *, in_step: bool) -> Loop:
        """The loop that a callback has returned, or `loop` if it returned None."""
        if result is None:
            return loop
        if not isinstance(result, Loop):
            raise TypeError(
                f"callback {hosted.name!r} at {event.name}: with reads='loop' it must return a loop or None, "
                f"got {type(result).__name__}."
            )
        check_recorded(hosted, loop, result, event)
        if in_step:  # `fire` of compiled callbacks asks the same
            result = same_kind(hosted.callback, loop, result, event, new_stats=False)
        else:  # it may have been kept from the middle of a step
            result = between_steps(result, loop.phase)
            self._note(hosted, int(result.stop) & ~int(loop.stop))
        own = own_copy(result, self._placement)
        own = own.replace(stop=own.stop | np.int32(loop.stop))  # what others have cancelled stays cancelled
        return on_device(own, self._placement) if in_step else own

    def _call_by_row(self, hosted: Hosted, columns: Columns) -> None:
        index = 0
        try:
            for index in range(columns.count):
                row: dict[str, Any] = {name: columns[name][index] for name in columns}
                row |= {"stats": {name: row[name] for name in columns.stats}, "phase": columns.phase}
                row["validation_set"] = columns.split.validation_set
                if asked := called_with_view(hosted, row, Event.BATCH_END):
                    self._request(hosted, int(asked))
        except BaseException as error:
            _note_rows(error, hosted.callback, columns, index, index)
            note_missing(error, columns.stats)
            raise


def _no_cancel(scope: Scope) -> None:
    raise RuntimeError("jaxloop: a callback cannot cancel while it goes on from its saved state; do it at an event.")


@contextmanager
def _noting(text: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise


def _note_rows(error: BaseException, callback: Any, columns: Columns, first: int, last: int) -> None:
    """Notes on `error` that `callback` raised it over the rows from `first` to `last`."""
    epoch, batches = columns["epoch_index"][first] + 1, columns["batch_index"] + 1
    which = f"batch {batches[first]}" if first == last else f"batches {batches[first]} to {batches[last]}"
    place = f"{columns.split.name} {which} of epoch {epoch} (counted from 1)"
    error.add_note(f"jaxloop: in callback {name_of(callback)!r} at {Event.BATCH_END.name}, {place}")


def _first_of(failure: BaseException | None, error: BaseException) -> BaseException:
    """The one of two failures that is raised: the first, with a note of the second."""
    if failure is None:
        return error
    failure.add_note(f"jaxloop: the next observer failed too, {error!r}")
    return failure
