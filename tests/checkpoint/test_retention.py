"""The newest checkpoints stay, and the best."""

import math

import hypothesis
import hypothesis.strategies as st

from jaxloop.checkpoint.retention import best, kept

VALUES = st.dictionaries(st.integers(1, 99), st.none() | st.floats(width=32), max_size=8)


def test_the_newest_stay() -> None:
    assert kept({3: None, 1: None, 10: None, 2: None}, keep=2, mode=None) == {3, 10}
    assert kept({}, keep=2, mode="min") == set()


def test_the_best_stays_too_and_never_in_place_of_the_newest() -> None:
    values = {1: 0.5, 2: 0.1, 3: 0.7, 4: 0.6}
    assert kept(values, keep=1, mode="min") == {2, 4}
    assert kept(values, keep=2, mode="max") == {3, 4}


def test_of_equal_values_the_first_is_best() -> None:
    assert best({1: 0.5, 2: 0.5, 3: 0.7}, "min") == 1
    assert best({1: 0.5, 2: 0.7, 3: 0.7}, "max") == 2


def test_what_is_not_finite_is_never_best() -> None:
    values = {1: math.nan, 2: 0.5, 3: math.inf, 4: -math.inf, 5: None}
    assert best(values, "min") == best(values, "max") == 2
    assert best({1: math.nan, 2: None}, "min") is None


@hypothesis.given(VALUES, st.integers(1, 5), st.sampled_from(["min", "max", None]))
def test_the_newest_and_the_best_are_always_among_those_that_stay(values, keep, mode) -> None:
    stay = kept(values, keep=keep, mode=mode)
    assert stay >= set(sorted(values)[-keep:])
    assert len(stay) <= keep + 1
    finite = [value for value in values.values() if value is not None and math.isfinite(value)]
    if mode and finite:
        assert (min if mode == "min" else max)(finite) in [values[ordinal] for ordinal in stay]
