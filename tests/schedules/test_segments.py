"""Segments and the schedule they make, against the formulas written down anew."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.schedules import make_schedule
from jaxloop.schedules.shapes import Shape, cosine, exponential, linear, polynomial
from tests.schedules.rates import STEPS, WARMUP, rates_of, segment

BEND = Shape(lambda x: x + math.sin(3 * x))
FORMULAS = {
    linear: lambda start, end, x: start + (end - start) * x,
    cosine: lambda start, end, x: start + (end - start) * (1 - math.cos(math.pi * x)) / 2,
    exponential: lambda start, end, x: math.exp((1 - x) * math.log(start) + x * math.log(end)),
    polynomial(2): lambda start, end, x: end + (start - end) * (1 - x) * (1 - x),
    BEND: lambda start, end, x: start + (end - start) * (x + math.sin(3 * x)) / (1 + math.sin(3)),
}


def by_hand(segments, total_steps):
    """The rate at each step in Python's own floats: a segment fills in the steps behind where the last one ended."""
    rate = segments[0].start_rate or 0.0
    rates = [rate]
    for one in segments:
        start = rate if one.start_rate is None else one.start_rate
        width = total_steps - len(rates) if one.step_count is None else one.step_count - 1
        for step in range(1, width + 1):
            rates.append(FORMULAS[one.shape](start, one.end_rate, step / width))
        rate = one.end_rate if width > 0 else start
    return np.array(rates[:total_steps])


JUMP = [segment(linear, 0.0, 1.0, 5), segment(linear, 0.25, 0.0, 6)]
ONE_STEP = [segment(linear, 0.0, 1.0, 5), segment(linear, 0.5, 0.125, 1), segment(cosine, None, 0.0)]


@pytest.mark.parametrize(("step", "rate"), [(0, 0), (3, 1 / 3), (9, 1), (14, 0.75), (19, 0.5), (29, 0)])
def test_a_warm_up_of_ten_steps_and_a_straight_fall_over_thirty(step, rate):
    assert float(make_schedule(WARMUP)(30)(step)) == pytest.approx(rate, abs=1e-7)


def test_segments_of_ten_and_five_steps_cover_fourteen():
    schedule = make_schedule([segment(linear, 0.0, 9.0, 10), segment(linear, None, 13.0, 5)])
    np.testing.assert_allclose(schedule(14)(STEPS)[:14], np.arange(14), rtol=1e-6)


def test_at_a_jump_the_earlier_segment_counts():
    np.testing.assert_allclose(rates_of(JUMP, 10), [0, 0.25, 0.5, 0.75, 1, 0.2, 0.15, 0.1, 0.05, 0], atol=1e-6)


def test_a_segment_of_one_step_sets_from_where_the_next_one_starts():
    waves = [0.25 * (1 + math.cos(math.pi * step / 4)) for step in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates_of(ONE_STEP, 9), [0, 0.25, 0.5, 0.75, 1, *waves], atol=1e-6)


def test_a_first_segment_of_one_step_sets_the_first_rate():
    assert rates_of([segment(linear, 0.5, 9.0, 1), segment(linear, None, 0.0)], 3).tolist() == [0.5, 0.25, 0]
    jump = [segment(linear, 0.5, 9.0, 1), segment(linear, 1.0, 0.0)]
    assert rates_of(jump, 3).tolist() == [0.5, 0.5, 0]


def test_a_custom_curve_matches_its_closed_form_at_every_step():
    x = np.arange(50) / 49
    expected = 0.1 + 0.8 * (x + np.sin(3 * x)) / (1 + np.sin(3))
    np.testing.assert_allclose(rates_of([segment(BEND, 0.1, 0.9)], 50), expected, atol=1e-6)


def test_a_first_segment_without_a_start_rate_starts_from_zero():
    assert rates_of([segment(linear, None, 1.0)], 5).tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("count", [None, 1, 3])
def test_a_fit_of_one_step_has_the_start_rate(count):
    assert rates_of([segment(linear, 0.25, 1.0, count)], 1).tolist() == [0.25]


