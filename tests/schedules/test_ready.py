"""Ready lists of segments, against optax's schedules of the same kind."""

import jax
import numpy as np
import optax
import pytest

from jaxloop.schedules import make_schedule, one_cycle, warmup_cosine
from jaxloop.schedules.shapes import cosine

STEPS = np.arange(201, dtype=np.int32)


def rates_of(segments, total_steps):
    return np.broadcast_to(make_schedule(segments)(total_steps)(STEPS), STEPS.shape)[:total_steps]


def test_one_cycle_is_that_of_optax():
    expected = optax.linear_onecycle_schedule(100, 0.5, pct_start=0.3, pct_final=0.85)
    rates = rates_of(one_cycle(0.5, rise=0.3, fall=0.55), 101)
    np.testing.assert_allclose(rates, jax.vmap(expected)(STEPS[:101]), rtol=1e-5, atol=1e-8)


def test_one_cycle_goes_up_and_down_alike_and_then_far_below():
    rates = rates_of(one_cycle(1.0), 201)
    assert rates.argmax() == 90
    np.testing.assert_allclose(rates[:91], rates[90:181][::-1], rtol=1e-5)
    np.testing.assert_allclose(rates[[0, 90, 180, 200]], [0.04, 1.0, 0.04, 4e-6], rtol=1e-5)


def test_one_cycle_of_momentum_goes_down_and_up():
    rates = rates_of(one_cycle(0.85, start_rate=0.95, end_rate=0.95, rise=3, fall=3), 7)
    np.testing.assert_allclose(rates, [0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95], rtol=1e-6)


def test_one_cycle_takes_other_shapes():
    rates = rates_of(one_cycle(1.0, start_rate=0.0, end_rate=0.0, shape=cosine), 101)
    np.testing.assert_allclose(rates[:46], (1 - np.cos(np.pi * np.arange(46) / 45)) / 2, atol=1e-6)


@pytest.mark.parametrize("warmup", [11, 0.1])
def test_warmup_cosine_is_that_of_optax(warmup):
    expected = optax.warmup_cosine_decay_schedule(0.01, 1.0, warmup_steps=10, decay_steps=100, end_value=0.02)
    rates = rates_of(warmup_cosine(1.0, warmup, start_rate=0.01, end_rate=0.02), 101)
    np.testing.assert_allclose(rates, expected(STEPS[:101]), atol=1e-6)


def test_warmup_cosine_goes_from_zero_to_zero():
    rates = rates_of(warmup_cosine(0.5, warmup=3), 7)
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.4267767, 0.25, 0.0732233, 0], atol=1e-6)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 5])
def test_ready_lists_fit_very_short_fits(total_steps):
    for segments in (one_cycle(1.0), warmup_cosine(1.0, 0.05), warmup_cosine(1.0, 1000)):
        assert np.isfinite(rates_of(segments, total_steps)).all()


@pytest.mark.parametrize("length", [0, 1, -5, 0.0, 1.0, True, "3", None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda length: one_cycle(1.0, rise=length), "one_cycle: `rise`"),
        (lambda length: one_cycle(1.0, fall=length), "one_cycle: `fall`"),
        (lambda length: warmup_cosine(1.0, length), "warmup_cosine: `warmup`"),
    ],
)
def test_a_length_that_leads_nowhere_is_refused_by_name(make, name, length):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 2 steps, or a share"):
        make(length)


def test_a_cycle_that_leaves_nothing_for_the_last_decay_is_refused():
    with pytest.raises(ValueError, match=r"must leave a share for the decay that follows, got 0.5 \+ 0.5"):
        one_cycle(1.0, rise=0.5, fall=0.5)
