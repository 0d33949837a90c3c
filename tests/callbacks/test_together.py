"""The compiled callbacks together: stepwise, fused, with the step cut for the host, and in the next fit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event, Phase
from tests import small

EPOCH = 5


def poison(loop: jl.Loop, event: Event) -> jl.Loop:
    """Makes the gradient NaN in the eighth step."""
    if event is not Event.UPDATE_START:
        return loop
    bias = jnp.where(loop.step == 7, jnp.nan, loop.gradient["bias"])
    return loop.replace(gradient=loop.gradient | {"bias": bias})


@jl.on_host(Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, reads="step")
def cut(loop: Any, event: Event) -> None:
    """Changes nothing, but cuts the step."""


def training_loop(*callbacks: Any, steps_per_dispatch: int = 1) -> jl.TrainingLoop:
    return small.training_loop(
        training=jl.TrainingEpochs(small.samples(4 * EPOCH), 4),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
        callbacks=callbacks,
        steps_per_dispatch=steps_per_dispatch,
    )


def all_of_them() -> list[Any]:
    """The patience of two epochs ends with the third, since no improvement can be as large as is asked for."""
    return [
        poison,
        jl.callbacks.stop_on_non_finite(skip=True),
        jl.callbacks.clip_by_global_norm(0.5),
        jl.callbacks.ema(0.9, evaluate=True),
        jl.callbacks.ema(0.5, debias=False, name="fast"),
        jl.callbacks.reduce_on_plateau(factor=0.5, patience=1, min_delta=100.0),
        jl.callbacks.early_stopping(patience=2, min_delta=100.0, restore_best=True),
    ]


@functools.cache
def together(steps_per_dispatch: int) -> tuple[jl.TrainingLoop, jl.Loop, jl.History]:
    made = training_loop(*all_of_them(), steps_per_dispatch=steps_per_dispatch)
    return made, *made.fit(small.model(), 6)


def test_each_of_them_did_its_part() -> None:
    _, loop, history = together(1)
    assert (history.stopped, int(loop.epoch)) == ("cancelled", 3)
    assert history.epochs["skipped_updates"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(history.epochs["learning_rate"], [0.1, 0.1, 0.05], rtol=1e-6)
    assert int(loop.callback_state["fast"]["updates"]) == 3 * EPOCH - 1
    assert int(loop.callback_state["ema"]["updates"]) == EPOCH  # what was evaluated in the best epoch
    first, _ = training_loop(jl.callbacks.clip_by_global_norm(0.5)).fit(small.model(), 1)
    assert_close(loop.model.params, first.model.params)  # the best


@pytest.mark.parametrize("steps_per_dispatch", [3, EPOCH])
def test_fused_dispatches_give_the_loop_and_the_rows_of_single_steps(steps_per_dispatch: int) -> None:
    _, loop, history = together(steps_per_dispatch)
    _, expected, rows = together(1)
    small.assert_trees_equal(loop, expected)
    for name in rows.batches:
        np.testing.assert_array_equal(history.batches[name], rows.batches[name])


def test_with_the_step_cut_for_the_host_all_is_the_same_but_for_rounding() -> None:
    apart, history = training_loop(*all_of_them(), cut).fit(small.model(), 6)
    _, expected, rows = together(1)
    assert_close((apart.model, apart.opt_state, apart.stop), (expected.model, expected.opt_state, expected.stop))
    assert_close(apart.callback_state, expected.callback_state)
    assert history.batches["step"].tolist() == rows.batches["step"].tolist()


def assert_close(one: Any, other: Any) -> None:
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7), one, other)


@pytest.mark.parametrize("steps_per_dispatch", [1, EPOCH])
def test_the_next_fit_trains_again_and_keeps_only_what_lasts(steps_per_dispatch: int) -> None:
    made, loop, _ = together(steps_per_dispatch)
    after, history = made.fit(loop, 2)
    assert (history.stopped, int(after.step)) == ("completed", 5 * EPOCH)
    assert history.epochs["skipped_updates"].tolist() == [0, 0]
    assert int(after.callback_state["fast"]["updates"]) == 5 * EPOCH - 1
    assert int(after.callback_state["ema"]["updates"]) == 2 * EPOCH  # those of the best epoch of each fit, its first
    assert int(after.callback_state["early_stopping"]["waited"]) == 1


@pytest.mark.slow
def test_a_run_that_stops_at_nan_leaves_the_same_loop_however_it_is_dispatched() -> None:
    loops = []
    for steps_per_dispatch in (1, 3, EPOCH):
        callbacks = [poison, jl.callbacks.stop_on_non_finite(), jl.callbacks.ema(0.9)]
        with pytest.raises(jl.errors.NonFiniteError, match=r"at step 8 \(epoch 2, batch 3") as caught:
            training_loop(*callbacks, steps_per_dispatch=steps_per_dispatch).fit(small.model(), 3)
        loops.append(caught.value.loop)
    small.assert_trees_equal(loops[1], loops[0])
    small.assert_trees_equal(loops[2], loops[0])
    assert int(loops[0].callback_state["ema"]["updates"]) == 7


def test_by_hand_and_as_one_program_they_give_the_same_parameters() -> None:
    made = training_loop(*all_of_them())
    epoch = made.training[0]
    loop = made.begin_epoch(made.start(small.model(), epochs=1))
    stepped = loop
    for batch in epoch:
        stepped = made.train_step(stepped, batch)
    stacked = tuple(np.stack(column) for column in zip(*epoch, strict=True))
    scanned, rows = made.run_steps(loop, stacked)
    small.assert_trees_equal(scanned.model.params, stepped.model.params)
    small.assert_trees_equal(scanned.callback_state["ema"], stepped.callback_state["ema"])
    assert rows["counted"].tolist() == [True] * EPOCH
    measured = made.eval_step(stepped, epoch[0])
    assert measured.phase is Phase.VALIDATION
    small.assert_trees_equal(measured.model.params, stepped.model.params)


EACH = {
    "clip_by_global_norm": lambda: jl.callbacks.clip_by_global_norm(0.5),
    "learning_rate_scheduler": lambda: jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.5))),
    "hyperparameter_scheduler": lambda: jl.callbacks.hyperparameter_scheduler("b1", optax.linear_schedule(0.5, 0.9, 9)),
    "ema": lambda: jl.callbacks.ema(0.9, evaluate=True),
    "early_stopping": lambda: jl.callbacks.early_stopping(patience=1, min_delta=100.0, restore_best=True),
    "reduce_on_plateau": lambda: jl.callbacks.reduce_on_plateau(factor=0.5, patience=1, min_delta=100.0),
    "stop_on_non_finite": lambda: jl.callbacks.stop_on_non_finite(skip=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_each_alone_gives_fused_what_it_gives_in_single_steps(make: Any) -> None:
    (single, rows), (fused, fused_rows) = (
        training_loop(make(), steps_per_dispatch=steps).fit(small.model(), 3) for steps in (1, 3)
    )
    small.assert_trees_equal(single, fused)
    for name in rows.batches:
        np.testing.assert_array_equal(rows.batches[name], fused_rows.batches[name])


@pytest.mark.parametrize("kind", [jl.callbacks.CSVLogger, jl.callbacks.TensorBoardLogger, jl.callbacks.ImageSaver])
def test_messages_name_a_logger_as_a_user_has_written_it(kind: Any, tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=kind.__name__) as caught:
        small.training_loop(callbacks=[kind(tmp_path / "file" / "log.csv")]).fit(small.model(), 1)
    assert f"in callback {kind.__name__!r} at FIT_START" in caught.value.__notes__[0]
