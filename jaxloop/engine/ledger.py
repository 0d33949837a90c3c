"""Where the time of a run goes: every moment between two looks at the clock is put down to what was done in it."""

import time
from collections import defaultdict
from collections.abc import Callable


class Ledger:
    """Seconds by what they went into. Laps follow each other without a gap, so that they sum to the whole.

    Attributes:
      seconds: by name: `"setup"`, `"compile"`, `"data"` (waiting for batches), `"dispatch"`, `"device"` (waiting for
        rows and for the loop), `"events"` (compiled callbacks between steps), and `"callback <name>"` for each on
        the host.
      lap: `lap(name)` puts the time since the last lap down to `name`, and gives the clock's. Called several times a
        step.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.lap = _laps(self.seconds)


def _laps(seconds: dict[str, float]) -> Callable[[str], float]:
    clock = time.perf_counter
    since = clock()

    def lap(name: str) -> float:
        nonlocal since
        now = clock()
        seconds[name] += now - since
        since = now
        return now

    return lap
