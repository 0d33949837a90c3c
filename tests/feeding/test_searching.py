"""The first wild number of an array."""

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxloop.feeding.searching import beyond, first, has_nan, is_nan, on_host


def test_the_first_place_beyond_the_limits_that_weighs_something_is_found() -> None:
    labels = np.array([[0, 9], [3, -1], [2, 2]])
    assert beyond(labels, 0, 3, None) == (0, 1)
    assert beyond(labels, 0, 3, np.array([0, 1, 1])) == (1, 1)
    assert beyond(labels, 0, 3, np.array([[1, 0], [1, 0], [1, 1]])) is None
    assert beyond(labels, -1, 9, None) is None


def test_a_place_in_a_later_part_of_a_large_array_is_counted_from_its_start() -> None:
    large = np.zeros((3 * 2**20, 1), np.float32)
    large[-2] = np.nan
    assert first(large, has_nan, is_nan, None) == (len(large) - 2, 0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_nan_is_told_from_infinities_in_every_float(dtype: Any) -> None:
    numbers = np.array([1.0, np.inf, -np.inf, np.nan], dtype)
    assert is_nan(numbers).tolist() == [False, False, False, True]
    assert (bool(has_nan(numbers)), bool(has_nan(numbers[:3]))) == (True, False)


def test_only_arrays_with_numbers_in_them_are_looked_at() -> None:
    assert on_host(np.zeros(())) is None
    assert on_host(np.zeros((0, 3))) is None
    assert on_host([1, 2]) is None
    assert on_host(jax.random.split(jax.random.key(0))) is None
    assert isinstance(on_host(jax.numpy.ones(2)), np.ndarray)
