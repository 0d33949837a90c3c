"""Losses that broadcast by mistake."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.broadcasting import check_spread

COLUMN, FLAT = np.zeros((4, 1), np.float32), np.zeros(4, np.float32)


def squared(output: Any, target: Any) -> Any:
    return jnp.mean((output - target) ** 2)


@pytest.mark.parametrize(
    ("output", "target", "fix"),
    [
        (COLUMN, FLAT, r"\(4, 1\) and \(4,\), which it broadcasts to \(4, 4\).*`output`, output\[\.\.\., 0\]"),
        (FLAT, COLUMN, r"\(4,\) and \(4, 1\).*`target`, target\[\.\.\., 0\]"),
    ],
)
@pytest.mark.parametrize("loss_fn", [squared, jax.jit(squared)])
def test_all_pairs_in_place_of_examples_are_refused(loss_fn: Any, output: Any, target: Any, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        check_spread(loss_fn, output, target)


@pytest.mark.parametrize(
    ("loss_fn", "output", "target"),
    [
        (squared, COLUMN, COLUMN),
        (squared, FLAT, FLAT),
        (squared, COLUMN[:1], FLAT[:1]),
        (lambda output, target: squared(output[:, 0], target), COLUMN, FLAT),
        (lambda output, target: squared(output.squeeze(-1), target), COLUMN, FLAT),
        (optax.softmax_cross_entropy_with_integer_labels, np.zeros((4, 3)), np.zeros(4, np.int32)),
        (lambda output, target: output["loss"], {"loss": FLAT}, FLAT),
    ],
)
def test_what_has_one_number_per_example_passes(loss_fn: Any, output: Any, target: Any) -> None:
    check_spread(loss_fn, output, target)
