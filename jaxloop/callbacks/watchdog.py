"""A watchdog: it ends a process whose fit stands still, and shows where it stands."""

import faulthandler
import math
import numbers
import os
import sys
import threading
import time
import traceback
from typing import TextIO

from jaxloop.callback import on_host
from jaxloop.events import Event, Plan
from jaxloop.long_work import is_at_hand
from jaxloop.views import Columns, LoopView

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h
_EVENTS = (*(event for event in Event if not event.in_step), Event.BATCH_END)
_POLLS = 10  # in `seconds`
_LONGEST_POLL = 1.0  # second


@on_host(*_EVENTS)
class Watchdog:
    """Ends the process if the fit stands still, so that whoever started it can start it again.

    If no step and no event is seen for `seconds`, the stacks of all threads are written to standard error. After as
    long again, the process exits with status 70. Nothing is closed or flushed then, as with a kill. If the fit goes on
    in between, that is said too.

    Seen are the rows of each dispatch, the events between steps, and what is announced, such as a compiled program. So
    whatever else takes long is taken for a hang: a batch of the data, a dispatch, a host callback, a checkpoint. A row
    is seen one dispatch late, and up to a tenth of a second later. Let `seconds` be several times the longest of these.

    Time in which the fit traces and compiles its own programs does not count, whenever that is. What a host callback
    compiles by itself is its own time. Time in which the process as a whole was stopped, by Ctrl-Z or a batch system,
    does not count either.

    The watch begins with the fit, or where a fit is resumed, and ends when the fit does, however it ends. It is kept by
    a thread. So it also works while the main thread waits in code that is not Python, such as a program on the device
    or a collective with a process that is gone. It does not work while such code holds the lock of the interpreter.
    A forked child is not watched.

    Args:
      seconds: at least 1.
      file: where the stacks are written, if not to standard error.

    Raises:
      ValueError: `seconds` is not a finite number of at least 1.

    Example:
      >>> callbacks = [jl.callbacks.Watchdog(600)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    __slots__ = ("__weakref__", "file", "seconds")  # so that setting a misspelled attribute is an error

    def __init__(self, seconds: float, file: TextIO | None = None):
        is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
        if not (is_number and 1 <= seconds < math.inf):
            raise ValueError(
                "Watchdog: `seconds` must be a finite number of at least 1, since rows are told up to a tenth of a "
                f"second late, got {seconds!r}. Give several times what the slowest step takes."
            )
        self.seconds = float(seconds)
        self.file = file

    def bind(self, plan: Plan) -> "_Watch":
        return _Watch(self.seconds, self.file)

    def __repr__(self) -> str:
        return f"Watchdog({self.seconds:g})"


@on_host(*_EVENTS)
class _Watch:
    """The watch over one fit. It begins with whatever is seen first, so it may begin in the middle of a fit."""

    rows_may_wait = True
    logs_last = False  # it sees an event before the callbacks that may stand still there
    __name__ = "Watchdog"  # what a user has written

    def __init__(self, seconds: float, file: TextIO | None):
        self._seconds, self._file = seconds, file
        self._seen = 0  # how often anything was
        self._last = "the start of the watch"
        self._rows = 0  # since then; the columns themselves would keep arrays of the device alive
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def __call__(self, loop: LoopView, event: Event) -> None:
        of_fit = event in (Event.FIT_START, Event.FIT_END)
        self._see(event.name if of_fit else f"{event.name} of epoch {int(loop.epoch_index) + 1} (counted from 1)")

    def rows(self, columns: Columns) -> None:
        self._rows += columns.count
        self._seen += 1
        if self._thread is None:
            self._begin()

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._see(repr(text))

    def close(self) -> None:
        if self._thread is None or os.getpid() != self._process:
            return  # a fork has none of its parent's threads, and may have copied a lock that is held
        self._over.set()
        self._thread.join(1)

    def _see(self, what: str) -> None:
        self._last, self._rows = what, 0
        self._seen += 1
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="jaxloop watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        poll = min(self._seconds / _POLLS, _LONGEST_POLL)
        seen, still, told = self._seen, 0.0, False
        before = time.monotonic()
        while not self._over.wait(poll):
            now = time.monotonic()
            # A process that was stopped as a whole finds much time gone at once. It did not stand still by itself.
            still += min(now - before, 2 * poll)
            before = now
            if is_at_hand() or self._seen != seen:
                if told:
                    self._tell(f"Watchdog: the fit goes on, after {still:.0f} seconds.")
                seen, still, told = self._seen, 0.0, False
            elif not told and still >= self._seconds:
                told = True
                self._tell(self._found(), stacks=True)
            elif still >= 2 * self._seconds:
                self._tell(f"Watchdog: the fit stands still. The process exits with status {EXIT_STATUS}.").join(1)
                os._exit(EXIT_STATUS)

    def _found(self) -> str:
        seconds = f"{self._seconds:g} seconds"
        return (
            f"Watchdog: no step and no event for {seconds}; the last was {self._last}, and {self._rows} rows since. "
            f"The stacks of all threads follow. In {seconds} more the process exits with status {EXIT_STATUS}."
        )

    def _tell(self, text: str, *, stacks: bool = False) -> threading.Thread:
        """Writes in a thread of its own: a pipe that nobody reads may stop it, and must not stop the watch."""
        file = self._file or sys.stderr
        thread = threading.Thread(target=_write, args=(file, f"\njaxloop: {text}\n", stacks), daemon=True)
        thread.start()
        return thread


def _write(file: TextIO | None, text: str, stacks: bool) -> None:
    """Writes to the descriptor, since what stands still may hold the locks of the stream; else to the stream."""
    try:
        descriptor = None if file is None else file.fileno()
    except (OSError, ValueError, AttributeError):
        descriptor = None
    try:
        if descriptor is not None:
            os.write(descriptor, text.encode())
            if stacks:
                faulthandler.dump_traceback(descriptor, all_threads=True)
        elif file is not None:
            file.write(text + (_stacks() if stacks else ""))
            file.flush()
    except Exception:  # a full disk, a closed stream: the watch goes on without
        return


def _stacks() -> str:
    """The stacks of all threads, for a stream that has no descriptor."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for number, frame in sys._current_frames().items():
        parts.append(f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(parts)
