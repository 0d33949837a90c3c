"""Gradient clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.callbacks import clip_by_global_norm
from jaxloop.events import Event

GRADIENT = {"weight": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([12.0])}  # of norm 13


def clipped(loop, max_norm, gradient=GRADIENT, event=Event.UPDATE_START):
    return clip_by_global_norm(max_norm)(loop.replace(gradient=gradient), event)


@pytest.mark.parametrize("max_norm", [0.5, 6.5, 12.9, 13.0, 100.0])
def test_the_gradient_is_that_of_optax(loop, max_norm):
    expected, _ = optax.clip_by_global_norm(max_norm).update(GRADIENT, optax.EmptyState())
    jax.tree.map(np.testing.assert_allclose, clipped(loop, max_norm).gradient, expected)


def test_a_clipped_gradient_has_the_largest_norm_let_through(loop):
    assert optax.tree.norm(clipped(loop, 6.5).gradient) == pytest.approx(6.5)


def test_a_gradient_below_the_limit_is_left_bit_for_bit(loop):
    jax.tree.map(np.testing.assert_array_equal, clipped(loop, 14.0).gradient, GRADIENT)


def test_no_gradient_stays_none(loop):
    gradient = jax.tree.map(jnp.zeros_like, GRADIENT)
    jax.tree.map(np.testing.assert_array_equal, clipped(loop, 1.0, gradient).gradient, gradient)


def test_the_norm_before_clipping_is_recorded(loop):
    assert clipped(loop, 1.0).stats["gradient_norm"] == 13.0


def test_the_gradient_keeps_its_type(loop):
    gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), GRADIENT)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(clipped(loop, 1.0, gradient).gradient))


@pytest.mark.parametrize("event", [event for event in Event if event is not Event.UPDATE_START])
def test_at_other_events_the_loop_is_left_alone(loop, event):
    held = loop.replace(gradient=GRADIENT)
    assert clip_by_global_norm(1.0)(held, event) is held


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(max_norm):
    with pytest.raises(ValueError, match=f"clip_by_global_norm: `max_norm` must be above 0, got {max_norm}"):
        clip_by_global_norm(max_norm)
