"""What `early_stopping(restore_best=True)` puts back: the model of the best epoch, as it was evaluated there."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop import Event, Phase
from jaxloop.callbacks import early_stopping, ema
from tests import small
from tests.callbacks.scores import INF, NAN, best_of, scored
from tests.compiling import counted_compiles


@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
def test_the_best_model_is_put_back_however_the_fit_ends(scores):
    callbacks = [scored(scores), early_stopping("score", patience=2, mode="min", restore_best=True)]
    loop, history = best_of(callbacks, len(scores))
    best, _ = small.training_loop().fit(small.model(), 2)
    assert history.stopped == ("cancelled" if len(scores) == 5 else "completed")
    small.assert_trees_equal(loop.model, best.model)
    assert int(loop.step) == 3 * min(len(scores), 4)


def test_where_no_epoch_was_finite_the_last_model_stays():
    callbacks = [scored([NAN, INF, NAN]), early_stopping("score", mode="min", restore_best=True)]
    last, _ = small.training_loop().fit(small.model(), 3)
    small.assert_trees_equal(best_of(callbacks, 3)[0].model, last.model)


def test_streams_of_random_numbers_are_put_back_with_the_model():
    def network() -> nnx.Module:
        return nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))

    callbacks = [scored([1.0, 2.0]), early_stopping("score", mode="min", restore_best=True)]
    loop, _ = small.training_loop(callbacks=callbacks).fit(network(), 2)
    best, _ = small.training_loop().fit(network(), 1)
    small.assert_trees_equal(loop.model, best.model)


VALIDATION = jl.in_batches(small.samples(8, seed=1), 4)
BEST_OF_FIVE = [3.0, 2.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("ema_first", "steps", "dtype"),
    [(True, 1, jnp.float32), (False, 1, jnp.bfloat16), (False, "auto", jnp.float32), (True, "auto", jnp.bfloat16)],
)
def test_what_was_evaluated_in_the_best_epoch_comes_back(ema_first, steps, dtype):
    callbacks = [ema(0.8, evaluate=True), early_stopping("score", mode="min", restore_best=True)]
    training_loop = small.training_loop(
        callbacks=[scored(BEST_OF_FIVE), *(callbacks if ema_first else callbacks[::-1])], steps_per_dispatch=steps
    )
    loop, history = training_loop.fit(of_dtype(dtype), 5)
    losses = history.epochs["validation_loss"]
    assert training_loop.evaluate(loop, VALIDATION)["loss"] == pytest.approx(losses[2], rel=1e-6)
    assert losses[2] != pytest.approx(losses[4], rel=1e-3)

    until_then, _ = training_loop.fit(of_dtype(dtype), 3)
    small.assert_trees_equal(loop.model, until_then.model)
    small.assert_trees_equal(loop.callback_state["ema"]["average"], until_then.callback_state["ema"]["average"])
    assert loop.callback_state["ema"]["updates"] == loop.model.state["passes"] == 9

    again, history = training_loop.fit(loop, 1)  # it goes on from there, and what is best is unknown again
    measured = training_loop.evaluate(again, VALIDATION)["loss"]
    assert measured == pytest.approx(history.epochs["validation_loss"][0], rel=1e-6)
    assert again.callback_state["ema"]["updates"] == 12


def of_dtype(dtype: Any) -> jl.Model:
    model = small.model()
    return model.replace(params=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params))


@pytest.mark.parametrize("order", [1, -1])
def test_a_second_fit_compiles_nothing_whatever_the_order(order):
    callbacks = [ema(0.8, evaluate=True), early_stopping(restore_best=True)][::order]
    training_loop = small.training_loop(callbacks=callbacks)
    training_loop.fit(small.model(), 1)
    with counted_compiles() as compiled:
        training_loop.fit(small.model(), 2)
    assert dict(compiled) == {}


def test_an_average_that_is_not_evaluated_stays_the_last():
    stopping = early_stopping("score", mode="min", restore_best=True)
    loop, history = best_of([scored(BEST_OF_FIVE), ema(0.8), stopping], 5)
    last, _ = best_of([ema(0.8)], 5)
    small.assert_trees_equal(loop.callback_state["ema"], last.callback_state["ema"])
    measured = small.training_loop().evaluate(loop.model, VALIDATION)["loss"]
    assert measured == pytest.approx(history.epochs["validation_loss"][2], rel=1e-6)


def halved_in_validation(**options: Any) -> Any:
    """A compiled callback that evaluates half of what the parameters are after training."""

    def exchange(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is Event.FIT_START:
            return loop.remember("old", {"half": loop.model.params, "set_aside": loop.model.params}, **options)
        memory = loop.callback_state["old"]
        if event is Event.TRAINING_END:
            memory = memory | {"half": jax.tree.map(lambda leaf: leaf / 2, loop.model.params)}
        elif loop.phase is Phase.VALIDATION and event is Event.BATCH_START:
            memory, params = memory | {"set_aside": loop.model.params}, memory["half"]
            loop = loop.replace(model=loop.model.replace(params=params))
        elif loop.phase is Phase.VALIDATION and event is Event.BATCH_END:
            loop = loop.replace(model=loop.model.replace(params=memory["set_aside"]))
        return loop.replace(callback_state=loop.callback_state | {"old": memory})

    return exchange


def test_what_a_callback_of_ones_own_evaluates_comes_back_where_it_says_so():
    stopping = early_stopping("score", mode="min", restore_best=True)
    callbacks = [scored(BEST_OF_FIVE), stopping, halved_in_validation(evaluated=True)]
    training_loop = small.training_loop(callbacks=callbacks)
    loop, history = training_loop.fit(small.model(), 5)
    measured = training_loop.evaluate(loop, VALIDATION)["loss"]
    assert measured == pytest.approx(history.epochs["validation_loss"][2], rel=1e-6)


def test_where_it_does_not_say_so_the_best_is_refused():
    message = r"halved_in_validation.* other parameters.*'early_stopping.*'old'.*evaluated=True"
    with pytest.raises(ValueError, match=message):
        best_of([early_stopping(restore_best=True), halved_in_validation()], 1)
    best_of([early_stopping(), halved_in_validation()], 1)  # where nothing is restored it may
