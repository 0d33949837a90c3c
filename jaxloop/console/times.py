"""How long the phases of a fit take, and how much time is left."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxloop.events import TRAINING, VALIDATION, Split


class Times:
    """Adds up the seconds of the phases, and extrapolates from them.

    It reads no clock: `now` is the time in seconds on any clock. A time that is not known is NaN, for example that of a
    phase that was joined in the middle.

    Args:
      splits: the phases of an epoch, in order.
    """

    def __init__(self, splits: Sequence[Split] = (TRAINING, VALIDATION)) -> None:
        self._splits = list(splits)
        self._began = math.nan
        self._first = 0  # the batch at which this phase was first seen
        self._epoch = 0.0
        self._totals: dict[Split, tuple[float, int]] = {}

    def begin(self, now: float, batch_index: int = 0) -> None:
        """Begins a phase that is seen from its batch `batch_index` on."""
        self._began, self._first = now, batch_index

    def leave_out(self, seconds: float) -> None:
        """Leaves out `seconds` of the current phase, which went into something else."""
        self._began += seconds

    def end(self, split: Split, now: float) -> None:
        """Ends the current phase."""
        spent = now - self._began
        self._began = math.nan
        self._epoch += spent
        if not math.isnan(spent):
            total, count = self._totals.get(split, (0.0, 0))
            self._totals[split] = total + spent, count + 1

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
            "totals": {split.name: list(total) for split, total in self._totals.items()},
        }

    def resume(self, state: Mapping[str, Any], now: float) -> None:
        """Goes on from a `state`. The time between counts for nothing."""
        self._began, self._first = now - _number(state["spent"]), state["first"]
        self._epoch = _number(state["epoch"])
        self._totals = {Split.named(name): (seconds, count) for name, (seconds, count) in state["totals"].items()}

    def expected(self, split: Split) -> float:
        """The mean seconds of such a phase so far."""
        total, count = self._totals.get(split, (math.nan, 1))
        return total / count

    def seconds_per_batch(self, now: float, done: int) -> float:
        """The mean seconds of a batch in the current phase, after `done` batches."""
        spent, seen = now - self._began, done - self._first
        return spent / seen if seen > 0 and spent > 0 else math.nan

    def left(self, split: Split, now: float, *, done: int, total: int, epochs_to_come: int) -> tuple[float, float]:
        """The seconds left in this epoch and in the fit.

        The rest of the current phase is estimated from its own pace, and every other phase from the phases of its kind
        so far. Before the first validation begins, a validation is taken to last 0 seconds.

        Args:
          split: the current phase.
          now: the time.
          done, total: the number of its batches that are done, and of all its batches.
          epochs_to_come: the number of epochs after this one.
        """
        pace = self.seconds_per_batch(now, done)
        whole = dict.fromkeys(self._splits, 0.0) | {TRAINING: math.nan, split: pace * total}
        whole |= {known: self.expected(known) for known in self._totals}
        to_come = self._splits[self._splits.index(split) + 1 :]
        in_epoch = pace * (total - done) + sum(whole[later] for later in to_come)
        return in_epoch, in_epoch + (epochs_to_come * sum(whole.values()) if epochs_to_come > 0 else 0.0)


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _number(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds
