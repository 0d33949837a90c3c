"""How fast a training goes: by hand, and in fits on a chip that is a stand-in."""

import jax
import numpy as np
import pytest

from jaxloop.chips import StepCost
from jaxloop.placement import Placement
from jaxloop.speed import MEASURED_OUTSIDE, training_speed
from jaxloop.views import Columns
from tests import small


def rows(columns, cost=None):
    found = columns(loss=[0.5, 0.25], batch_size=16)
    found.cost = cost
    return found


def test_what_is_known_is_told(columns):
    known = StepCost(0.25, lambda: 3 * 2**30)
    found = training_speed(rows(columns, known), count=4, seconds=8.0)
    assert found == {"examples_per_second": 8.0, "mfu": 0.125, "peak_memory_bytes": 3 * 2**30}
    assert set(found) < set(MEASURED_OUTSIDE)


@pytest.mark.parametrize("cost", [None, StepCost()])
def test_what_is_not_known_has_no_column(cost, columns):
    assert training_speed(rows(columns, cost), 4, 8.0) == {"examples_per_second": 8.0}


def test_a_training_without_steps_tells_nothing(columns):
    assert training_speed(rows(columns, StepCost(0.25)), 0, 8.0) == {}
    assert training_speed(None, 4, 8.0) == {}


def test_rows_that_are_cut_out_of_others_know_the_same(columns):
    known = StepCost(0.25)
    found = rows(columns, known)
    others = (found.last(), found.chosen(np.array([True, False])), found.with_bits(found.bits()))
    assert [each.cost for each in others] == [known] * 3
    assert Columns.from_json(found.to_json()).cost is None


@pytest.fixture
def a_known_chip(monkeypatch):
    """A CPU that has a largest FLOP/s, and tells of its memory."""
    monkeypatch.setattr(Placement, "peak_flops", 1e9)
    monkeypatch.setattr(Placement, "peak_memory", lambda self: 4096)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_fit_on_a_chip_that_is_known_has_columns_of_it(a_known_chip, steps_per_dispatch):
    training_loop = small.training_loop(steps_per_dispatch=steps_per_dispatch)
    _, history = training_loop.fit(small.model(), 2)
    flops = training_loop.compile(small.model()).training.flops
    rate = history.epochs["examples_per_second"] / 4  # steps per second
    np.testing.assert_allclose(history.epochs["mfu"], flops * rate / 1e9, rtol=1e-6)
    assert history.epochs["peak_memory_bytes"].tolist() == [4096.0, 4096.0]
    assert not {"mfu", "peak_memory_bytes"} & set(history.batches)


def test_a_fit_on_a_cpu_has_no_such_columns_and_counts_no_flops(monkeypatch):
    monkeypatch.setattr("jaxloop.engine.phase_steps.PhaseSteps._seconds_at_peak", lambda *_: pytest.fail("counted"))
    _, history = small.training_loop().fit(small.model(), 1)
    assert not {"mfu", "peak_memory_bytes"} & set(history.epochs)
    assert jax.devices()[0].memory_stats() is None


def test_a_step_whose_flops_only_its_values_tell_has_no_mfu(a_known_chip):
    def loop_of_unknown_length(loop, event):
        if event.name == "UPDATE_START":
            halved = jax.lax.while_loop(lambda x: x > 1.0, lambda x: x / 2, loop.loss.sum())
            return loop.record("halved", halved)
        return loop

    _, history = small.training_loop(callbacks=[loop_of_unknown_length]).fit(small.model(), 1)
    assert "mfu" not in history.epochs
    assert "peak_memory_bytes" in history.epochs


def test_an_mfu_that_a_callback_records_stays(a_known_chip):
    own = small.training_loop(callbacks=[lambda loop, event: loop.record("mfu", 0.5)])
    _, history = own.fit(small.model(), 1)
    assert history.epochs["mfu"].tolist() == [0.5]
