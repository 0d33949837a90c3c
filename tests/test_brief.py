"""Values in messages."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.brief import brief


class Wild:
    def __repr__(self) -> str:
        raise RuntimeError("mine")


class Long:
    def __repr__(self) -> str:
        return "Long(\n)"


class Odd(Long): ...


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (None, "None"),
        ("adam", "'adam'"),
        (Wild(), "a Wild"),
        (Long(), "a Long"),
        (Odd(), "an Odd"),
        (Wild, "the class Wild"),
        (lambda: 0, "the function <lambda>"),
        ([0] * 100, "a list of 100"),
        (np.zeros((2, 3)), "float64[2, 3]"),
        (jnp.zeros(2), "float32[2]"),
    ],
)
def test_a_value_is_named_on_one_short_line(value: Any, expected: str) -> None:
    assert brief(value) == expected
