"""Whose part of a step went wrong."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.blame import checked_loss, kinds_of, located, of_first_batch


def test_a_note_names_part_phase_and_arrays_once(loop: jl.Loop) -> None:
    loop = loop.replace(phase=jl.Phase.TRAINING)
    error, images = ValueError("mine"), np.zeros((32, 7), np.float32)
    for _ in range(2):
        with (
            pytest.raises(ValueError, match="mine") as caught,
            located("the model", loop, images),
        ):
            raise error
    assert caught.value.__notes__ == ["jaxloop: in the model, training batch, float32[32, 7]"]


def test_the_first_batch_is_named_where_it_is_known(loop: jl.Loop) -> None:
    with (
        pytest.raises(ValueError, match="mine") as caught,
        of_first_batch(),
        located(
            "loss_fn", loop.replace(phase=jl.Phase.VALIDATION), {"output": np.zeros(2), "target": np.zeros(2, int)}
        ),
    ):
        raise ValueError("mine")
    assert caught.value.__notes__ == ["jaxloop: in loss_fn, validation batch 1, output float64[2], target int64[2]"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (np.zeros(2, np.float32), "float32[2]"),
        ((np.zeros(2, np.int8), {"a": np.zeros((), bool)}), "0 int8[2], 1.a bool[]"),
        ([np.zeros(1, np.int8)] * 6, "0 int8[1], 1 int8[1], 2 int8[1], 3 int8[1] and 2 more"),
        (None, "None"),
        ("text", "str"),
    ],
)
def test_arrays_are_named_with_their_paths(tree: Any, expected: str) -> None:
    assert kinds_of(tree) == expected


def test_a_loss_is_one_array_or_a_number() -> None:
    assert checked_loss("loss_fn", jnp.ones(3)).shape == (3,)
    assert checked_loss("loss_fn", 1.0) == 1.0
    for wrong, got in (((jnp.ones(()), jnp.ones(2)), "a tuple of 0 float32\\[\\], 1 float32\\[2\\]"), (None, "None")):
        with pytest.raises(TypeError, match=f"loss_fn: the loss must be one array, got {got}. Return the loss alone"):
            checked_loss("loss_fn", wrong)
