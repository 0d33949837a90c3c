"""How long the phases of a fit take, and how much time is left."""

import math
from collections.abc import Mapping
from typing import Any

from jaxloop.events import Phase


class Times:
    """Adds up the seconds of the phases, and extrapolates from them.

    It reads no clock: `now` is the time in seconds on any clock. A time that is not known is NaN, for example that of a
    phase that was joined in the middle.
    """

    def __init__(self) -> None:
        self._began = math.nan
        self._first = 0  # the batch at which this phase was first seen
        self._epoch = 0.0
        self._totals: dict[Phase, tuple[float, int]] = {}

    def begin(self, now: float, batch_index: int = 0) -> None:
        """Begins a phase that is seen from its batch `batch_index` on."""
        self._began, self._first = now, batch_index

    def leave_out(self, seconds: float) -> None:
        """Leaves out `seconds` of the current phase, which went into something else."""
        self._began += seconds

    def end(self, phase: Phase, now: float) -> None:
        """Ends the current phase."""
        spent = now - self._began
        self._began = math.nan
        self._epoch += spent
        if not math.isnan(spent):
            total, count = self._totals.get(phase, (0.0, 0))
            self._totals[phase] = total + spent, count + 1

    def end_epoch(self) -> float:
        """The seconds of the phases since the last epoch ended."""
        seconds, self._epoch = self._epoch, 0.0
        return seconds

    def state(self, now: float) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "spent": _known(now - self._began),
            "first": self._first,
            "epoch": _known(self._epoch),
            "totals": {phase.value: list(total) for phase, total in self._totals.items()},
        }

    def resume(self, state: Mapping[str, Any], now: float) -> None:
        """Goes on from a `state`. The time between counts for nothing."""
        self._began, self._first = now - _number(state["spent"]), state["first"]
        self._epoch = _number(state["epoch"])
        self._totals = {Phase(phase): (seconds, count) for phase, (seconds, count) in state["totals"].items()}

    def expected(self, phase: Phase) -> float:
        """The mean seconds of a `phase` so far."""
        total, count = self._totals.get(phase, (math.nan, 1))
        return total / count

    def seconds_per_batch(self, now: float, done: int) -> float:
        """The mean seconds of a batch in the current phase, after `done` batches."""
        spent, seen = now - self._began, done - self._first
        return spent / seen if seen > 0 and spent > 0 else math.nan

    def left(self, phase: Phase, now: float, *, done: int, total: int, epochs_to_come: int) -> tuple[float, float]:
        """The seconds left in this epoch and in the fit.

        The rest of the current phase is estimated from its own pace, and every other phase from the phases of its kind
        so far. Before the first validation begins, a validation is taken to last 0 seconds.

        Args:
          phase: the current phase.
          now: the time.
          done, total: the number of its batches that are done, and of all its batches.
          epochs_to_come: the number of epochs after this one.
        """
        pace = self.seconds_per_batch(now, done)
        whole = {phase: pace * total, Phase.VALIDATION: 0.0} if phase is Phase.TRAINING else {phase: pace * total}
        whole |= {known: self.expected(known) for known in self._totals}
        in_epoch = pace * (total - done) + (whole[Phase.VALIDATION] if phase is Phase.TRAINING else 0.0)
        epoch = whole.get(Phase.TRAINING, math.nan) + whole[Phase.VALIDATION]
        return in_epoch, in_epoch + (epochs_to_come * epoch if epochs_to_come > 0 else 0.0)


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _number(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds
