"""What an object keeps, as plain values that are equal for equal content and otherwise for other content."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop import Event
from jaxloop.testing.keeping import kept, plain, short
from tests.testing import candidates


def test_attributes_slots_and_what_functions_have_closed_over_are_kept() -> None:
    class Slotted:
        __slots__ = ("_b", "a")

        def __init__(self) -> None:
            self.a, self._b = 1, [2]

    class Caching:
        @functools.cached_property
        def found(self) -> int:
            return 3

    caching = Caching()
    assert caching.found == 3
    assert kept(Slotted()) == {"a": 1, "_b": ["list", 2]}
    assert kept(caching) == {}
    assert kept(candidates.counting_in_a_variable(Path())) == {"seen": 0}
    assert kept(candidates.counting_in_the_module)["global _lost"] == {"count": candidates._lost["count"]}
    assert kept(candidates.Counting(Path("here"))) == {"folder": "here", "count": 0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1, 2], (1, 2)),
        ([1], [1, 2]),
        ({1}, {2}),
        ({"a": 1}, {"a": 2}),
        (b"a", "a"),
        (np.zeros(2), np.zeros(2, np.float32)),
        (jnp.zeros(2), jnp.zeros((2, 1))),
        (jax.random.key(0), jax.random.key(1)),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (Event.FIT_START, Event.FIT_END),
        (candidates.Counting(Path("a")), candidates.Counting(Path("b"))),
    ],
)
def test_other_content_is_another_value_and_json_holds_it(one: Any, other: Any) -> None:
    assert json.loads(json.dumps(plain(one))) == json.loads(json.dumps(plain(one)))
    assert json.dumps(plain(one)) != json.dumps(plain(other))


def test_equal_content_is_equal_even_where_python_says_otherwise_and_circles_end() -> None:
    assert plain(float("nan")) == plain(float("nan"))
    assert plain(object()) == plain(object())
    circle: list[Any] = []
    circle.append(circle)
    assert "deeper" in json.dumps(plain(circle))


def test_a_long_text_is_cut() -> None:
    assert (short("a" * 100), short("a" * 101)) == ("a" * 100, "a" * 97 + "...")
