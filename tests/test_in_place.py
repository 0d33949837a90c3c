"""Changes in place."""

from typing import Any

import jax.numpy as jnp
import pytest

import jaxloop as jl
from jaxloop.in_place import check_untouched, held_by


def test_a_loop_that_stays_as_it_is_passes(loop: jl.Loop) -> None:
    held = held_by(loop)
    loop.record("mine", 1.0).remember("mine", 2.0)
    check_untouched("callback 'mine'", held)


def put(container: dict[Any, Any], name: str) -> None:
    container[name] = jnp.zeros(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda loop: put(loop.stats, "x"),
            r"`loop\.stats\['x'\]` in place.*loop = loop\.record\('x', value\)",
        ),
        (
            lambda loop: put(loop.callback_state["mine"], "x"),
            r"loop\.callback_state\['mine'\]\['x'\]`.*\{'x': value\}",
        ),
        (lambda loop: put(loop.model.params, "bias"), r"`loop\.model\.params\['bias'\]`.*loop\.model\.replace\(params"),
        (lambda loop: loop.model.params.pop("bias"), r"`loop\.model\.params\['bias'\]`"),
        (lambda loop: loop.callback_state.clear(), r"`loop\.callback_state\['mine'\]`"),
    ],
)
def test_a_change_is_refused_with_the_line_to_write(loop: jl.Loop, change: Any, message: str) -> None:
    loop = loop.remember("mine", {"a": 1.0})
    held = held_by(loop)
    change(loop)
    with pytest.raises(TypeError, match=message):
        check_untouched("callback 'mine'", held)
