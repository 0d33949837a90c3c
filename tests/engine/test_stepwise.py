"""Steps taken apart: what host callbacks see and change in the middle of one."""

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small


def test_a_callback_that_keeps_every_loop_can_read_all_of_them_afterwards() -> None:
    kept: list[jl.Loop] = []

    @jl.on_host(*Event, reads="loop")
    def keep(loop, event):
        kept.append(loop)

    small.training_loop(callbacks=[keep]).fit(small.model(), 2)
    assert len(kept) == 2 + 2 * (2 + 2 + 3 * 3 + 2 + 2 * 3)  # fits, epochs, phases and the events of each step
    totals = [float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(loop.model.params))) for loop in kept]
    assert np.isfinite(totals).all()
    assert len(set(totals)) == 7  # the first, and one after each of six updates


def test_what_a_host_callback_returns_between_gradient_and_update_counts() -> None:
    @jl.on_host(Event.UPDATE_START, reads="loop")
    def no_gradient(loop, event):
        return loop.replace(gradient=jax.tree.map(np.zeros_like, loop.gradient))

    model = small.model()
    loop, _ = small.training_loop(callbacks=[no_gradient]).fit(model, 1)
    small.assert_trees_equal(loop.model.params, model.params)
    assert int(loop.step) == 3


def test_a_host_callback_reads_the_step_at_hand() -> None:
    shapes: list[tuple[int, ...]] = []

    @jl.on_host(Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, reads="step")
    def look(loop, event):
        shapes.append(np.shape(loop.output))
        assert (loop.gradient is None) == (event is Event.INFERENCE_PREDICTION_END)

    small.training_loop(callbacks=[look]).fit(small.model(), 1)
    assert shapes == [(4, 3)] * 5


def test_reading_what_was_not_declared_says_what_to_declare() -> None:
    @jl.on_host(Event.BATCH_END)
    def curious(loop, event):
        return loop.output

    with pytest.raises(AttributeError, match=r"(?s)'.*curious'.*reads='stats'.*loop\.output.*reads='step'"):
        small.training_loop(callbacks=[curious]).fit(small.model(), 1)


def test_a_view_cannot_be_changed() -> None:
    @jl.on_host(Event.EPOCH_END)
    def meddle(loop, event):
        return loop.replace(step=0)

    with pytest.raises(AttributeError, match="reads='loop'"):
        small.training_loop(callbacks=[meddle]).fit(small.model(), 1)