def test_segments_may_last_longer_than_the_fit():
    longer = [*WARMUP[:1], segment(linear, None, 0.0, 21)]
    np.testing.assert_allclose(rates_of(longer, 12), by_hand(WARMUP, 30)[:12], atol=1e-6)
    for total_steps in (6, 10):
        np.testing.assert_allclose(rates_of(WARMUP, total_steps), by_hand(WARMUP, 30)[:total_steps], atol=1e-6)


@pytest.mark.parametrize("shape", FORMULAS, ids=["linear", "cosine", "exponential", "polynomial", "custom"])
def test_steps_behind_the_last_keep_its_rate(shape):
    schedule = make_schedule([segment(shape, 0.5, 0.125, 5), segment(shape, None, 0.25)])(20)
    assert [float(schedule(step)) for step in (20, 21, 1000)] == [float(schedule(19))] * 3
    assert float(schedule(19)) == pytest.approx(0.25)


def test_shares_of_the_fit_end_at_their_share_of_the_way():
    shares = [segment(linear, 0.0, 1.0, 0.3), segment(linear, None, 0.0)]
    counts = [segment(linear, 0.0, 1.0, 31), segment(linear, None, 0.0)]
    np.testing.assert_array_equal(rates_of(shares, 101), rates_of(counts, 101))


@pytest.mark.parametrize("total_steps", [4, 7, 10, 31, 100, 997])
@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3], [0.1] * 10])
def test_shares_that_make_one_last_until_the_end_of_the_fit(total_steps, shares):
    segments = [segment(linear, None, float(index), share) for index, share in enumerate(shares, start=1)]
    rates = rates_of(segments, total_steps)
    assert (np.diff(rates) > 0).all()
    if total_steps > 2 * len(shares):
        assert rates[-1] == len(shares)


def test_shares_and_counts_may_be_mixed():
    mixed = [segment(linear, 0.0, 1.0, 11), segment(linear, None, 1.0, 0.5), segment(linear, None, 0.0)]
    np.testing.assert_allclose(
        rates_of(mixed, 101), np.interp(np.arange(101), [0, 10, 60, 100], [0, 1, 1, 0]), atol=1e-6
    )


def test_a_short_share_of_a_short_fit_is_a_step_wide():
    rates = rates_of([segment(linear, 0.0, 1.0, 0.01), segment(linear, None, 0.0)], 5)
    np.testing.assert_allclose(rates, [0, 1, 2 / 3, 1 / 3, 0], atol=1e-6)


RATES = st.floats(min_value=2**-10, max_value=1.0, width=32)


@st.composite
def lists_of_segments(draw):
    """Segments with and without start rates, the first one's given as an exponential cannot start from 0."""
    count = draw(st.integers(1, 5))
    segments = []
    for index in range(count):
        start = draw(RATES) if index == 0 else draw(st.none() | RATES)
        steps = draw(st.integers(1, 9))
        segments.append(segment(draw(st.sampled_from(list(FORMULAS))), start, draw(RATES), steps))
    if draw(st.booleans()):
        last = segments[-1]
        segments[-1] = segment(last.shape, last.start_rate, last.end_rate)
    return segments


def covered(segments):
    return 1 + sum(one.step_count - 1 for one in segments if one.step_count)


@given(lists_of_segments(), st.integers(0, 20))
def test_any_list_of_segments_is_what_is_written_down_by_hand(segments, more):
    total_steps = covered(segments) + (more if segments[-1].step_count is None else 0)
    np.testing.assert_allclose(rates_of(segments, total_steps), by_hand(segments, total_steps), atol=1e-6)


@given(lists_of_segments(), st.integers(1, 20))
def test_any_list_of_segments_reaches_its_end_rates_and_jumps_nowhere_else(segments, more):
    total_steps = covered(segments) + (more if segments[-1].step_count is None else 0)
    rates = rates_of(segments, total_steps)
    rate, step = segments[0].start_rate, 0
    assert rates[0] == pytest.approx(rate, abs=1e-6)
    for one in segments:
        start = rate if one.start_rate is None else one.start_rate
        width = (one.step_count or total_steps - step) - 1
        rate = start
        if width:
            far = abs(FORMULAS[one.shape](start, one.end_rate, 1 / width) - start)
            assert abs(rates[step + 1] - start) <= far + 1e-6
            step, rate = step + width, one.end_rate
            assert rates[step] == pytest.approx(rate, abs=1e-6)


