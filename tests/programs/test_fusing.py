"""How many steps a dispatch takes: a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.programs.fusing import MOST_STEPS, steps_ahead, steps_per_dispatch


def decided(flops=1e5, batch_bytes=8192, batch_count=1024, platform="cpu", slow_in_loops=False):
    return steps_per_dispatch(
        flops=flops,
        batch_bytes=batch_bytes,
        batch_count=batch_count,
        platform=platform,
        slow_in_loops=slow_in_loops,
    )


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 32),
        ({"batch_count": 100}, 25),  # divides the phase
        ({"batch_count": 31}, 31),
        ({"batch_count": 37}, 32),  # nothing from 17 to 32 divides it
        ({"batch_count": 1}, 1),
        ({"flops": 0.0}, 32),
        ({"flops": 1e12}, 1),
        ({"flops": 1e12, "platform": "gpu"}, 1),
        ({"flops": 1e9, "platform": "gpu"}, 16),
        ({"flops": 1e9, "platform": "tpu"}, 32),
        ({"batch_bytes": 2**24}, 4),
        ({"batch_bytes": 2**30}, 1),
        ({"slow_in_loops": True}, 1),
    ],
)
def test_steps_follow_from_the_work_the_platform_and_the_phase(changes, steps):
    assert decided(**changes).steps == steps


@given(st.floats(0, 1e13), st.integers(1, 2**30), st.integers(1, 5000), st.sampled_from(["cpu", "gpu", "tpu", "other"]))
def test_there_are_never_fewer_than_one_nor_more_than_are_allowed(flops, batch_bytes, batch_count, platform):
    fusing = decided(flops, batch_bytes, batch_count, platform)
    assert 1 <= fusing.steps <= min(MOST_STEPS, batch_count)
    assert fusing == decided(flops, batch_bytes, batch_count, platform)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, r"a step has 1e\+05 FLOPs; 32 of them, which divide the phase, make a dispatch for a cpu"),
        ({"flops": 1e13}, "work enough for a dispatch"),
        ({"slow_in_loops": True}, "cannot be rewritten"),
    ],
)
def test_it_says_why(changes, why):
    assert re.search(why, decided(**changes).why)


def test_small_steps_may_be_sent_far_ahead_and_large_ones_one_by_one() -> None:
    assert [steps_ahead(flops) for flops in (0, 1e6, 1e8, 3e8, 1e12)] == [32, 32, 5, 1, 1]


def test_devices_with_work_of_their_own_each_have_their_part_of_a_step():
    whole = steps_per_dispatch(flops=1e11, batch_bytes=1, batch_count=32, platform="tpu")
    parts = steps_per_dispatch(flops=1e11, batch_bytes=1, batch_count=32, platform="tpu", parts=8)
    assert (whole.steps, parts.steps) == (1, 8)
    assert (
        parts.why
        == "a step has 1.25e+10 FLOPs on each device; 8 of them, which divide the phase, make a dispatch for a tpu"
    )
