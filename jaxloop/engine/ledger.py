"""Where the time of a run goes: every moment between two looks at the clock is put down to what was done in it."""

import time
from collections import defaultdict


class Ledger:
    """Seconds by what they went into. Laps follow each other without a gap, so that they sum to the whole.

    Attributes:
      seconds: by name: `"setup"`, `"compile"`, `"data"` (waiting for batches), `"dispatch"`, `"device"` (waiting for
        rows and for the loop), `"events"` (compiled callbacks between steps), and `"callback <name>"` for each on
        the host.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Puts the time since the last lap down to `name`."""
        now = time.perf_counter()
        self.seconds[name] += now - self.since
        self.since = now