@given(RATES, RATES, RATES, st.integers(2, 9), st.integers(2, 9))
def test_two_segments_are_the_schedule_that_optax_joins(start, middle, end, first, second):
    """Without a jump it does not matter whose the joint is, so optax's own boundary will do."""
    expected = optax.join_schedules(
        [
            optax.linear_schedule(start, middle, first - 1),
            optax.cosine_decay_schedule(middle, second - 1, end / middle),
        ],
        [first - 1],
    )
    total_steps = first + second - 1
    rates = rates_of([segment(linear, start, middle, first), segment(cosine, None, end, second)], total_steps)
    np.testing.assert_allclose(rates, expected(STEPS)[:total_steps], atol=1e-6)


def test_the_schedule_may_be_jitted_and_vmapped_and_takes_any_kind_of_step():
    schedule = make_schedule(ONE_STEP)(9)
    expected = by_hand(ONE_STEP, 9)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(9)), expected, atol=1e-6)
    np.testing.assert_allclose(schedule(np.arange(9)), expected, atol=1e-6)
    for step in (3, np.int64(3), jnp.int32(3), jnp.uint32(3), 3.0):
        assert float(schedule(step)) == 0.75


@pytest.mark.parametrize("shape", FORMULAS, ids=["linear", "cosine", "exponential", "polynomial", "custom"])
def test_the_gradient_with_respect_to_a_rate_is_that_of_finite_differences(shape):
    def rate(peak, step):
        return make_schedule([segment(shape, 0.125, peak, 5), segment(shape, None, 0.0625)])(12)(step)

    gradients = jax.vmap(jax.jit(jax.grad(rate)), in_axes=(None, 0))(0.5, jnp.arange(12))
    around = [by_hand([segment(shape, 0.125, peak, 5), segment(shape, None, 0.0625)], 12) for peak in (0.499, 0.501)]
    np.testing.assert_allclose(gradients, (around[1] - around[0]) / 0.002, atol=1e-4)


def test_the_program_of_a_schedule_calls_nothing_on_the_host():
    schedule = make_schedule([segment(BEND, 0.1, 1.0, 5), segment(exponential, None, 0.1)])(100)
    text = jax.jit(schedule).lower(jnp.int32(0)).compile().as_text()
    assert "ENTRY" in text
    assert "custom-call" not in text
    assert "while" not in text


def test_equal_segments_make_equal_schedules():
    again = [segment(linear, 0.0, 1.0, 10), segment(linear, None, 0.0)]
    assert make_schedule(WARMUP) == make_schedule(again)
    assert hash(make_schedule(WARMUP)) == hash(make_schedule(again))
    assert make_schedule(WARMUP) != make_schedule(JUMP)


def test_a_schedule_shows_its_segments():
    assert repr(make_schedule([segment(linear, 0.0, 1.0, 10)])) == (
        "SegmentedSchedule(segments=(ScheduleSegment(shape=linear, start_rate=0.0, end_rate=1.0, step_count=10),))"
    )


def test_a_schedule_can_be_drawn_with_the_ends_of_its_segments(tmp_path):
    figure = make_schedule(JUMP).plot(total_steps=10)
    line, ends = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), by_hand(JUMP, 10), atol=1e-6)
    assert list(ends.get_xdata()) == [0, 4, 9]
    figure.savefig(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").stat().st_size > 1000


def test_a_schedule_of_one_step_can_be_drawn():
    (panel,) = make_schedule([segment(linear, 0.25, 1.0, 1)]).plot(1).axes
    assert panel.get_lines()[0].get_ydata().tolist() == [0.25]


def test_drawing_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs matplotlib, .*pip install 'jaxloop\[plot\]'"):
        make_schedule(WARMUP).plot(total_steps=30)
