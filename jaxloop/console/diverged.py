"""The first loss that is not finite, found in rows."""

from typing import NamedTuple

import numpy as np

from jaxloop.measured import is_measured
from jaxloop.views import Columns

_EXPONENT = 0x7F800000  # all its bits are 1 in a float32 that is not finite


class Diverged(NamedTuple):
    """Where a loss was not finite for the first time.

    Attributes:
      name: of the statistic.
      value: NaN or an infinity.
      epoch, batch: counted from 1, in this fit and in the phase.
    """

    name: str
    value: float
    epoch: int
    batch: int

    def __str__(self) -> str:
        return (
            f"The {self.name} is {self.value} from epoch {self.epoch}, batch {self.batch} on: the run has diverged and "
            "goes on. Lower the learning rate, or give jaxloop.callbacks.clip_by_global_norm(1.0) or "
            "stop_on_non_finite()"
        )


def diverged_in(columns: Columns) -> Diverged | None:
    """The first row whose mean loss so far was measured and is not finite; None if there is none.

    A mean that is not finite stays so to the end of its phase, so nearly always only the last row is looked at.
    """
    name = columns.split.stat("loss")
    if name not in columns or columns.last_bits(name) & _EXPONENT != _EXPONENT:  # asked at each dispatch
        return None
    losses = columns[name]
    if not is_measured(losses[-1]):
        return None
    row = int(np.argmax(~np.isfinite(losses) & is_measured(losses)))
    return Diverged(
        name, float(losses[row]), int(columns["epoch_index"][row]) + 1, int(columns["batch_index"][row]) + 1
    )
