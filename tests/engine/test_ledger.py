"""The ledger: every moment is put down to something, once."""

import pytest

from jaxloop.engine import ledger as module
from jaxloop.engine.ledger import Ledger


def test_laps_follow_each_other_without_a_gap(clock_of):
    clock = clock_of(module)
    ledger = Ledger()
    for now, name in ((101.0, "setup"), (101.5, "data"), (103.5, "device"), (103.75, "data")):
        clock.now = now
        ledger.lap(name)
    assert ledger.seconds == {"setup": 1.0, "data": 0.75, "device": 2.0}
    assert sum(ledger.seconds.values()) == pytest.approx(3.75)
