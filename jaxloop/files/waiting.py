"""Rows that wait for others, to be written together: each time costs as much as some thousand rows."""

import numpy as np

from jaxloop.events import Phase
from jaxloop.views import Columns

_ROWS_AT_ONCE = 8192
_SECONDS_AT_MOST = 1.0
_SECONDS_AT_LEAST = 0.1  # from one end of a phase to another: each is a time at which the device has nothing to do


class WaitingRows:
    """Rows of one phase that are not written yet, in the order they came, and when they are due.

    `now` is in seconds of any clock, the same for all. `start` it when the file is opened.
    """

    def __init__(self) -> None:
        self._like: Columns | None = None
        self._came: list[tuple[bytes, int, float]] = []  # see Columns.bits; how many rows, and when
        self._count = 0
        self._written = 0.0  # when the last were

    def __len__(self) -> int:
        return self._count

    @property
    def phase(self) -> Phase | None:
        """Of the rows that wait; None if none does."""
        return self._like.phase if self._like is not None and self._came else None

    def start(self, now: float) -> None:
        """Begins to count the time in which nothing was written."""
        self._written = now

    def add(self, columns: Columns, now: float) -> None:
        """Rows that came just now, of the phase of those that wait."""
        self._like, count = columns, columns.count
        self._came.append((columns.bits(), count, now))
        self._count += count

    def are_due(self, now: float, *, phase_ended: bool = False) -> bool:
        """Whether there are many, or nothing was written for a second; for a tenth of one where a phase has ended."""
        seconds = _SECONDS_AT_LEAST if phase_ended else _SECONDS_AT_MOST
        return self._count >= _ROWS_AT_ONCE or now - self._written >= seconds

    def together(self) -> tuple[Columns, np.ndarray] | None:
        """All of them, and when each came, float64[rows]; None if there is none."""
        if self._like is None or not self._came:
            return None
        bits, counts, times = zip(*self._came, strict=True)
        return self._like.with_bits(b"".join(bits)), np.repeat(times, counts)

    def clear(self, now: float) -> None:
        """Forgets them: they are written."""
        self._came.clear()
        self._count = 0
        self._written = now
