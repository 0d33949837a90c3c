"""Tests of the fit that ends after a span of time."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks import stop_after as exported
from jaxloop.callbacks.time_limit import StopAfter, stop_after
from tests import small


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("jaxloop.callbacks.time_limit.time", clock)
    return clock


def later(clock: Clock, step: int, seconds: float) -> Any:
    """An observer that moves the clock on when it sees the row of a step."""

    @jl.on_host(jl.Event.BATCH_END)
    def move(loop: Any, event: jl.Event) -> None:
        if loop.phase is jl.Phase.TRAINING and int(loop.step) == step:
            clock.seconds += seconds

    return move


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_the_epoch_at_hand_is_validated_and_the_fit_ends(clock: Clock, steps_per_dispatch: int) -> None:
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(48), 4),
        callbacks=[later(clock, 15, 60), stop_after(timedelta(seconds=60))],
        steps_per_dispatch=steps_per_dispatch,
    )
    loop, history = training_loop.fit(small.model(), 10)
    assert 16 <= int(loop.step) <= 16 + 2 * steps_per_dispatch
    assert history.stopped == "cancelled"
    assert len(history.epochs["validation_loss"]) == 2
    assert np.isfinite(history.epochs["validation_loss"]).all()


def test_a_fit_that_is_quicker_is_left_as_it_is(clock: Clock) -> None:
    training_loop = small.training_loop(callbacks=[later(clock, 1, 59), stop_after(timedelta(seconds=60))])
    _, history = training_loop.fit(small.model(), 2)
    assert history.stopped == "completed"
    loop, history = training_loop.fit(small.model(), 2)  # another fit, another clock
    assert history.stopped == "completed"
    assert int(loop.step) == 6


def test_it_is_no_reason_of_a_run_that_was_over_before(clock: Clock, tmp_path: Path) -> None:
    """Its time has not begun in the fit that only takes what was saved."""
    early = jl.callbacks.early_stopping(patience=1, min_delta=100.0)
    callbacks = [early, stop_after(timedelta(seconds=60)), jl.callbacks.Checkpoint(tmp_path)]
    training_loop = small.training_loop(callbacks=callbacks)
    _, whole = training_loop.fit(small.model(), 9)
    _, again = training_loop.fit(small.model(), 9, resume_from=tmp_path)
    assert whole.ending.endswith(": early_stopping (validation_loss did not improve for 1 epoch)")
    assert again.ending == whole.ending


def test_a_resumed_run_goes_on_counting(clock: Clock) -> None:
    callback = StopAfter(timedelta(seconds=60))
    callback(None, jl.Event.FIT_START)  # type: ignore[arg-type] nothing of the loop is read
    clock.seconds += 40
    state = callback.state()
    assert state == {"seconds": 40}
    clock.seconds += 1000
    again = StopAfter(timedelta(seconds=60))
    again.resume(None, state)
    clock.seconds += 10
    assert again.state() == {"seconds": 50}


def test_real_time_passes() -> None:
    began = time.monotonic()
    training_loop = small.training_loop(callbacks=[exported(timedelta(seconds=1))])
    _, history = training_loop.fit(small.model(), 100_000_000)
    assert history.stopped == "cancelled"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("limit", "error"), [(60, TypeError), (timedelta(0), ValueError), (None, TypeError)])
def test_a_wrong_limit_is_refused(limit: Any, error: Any) -> None:
    with pytest.raises(error, match="stop_after: `limit` must be"):
        stop_after(limit)


def test_it_says_what_it_is() -> None:
    assert repr(stop_after(timedelta(hours=2))) == "stop_after(datetime.timedelta(seconds=7200))"
