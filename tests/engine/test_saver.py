"""One checkpoint: when it is due by steps, by the clock, and by its best value."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.engine import saver as module
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.saver import Saver
from tests import small


@pytest.fixture
def saver_of(tmp_path: Path) -> Any:
    """Makes the saver of a checkpoint with these options; all are closed at the end."""
    made: list[Saver] = []

    def make(**options: Any) -> Saver:
        session = small.training_loop().setup.fit(small.model(), 1)
        checkpoint = jl.callbacks.Checkpoint(tmp_path / str(len(made)), **options)
        made.append(Saver(checkpoint, session, Agreement()))
        return made[-1]

    yield make
    for saver in made:
        saver.close()


def test_it_is_due_at_the_first_multiple_after_the_last_save(saver_of) -> None:
    saver = saver_of(every=4)
    assert [steps for steps in range(10) if saver.is_due(steps)] == [4, 5, 6, 7, 8, 9]
    saver.saved(5)
    assert [steps for steps in range(10) if saver.is_due(steps)] == [8, 9]
    assert not saver.by_clock
    assert not saver.is_due_by_clock()
    assert not saver.is_due_after_epoch(None)


def test_it_is_due_after_so_much_time_since_the_last_save(saver_of, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    saver = saver_of(every=timedelta(seconds=3))
    assert saver.by_clock
    found = []
    for _ in range(7):
        found.append(saver.is_due_by_clock())
        if found[-1]:
            saver.saved(0)
        now[0] += 1
    assert found == [False, False, False, True, False, False, True]
    assert not saver.is_due(10**6)


def test_it_is_due_after_each_epoch_or_after_one_that_is_the_best(saver_of) -> None:
    assert [saver_of().is_due_after_epoch(value) for value in (None, 1.0)] == [True, True]
    saver = saver_of(every=4, best="validation_loss")
    values = [2.0, 3.0, float("nan"), 1.5, None, 1.5, 1.0]
    assert [saver.is_due_after_epoch(value) for value in values] == [True, False, False, True, False, False, True]


def test_the_value_that_decides_is_none_until_it_is_measured(saver_of) -> None:
    saver = saver_of(best="validation_loss")
    loop = small.training_loop().setup.fit(small.model(), 1).loop
    assert saver.value(loop) is None
    assert saver.value(loop.replace(stats=loop.stats | {"validation_loss": np.float32(0.5)})) == 0.5
