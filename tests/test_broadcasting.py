"""Losses that broadcast by mistake."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.broadcasting import check_spread
from jaxloop.metrics import Mean
from jaxloop.output_losses import as_loss_fn

COLUMN, FLAT = np.zeros((4, 1), np.float32), np.zeros(4, np.float32)


def squared(output: Any, target: Any) -> Any:
    return jnp.mean((output - target) ** 2)


def difference(output: Any, target: Any) -> Any:
    return output - target


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
        check_spread("loss_fn", loss_fn, output, target)


@pytest.mark.parametrize("fn", [squared, difference])
def test_the_loss_of_one_of_several_outputs_is_refused_alike(fn: Any) -> None:
    losses = as_loss_fn({"price": fn})
    assert losses is not None
    with pytest.raises(ValueError, match=r"^loss_fn: 'price': .*\(4, 1\) and \(4,\), which it broadcasts to \(4, 4\)"):
        losses({"price": COLUMN}, {"price": FLAT})
    with pytest.raises(ValueError, match=r"^loss_fn: 'price': .*\(4, 1\) and \(4,\)"):
        losses({"price": COLUMN}, FLAT)


def test_a_mean_of_all_pairs_is_refused() -> None:
    metric = Mean(difference, "gap", output="price")
    with pytest.raises(ValueError, match=r"^gap: .*\(4, 1\) and \(4,\), which it broadcasts to \(4, 4\)"):
        metric.update(metric.init(), output={"price": COLUMN}, target=FLAT, loss=None, weight=None)


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
    check_spread("loss_fn", loss_fn, output, target)
