"""Segments that make no schedule are refused by their place, with the fix."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.schedules import ScheduleSegment, make_schedule
from jaxloop.schedules.shapes import exponential, linear, polynomial
from tests.schedules.rates import WARMUP, rates_of, segment


@pytest.mark.parametrize(
    ("counts", "total_steps", "message"),
    [
        ((10,), 40, "they cover 10 of its 40 steps. Leave out the last one's step_count, or make it 40."),
        ((10, 20), 40, "they cover 10 + 20 - 1 shared step = 29 of its 40 steps. .* or make it 31."),
        ((10, 20, 5), 40, "they cover 10 + 20 + 5 - 2 shared steps = 33 of its 40 steps. .* or make it 12."),
        ((0.25, 0.5), 101, "they cover 26 + 51 - 1 shared step = 76 of its 101 steps. .* or make it 76."),
    ],
)
def test_segments_that_end_before_the_fit_are_refused_with_the_sum(counts, total_steps, message):
    segments = [segment(linear, None, 1.0, count) for count in counts]
    with pytest.raises(ValueError, match="the segments end before the fit does; " + message.replace("+", r"\+")):
        make_schedule(segments)(total_steps)


def test_what_the_message_advises_lasts_exactly_until_the_end():
    rates = rates_of(
        [segment(linear, 0.0, 1.0, 10), segment(linear, None, 0.5, 20), segment(linear, None, 0.0, 12)], 40
    )
    assert rates[-1] == 0.0
    assert rates[-2] > 0.0


@pytest.mark.parametrize("total_steps", [0, -3, 2.5, True, None, "10"])
def test_a_number_of_steps_that_is_none_is_refused(total_steps):
    with pytest.raises(ValueError, match=r"`total_steps` must be a Python int of at least 1, got"):
        make_schedule(WARMUP)(total_steps)


def test_a_number_of_steps_that_no_loop_counts_to_is_refused():
    with pytest.raises(ValueError, match=r"at most 2,147,483,647, .*got 2,147,483,648. Give the fit fewer epochs"):
        make_schedule([segment(linear, 0.0, 1.0)])(2**31)
    assert np.isfinite(make_schedule([segment(linear, 0.0, 1.0)])(2**31 - 1)(2**31 - 2))


@pytest.mark.parametrize("segments", [[], (), None, segment(linear, 0.0, 1.0)])
def test_no_list_of_segments_is_refused(segments):
    with pytest.raises(ValueError, match=r"`segments` must be a list of one or more ScheduleSegment, got"):
        make_schedule(segments)


def test_what_is_no_segment_is_refused_by_its_place():
    with pytest.raises(TypeError, match=r"segment 1 \(counted from 0\) must be a ScheduleSegment, got 0.1"):
        make_schedule([WARMUP[0], 0.1])  # type: ignore[list-item]


def test_a_segment_without_steps_before_the_last_is_refused():
    with pytest.raises(ValueError, match=r"segment 0 of 2 \(counted from 0\) has no step_count; only the last may"):
        make_schedule([segment(linear, 0.0, 1.0), segment(linear, None, 0.0)])


@pytest.mark.parametrize(("start", "end"), [(None, 0.1), (0.0, 0.1), (0.1, 0.0), (-0.1, 0.1), (0.1, -0.1)])
def test_an_exponential_segment_that_touches_zero_is_refused_with_the_fix(start, end):
    text = f"segment 0 (counted from 0) is exponential and goes from {start or 0:g} to {end:g};"
    with pytest.raises(ValueError, match=re.escape(text) + r".*Write a small rate such as 1e-8"):
        make_schedule([segment(exponential, start, end)])


def test_an_exponential_segment_that_inherits_zero_is_refused():
    with pytest.raises(ValueError, match=r"segment 1 \(counted from 0\) is exponential and goes from 0 to 0.1"):
        make_schedule([segment(linear, 1.0, 0.0, 5), segment(exponential, None, 0.1)])


@pytest.mark.parametrize("count", [0, -1, 0.0, 1.0, 10.0, True, "10", float("nan")])
def test_a_step_count_that_is_neither_a_number_of_steps_nor_a_share_is_refused(count):
    with pytest.raises(ValueError, match=r"`step_count` must be a whole number of at least 1, or the share .* got"):
        segment(linear, 0.0, 1.0, count)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), "0.1", True, np.zeros(2), jnp.zeros(2), 1j])
@pytest.mark.parametrize("name", ["start_rate", "end_rate"])
def test_a_rate_that_is_no_finite_number_is_refused_by_name(name, rate):
    with pytest.raises(ValueError, match=rf"ScheduleSegment: `{name}` must be a finite number, got"):
        ScheduleSegment(linear, **({"start_rate": 0.0, "end_rate": 1.0} | {name: rate}))


def test_an_end_rate_of_none_is_refused():
    with pytest.raises(ValueError, match=r"`end_rate` must be a finite number, got None"):
        ScheduleSegment(linear, end_rate=None)  # type: ignore[arg-type]


def test_what_is_no_shape_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"`shape` must be one of jaxloop.shapes, got .*polynomial.* Call it"):
        segment(polynomial, 0.0, 1.0)
    with pytest.raises(TypeError, match=r"`shape` must be one of jaxloop.shapes, got .*lambda.* Write shapes.Shape"):
        segment(lambda x: x, 0.0, 1.0)
