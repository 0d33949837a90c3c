"""What a loss or gradient that is not finite does to a fit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event, Scope
from jaxloop.callbacks import early_stopping, stop_on_non_finite
from tests import small
from tests.callbacks.test_ema import assert_close, params_by_hand

NAN, INF = float("nan"), float("inf")


def poisoned(at: int, *, leaf: str = "bias", value: float = NAN) -> Any:
    """A compiled callback that puts `value` into the gradient of `leaf` at the step `at`, counted from 0."""

    def poison(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is not Event.UPDATE_START:
            return loop
        array = loop.gradient[leaf]
        bad = jnp.where(loop.step == at, array.at[(0,) * array.ndim].set(value), array)
        return loop.replace(gradient=loop.gradient | {leaf: bad})

    return poison


def failed(callbacks: list[Any], epochs: int = 2, **changes: Any) -> jl.errors.NonFiniteError:
    """The error by which the fit ends."""
    with pytest.raises(jl.errors.NonFiniteError) as caught:
        small.training_loop(callbacks=callbacks, **changes).fit(small.model(), epochs)
    return caught.value


@pytest.mark.parametrize(("at", "steps_per_dispatch"), [(0, 1), (4, 3), (5, 2)])
def test_the_first_a_middle_or_the_last_step_ends_the_fit_by_name_with_the_parameters_before_it(at, steps_per_dispatch):
    error = failed([poisoned(at), stop_on_non_finite()], steps_per_dispatch=steps_per_dispatch)
    place = f"at step {at + 1} (epoch {at // 3 + 1}, batch {at % 3 + 1}, all counted from 1)"
    assert f"stop_on_non_finite: {place} the gradient ['bias'] is not finite. The update was not made" in str(error)
    assert "Lower the learning rate, clip the gradient, look at the batch, or skip such updates by skip=True." in str(
        error
    )
    expected = params_by_hand(2)[at - 1] if at else small.model().params
    assert_close(error.loop.model.params, expected)
    assert int(error.loop.step) == at + 1


def with_nan_in_batch(batch: int) -> list[jl.Batches]:
    """Two epochs of three batches, one example of the first epoch being NaN."""
    images, labels = small.samples(12)
    images = images.copy()
    images[4 * batch, 0] = NAN
    clean = jl.in_batches(small.samples(12), 4)
    return [jl.in_batches((images, labels), 4), clean]


def test_a_batch_of_nan_is_told_by_its_loss_and_its_loop_trains_on_at_a_lower_rate():
    training_loop = small.training_loop(
        training=with_nan_in_batch(1), callbacks=[stop_on_non_finite()], steps_per_dispatch=3, check="first"
    )
    with pytest.raises(
        jl.errors.NonFiniteError, match=r"at step 2 \(epoch 1, batch 2,.* the loss is not fin"
    ) as caught:
        training_loop.fit(small.model(), 2)
    loop = caught.value.loop
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), loop.model.params))
    loop = loop.with_hyperparameter("learning_rate", 0.01)
    after, history = training_loop.fit(loop, 1)  # its second epoch
    assert np.isfinite(history.batches["loss"]).all()
    assert int(after.step) == 5

    clean = small.training_loop(training=[jl.in_batches(small.samples(12), 4)] * 2)
    expected, _ = clean.fit(
        clean.fit(small.model(), 1, limit_batches=1)[0].with_hyperparameter("learning_rate", 0.01), 1
    )
    small.assert_trees_equal(after.model.params, expected.model.params)


def two_layers(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    return jnp.tanh(input @ params["first"]) @ params["second"] @ params["third"], state


def test_an_absurd_rate_stops_before_the_update_that_would_make_nan():
    random = np.random.default_rng(0)
    params = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in [("first", (4, 5)), ("second", (5, 5)), ("third", (5, 3))]
    }
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1e20)
    training_loop = small.training_loop(optimizer=optimizer, callbacks=[stop_on_non_finite()])
    with pytest.raises(
        jl.errors.NonFiniteError, match=r"at step 2 \(epoch 1, batch 2.* the loss is not finite. The upd"
    ) as caught:
        training_loop.fit(jl.Model(two_layers, params, {}), 3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.loop.model.params))
    assert int(caught.value.loop.step) == 2


def test_infinity_is_found_as_nan_is_and_the_first_leaf_is_named():
    error = failed([poisoned(2, leaf="kernel", value=-INF), poisoned(2, leaf="bias"), stop_on_non_finite()])
    assert "the gradient ['bias'] is not finite" in str(error)
    error = failed([poisoned(2, leaf="kernel", value=-INF), stop_on_non_finite()])
    assert "the gradient ['kernel'] is not finite" in str(error)


def overflowing(at: int) -> Any:
    """A compiled callback that makes the gradient at the step `at` finite and so large that the update is not."""
    return poisoned(at, leaf="kernel", value=3e38)


def test_an_update_that_overflows_is_found_in_the_next_step():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=10.0)
    error = failed([overflowing(0), stop_on_non_finite()], optimizer=optimizer)
    assert "at step 2 (epoch 1, batch 2, all counted from 1) the loss is not finite" in str(error)
    assert "the parameter ['kernel'] was not before: an earlier update has overflowed. Lower the" in str(error)


@pytest.mark.parametrize("skip", [False, True])
def test_an_update_that_overflows_in_the_last_step_of_training_is_found_there(skip):
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=10.0)
    error = failed([overflowing(2), stop_on_non_finite(skip=skip)], epochs=1, optimizer=optimizer)
    assert "after step 3 (epoch 1, batch 3, all counted from 1), where training ends" in str(error)
    assert "the parameter ['kernel'] is not finite, though the gradients were" in str(error)


def test_the_best_model_is_there_to_go_on_from_even_then():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=10.0)
    callbacks = [overflowing(4), stop_on_non_finite(), early_stopping("loss", restore_best=True)]
    error = failed(callbacks, optimizer=optimizer)
    best, _ = small.training_loop(optimizer=optimizer).fit(small.model(), 1)
    small.assert_trees_equal(error.loop.model, best.model)


def test_every_event_and_row_comes_before_the_error_and_the_logs_are_whole(tmp_path: Path):
    seen: list[Event] = []
    logger = jl.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [poisoned(4), stop_on_non_finite(), logger, small.witness(seen)]
    error = failed(callbacks, steps_per_dispatch=3)
    assert seen[-3:] == [Event.TRAINING_END, Event.EPOCH_END, Event.FIT_END]
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines if ",training," in line] == [
        ["1", "1"],
        ["1", "2"],
        ["1", "3"],
        ["2", "1"],
    ]
    assert any("callback 'stop_on_non_finite' at FIT_END" in note for note in error.__notes__)


def test_skipped_updates_are_left_out_and_counted():
    callbacks = [poisoned(1), poisoned(3, leaf="kernel", value=INF), stop_on_non_finite(skip=True)]
    training_loop = small.training_loop(callbacks=callbacks, steps_per_dispatch=2)
    loop, history = training_loop.fit(small.model(), 3)
    expected = params_by_hand(3, skipped=(1, 3))
    assert_close(loop.model.params, expected[-1])
    assert history.stopped == "completed"
    assert history.batches["step"].tolist() == [1, 3, 5, 6, 7, 8, 9]
    assert history.batches["skipped_updates"].tolist() == [0, 1, 2, 2, 2, 2, 2]
    assert history.epochs["skipped_updates"].tolist() == [1, 2, 2]
    assert int(loop.model.state["passes"]) == 7
    assert training_loop.fit(loop, 1)[1].epochs["skipped_updates"].tolist() == [0]


@pytest.mark.parametrize("skip", [False, True])
def test_where_all_is_finite_nothing_changes(skip):
    loop, _ = small.training_loop(callbacks=[stop_on_non_finite(skip=skip)]).fit(small.model(), 2)
    plain, _ = small.training_loop().fit(small.model(), 2)
    small.assert_trees_equal((loop.model, loop.opt_state), (plain.model, plain.opt_state))


def test_a_batch_that_was_cancelled_already_ends_nothing():
    def cancels(loop, event):
        return loop.cancel(Scope.BATCH, when=loop.step == 1) if event is Event.UPDATE_START else loop

    callbacks = [poisoned(1), cancels, stop_on_non_finite()]
    _, history = small.training_loop(callbacks=callbacks).fit(small.model(), 1)
    assert history.batches["step"].tolist() == [1, 3]


def test_a_loss_that_weighs_nothing_does_not_count():
    def loss_fn(output, target):
        return jnp.where(target == 2, NAN, jl.losses.softmax_cross_entropy(output, target))

    images, labels = small.samples(12)
    assert 2 in labels[4:8]
    training = [jl.in_batches((images, labels, (labels != 2).astype(np.float32)), 4)]
    training_loop = small.training_loop(training=training, loss_fn=loss_fn, callbacks=[stop_on_non_finite()])
    assert training_loop.fit(small.model(), 1, limit_batches=2)[1].stopped == "completed"


def test_who_owns_the_loop_finds_the_fit_cancelled():
    training_loop = small.training_loop(callbacks=[poisoned(1), stop_on_non_finite()])
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    batch = jl.in_batches(small.samples(4), 4)[0]
    loop = training_loop.train_step(loop, batch)
    assert int(loop.stop) == 0
    assert int(training_loop.train_step(loop, batch).stop) == Scope.FIT
