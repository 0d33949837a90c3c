"""Where the time of a run goes: the time between two looks at the clock counts for what was done in it."""

import time
from collections import defaultdict


class Ledger:
    """Seconds by what they went into. Laps follow each other without a gap, so that they sum to the whole.

    Attributes:
      seconds: by name: `"setup"`, `"compile"`, `"data"` (waiting for batches), `"dispatch"`, `"device"` (waiting for
        rows and for the loop), `"events"` (compiled callbacks between steps), `"save"` (checkpoints, on the thread that
        trains), and `"callback <name>"` for each on the host.
      since: when the last lap ended, by `time.perf_counter`. The driver of steps writes to these two itself: calls
        would cost it time in every step.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def lap(self, name: str) -> float:
        """Counts the time since the last lap for `name`; gives the time of the clock."""
        now = time.perf_counter()
        self.seconds[name] += now - self.since
        self.since = now
        return now
