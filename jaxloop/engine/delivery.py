"""Rows on their way from dispatches to the observers: read late, so that the host does not wait for the device."""

import collections
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

_SECONDS_TOGETHER = 0.1  # for so long at most rows wait for others, where steps or data take long
_LONG_WAIT = 1e-4  # seconds: more than a small step takes, and about what it takes to be woken on a busy machine
_SHORT_WAITS = 64  # after so many rows are read one step nearer

Tell = Callable[[np.ndarray], bool]
Lap = Callable[[str], float]


class Delivery(Protocol):
    """What is given the rows of each dispatch, right after it was sent."""

    def __call__(self, rows: Any) -> bool:
        """Takes int32[row] or int32[steps, row]; says whether the phase goes on, by the rows told so far."""
        ...

    def in_flight(self) -> list[np.ndarray]:
        """The rows of steps that were sent and not told of, int32[row] each. Waits for the device."""
        ...

    def go_on(self, rows: Sequence[np.ndarray]) -> None:
        """Takes the rows that were in flight when the run was saved, as `in_flight` gave them; before any other."""
        ...

    def finish(self, *, failed: bool = False) -> None:
        """Tells what is left. If a dispatch or an observer has failed, it tells only what was due and can be read."""
        ...


class Prompt:
    """Tells the rows of each dispatch once the next was sent."""

    def __init__(self, tell: Tell, lap: Lap):
        self._tell, self._lap = tell, lap
        self._held: Any = None

    def __call__(self, rows: Any) -> bool:
        held, self._held = self._held, rows
        return held is None or self._read(held)

    def in_flight(self) -> list[np.ndarray]:
        return [] if self._held is None else _apart(self._held)

    def go_on(self, rows: Sequence[np.ndarray]) -> None:
        if rows:
            self._held = np.stack(rows)

    def finish(self, *, failed: bool = False) -> None:
        if self._held is not None and not failed:
            self._read(self._held)

    def _read(self, rows: Any) -> bool:
        rows = np.asarray(rows)
        self._lap("device")
        return self._tell(rows)


class Patient:
    """Tells the rows of many single steps at once, and lets them wait longer where the host would stand still.

    On a busy machine the operating system takes longer to wake a waiting host than a small step takes. So after a long
    wait, rows are read later: twice as many steps late each time. After many short waits they are read one step sooner
    again. On a quiet machine they are read one step late, since every step gets slower if the host holds more of the
    device's arrays. For the same reason, rows that were read wait as bytes. No number depends on when rows are read.

    Args:
      tell: is given int32[steps, row].
      lap: of the ledger.
      ahead: so many dispatches may be sent before the host waits for the first of them, at least 1.
      at_once: rows are told when so many have been read, or after a tenth of a second.
    """

    def __init__(self, tell: Tell, lap: Lap, *, ahead: int, at_once: int):
        self._tell, self._lap = tell, lap
        self._ahead, self._at_once = ahead, at_once
        self._sent: collections.deque[Any] = collections.deque()
        self._read: list[bytes] = []
        self._told = -math.inf  # when rows were, last
        self._behind = 1  # so many rows are left with the device
        self._short_waits = 0  # since `_behind` was changed
        self._goes_on = True  # the phase, by the rows told so far

    def __call__(self, rows: Any) -> bool:
        sent = self._sent
        sent.append(rows)
        if len(sent) > self._behind:
            began = time.perf_counter()
            self._read.append(np.asarray(sent.popleft()).tobytes())  # as `_take`: of each step a call less
            now = self._lap("device")
            if len(self._read) >= self._at_once or now - self._told > _SECONDS_TOGETHER:
                self._tell_read(now)
            waited = now - began
            if waited > _LONG_WAIT or self._behind > 1:
                self._adapt(waited)
                if len(sent) > self._behind:
                    self._take(sent.popleft())
        return self._goes_on

    def in_flight(self) -> list[np.ndarray]:
        read = [np.frombuffer(row, np.int32) for row in self._read]
        return read + [row for rows in self._sent for row in _apart(rows)]

    def go_on(self, rows: Sequence[np.ndarray]) -> None:
        self._read += [row.tobytes() for row in rows]

    def finish(self, *, failed: bool = False) -> None:
        try:
            while self._sent:
                self._take(self._sent.popleft())
        except Exception:  # the rows of a dispatch that failed: what it raised is on its way already
            if not failed:
                raise
        self._tell_read(self._told)

    def _adapt(self, waited: float) -> None:
        """Reads rows later after a long wait, and sooner after many short ones."""
        if waited > _LONG_WAIT:
            self._behind, self._short_waits = min(2 * self._behind, self._ahead), 0
        elif self._behind > 1:
            self._short_waits += 1
            if self._short_waits > _SHORT_WAITS:
                self._behind, self._short_waits = self._behind - 1, 0

    def _take(self, rows: Any) -> None:
        """Reads rows, and tells those that have been read once they are many or have waited."""
        self._read.append(np.asarray(rows).tobytes())
        now = self._lap("device")
        if len(self._read) >= self._at_once or now - self._told > _SECONDS_TOGETHER:
            self._tell_read(now)

    def _tell_read(self, now: float) -> None:
        self._told = now
        if self._read:
            together = np.frombuffer(b"".join(self._read), np.int32).reshape(len(self._read), -1)
            self._read.clear()
            self._goes_on = self._tell(together)


def _apart(rows: Any) -> list[np.ndarray]:
    """The rows of a dispatch, one by one."""
    rows = np.asarray(rows)
    return [rows] if rows.ndim == 1 else list(rows)
