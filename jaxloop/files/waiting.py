"""Rows that wait to be written together: a write costs as much as some thousand rows."""

import numpy as np

from jaxloop.events import Split
from jaxloop.views import Columns

_ROWS_AT_ONCE = 8192
_SECONDS_AT_MOST = 1.0
_SECONDS_AT_LEAST = 0.1  # between two writes at the ends of phases, where the device has to wait for the host


class WaitingRows:
    """Rows of one phase that are not written yet, in the order in which they came, and when they are due.

    `now` is the time in seconds on any clock, the same clock for all calls. Call `start` when the file is opened.
    """

    def __init__(self) -> None:
        self._like: Columns | None = None
        self._came: list[
            tuple[bytes, int, float]
        ] = []  # for each dispatch `Columns.bits`, the number of rows, the time
        self._count = 0
        self._written = 0.0  # the time of the last write

    def __len__(self) -> int:
        return self._count

    @property
    def split(self) -> Split | None:
        """The split of the rows that wait; None if there are none."""
        return self._like.split if self._like is not None and self._came else None

    def start(self, now: float) -> None:
        """Begins to count the time without a write."""
        self._written = now

    def add(self, columns: Columns, now: float) -> None:
        """Adds rows that have just come. Their split must be that of the rows that wait."""
        self._like, count = columns, columns.count
        self._came.append((columns.bits(), count, now))
        self._count += count

    def are_due(self, now: float, *, phase_ended: bool = False) -> bool:
        """Whether many rows wait, or the last write was a second ago; a tenth of a second at the end of a phase."""
        seconds = _SECONDS_AT_LEAST if phase_ended else _SECONDS_AT_MOST
        return self._count >= _ROWS_AT_ONCE or now - self._written >= seconds

    def together(self) -> tuple[Columns, np.ndarray] | None:
        """All rows that wait, and the time at which each came, float64[rows]; None if there are none."""
        if self._like is None or not self._came:
            return None
        bits, counts, times = zip(*self._came, strict=True)
        return self._like.with_bits(b"".join(bits)), np.repeat(times, counts)

    def clear(self, now: float) -> None:
        """Forgets the rows, which are written."""
        self._came.clear()
        self._count = 0
        self._written = now
