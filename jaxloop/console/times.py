"""How long the phases of a fit take, and from that how long is left."""

import math

from jaxloop.events import Phase


class Times:
    """Adds up the seconds of phases, and extrapolates from them.

    It reads no clock: `now` is the time in seconds, of whatever clock. What is not known is NaN, as it is for a phase
    whose beginning was not seen.
    """

    def __init__(self) -> None:
        self._began = math.nan
        self._first = 0  # the batch at which this phase was first seen
        self._epoch = 0.0
        self._totals: dict[Phase, tuple[float, int]] = {}

    def begin(self, now: float, batch_index: int = 0) -> None:
        """A phase is seen from here on, from its batch `batch_index`."""
        self._began, self._first = now, batch_index

    def leave_out(self, seconds: float) -> None:
        """`seconds` of the phase at hand went into something else."""
        self._began += seconds

    def end(self, phase: Phase, now: float) -> None:
        """The phase at hand is over."""
        spent = now - self._began
        self._began = math.nan
        self._epoch += spent
        if not math.isnan(spent):
            total, count = self._totals.get(phase, (0.0, 0))
            self._totals[phase] = total + spent, count + 1

    def end_epoch(self) -> float:
        """The seconds of the phases since the last epoch was over."""
        seconds, self._epoch = self._epoch, 0.0
        return seconds

    def expected(self, phase: Phase) -> float:
        """The mean seconds of such a phase so far."""
        total, count = self._totals.get(phase, (math.nan, 1))
        return total / count

    def seconds_per_batch(self, now: float, done: int) -> float:
        """The mean seconds of a batch in the phase at hand, of which `done` batches are over."""
        spent, seen = now - self._began, done - self._first
        return spent / seen if seen > 0 and spent > 0 else math.nan

    def left(self, phase: Phase, now: float, *, done: int, total: int, epochs_to_come: int) -> tuple[float, float]:
        """The seconds left in this epoch and in the fit.

        The rest of this phase goes on at its own pace; every other phase takes what such phases took so far, and the
        first validation, until it begins, nothing.

        Args:
          phase: the one at hand.
          now: the time.
          done, total: its batches.
          epochs_to_come: after this one.
        """
        pace = self.seconds_per_batch(now, done)
        whole = {phase: pace * total, Phase.VALIDATION: 0.0} if phase is Phase.TRAINING else {phase: pace * total}
        whole |= {known: self.expected(known) for known in self._totals}
        in_epoch = pace * (total - done) + (whole[Phase.VALIDATION] if phase is Phase.TRAINING else 0.0)
        epoch = whole.get(Phase.TRAINING, math.nan) + whole[Phase.VALIDATION]
        return in_epoch, in_epoch + (epochs_to_come * epoch if epochs_to_come > 0 else 0.0)
