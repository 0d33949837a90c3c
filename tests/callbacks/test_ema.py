"""The moving average of the parameters, against optax and a loop by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from jaxloop.callbacks import ema
from tests import small


def params_by_hand(epochs: int, skipped: tuple[int, ...] = ()) -> list[Any]:
    """The parameters behind each update of a plain loop, on the data and the optimizer of `small`."""
    training = jl.TrainingEpochs(small.samples(12), batch_size=4)
    params, found = small.model().params, []

    @jax.jit
    def updated(params, input, target):
        def loss_fn(params):
            logits = input @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        return jax.tree.map(lambda param, gradient: param - 0.1 * gradient, params, jax.grad(loss_fn)(params))

    batches = [batch for epoch in range(epochs) for batch in training[epoch]]
    for step, batch in enumerate(batches):
        if step not in skipped:
            params = updated(params, *batch)
            found.append(params)
    return found


def biased(history: list[Any], decay: float) -> Any:
    average = small.model().params
    for params in history:
        average = optax.incremental_update(params, average, 1 - decay)
    return average


def debiased(history: list[Any], decay: float) -> Any:
    """The mean by weights `decay**age`, in float64."""
    weights = decay ** np.arange(len(history) - 1, -1, -1, dtype=np.float64)
    return jax.tree.map(lambda *leaves: np.average(np.stack(leaves), axis=0, weights=weights), *history)


@functools.cache
def without_evaluation(epochs: int, dtype: Any = jnp.float32) -> jl.Loop:
    return small.training_loop(callbacks=[ema(0.9)]).fit(model_of(dtype), epochs)[0]


def model_of(dtype: Any) -> jl.Model:
    model = small.model()
    return model.replace(params=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params))


def assert_close(one: Any, other: Any) -> None:
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-6, atol=1e-7), one, other)


def average_of(loop: jl.Loop, name: str = "ema") -> Any:
    return loop.callback_state[name]["average"]


def test_the_average_is_the_mean_behind_every_update_by_age():
    assert_close(average_of(without_evaluation(3)), debiased(params_by_hand(3), 0.9))


def test_without_debias_the_average_is_that_of_a_loop_with_optax():
    loop, _ = small.training_loop(callbacks=[ema(0.9, debias=False)]).fit(small.model(), 3)
    assert_close(average_of(loop), biased(params_by_hand(3), 0.9))


def moved(loop: jl.Loop, callback: Any, biases: list[list[float]]) -> jl.Loop:
    """The loop once `callback` has seen the end of an update for each of `biases`."""
    loop = callback(loop, Event.FIT_START).replace(phase=Phase.TRAINING)
    for bias in biases:
        params = loop.model.params | {"bias": jnp.array(bias)}
        loop = callback(loop.replace(model=loop.model.replace(params=params)), Event.BATCH_END)
    return loop


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_the_debiased_average_is_exact_for_any_decay(loop, decay):
    biases = np.random.default_rng(0).normal(size=(20, 2)).tolist()
    after = moved(loop, ema(decay), biases)
    expected = np.average(biases, axis=0, weights=decay ** np.arange(19.0, -1, -1))
    np.testing.assert_allclose(average_of(after)["bias"], expected, rtol=1e-5)


def test_the_debiased_average_is_that_of_optax(loop):
    biases = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    transformation = optax.ema(0.5, debias=True)
    state, expected = transformation.init(biases[0]), None
    for bias in biases:
        expected, state = transformation.update(bias, state)
    np.testing.assert_allclose(average_of(moved(loop, ema(0.5), biases.tolist()))["bias"], expected, rtol=1e-5)


def test_the_first_update_alone_makes_the_debiased_average(loop):
    np.testing.assert_allclose(average_of(moved(loop, ema(0.9999), [[3.0, -5.0]]))["bias"], [3.0, -5.0], rtol=1e-6)


def test_narrow_parameters_are_averaged_in_float32(loop):
    loop = loop.replace(model=loop.model.replace(params={"bias": jnp.zeros(2, jnp.bfloat16)}))
    callback = ema(0.999, debias=False)
    loop = callback(loop, Event.FIT_START).replace(phase=Phase.TRAINING)
    loop = loop.replace(model=loop.model.replace(params={"bias": jnp.ones(2, jnp.bfloat16)}))
    for _ in range(3):
        loop = callback(loop, Event.BATCH_END)
    assert average_of(loop)["bias"].dtype == jnp.float32
    np.testing.assert_allclose(average_of(loop)["bias"], 1 - 0.999**3, rtol=1e-4)  # in bfloat16 it stays 0


def test_the_model_itself_is_trained_as_without():
    loop, _ = small.training_loop(callbacks=[ema(0.9, evaluate=True)]).fit(small.model(), 2)
    plain, _ = small.training_loop().fit(small.model(), 2)
    small.assert_trees_equal(loop.model, plain.model)


def test_the_next_fit_keeps_the_average():
    training_loop = small.training_loop(callbacks=[ema(0.9, evaluate=True)])
    first, _ = training_loop.fit(small.model(), 2)
    second, _ = training_loop.fit(first, 2)
    whole, _ = training_loop.fit(small.model(), 4)
    small.assert_trees_equal(average_of(second), average_of(whole))
    assert int(second.callback_state["ema"]["updates"]) == 12


@pytest.mark.parametrize(("at", "first"), [(Event.BATCH_START, True), (Event.UPDATE_START, False)])
def test_a_cancelled_batch_does_not_move_the_average(at, first):
    def skip(loop, event):
        here = event is at and loop.phase is Phase.TRAINING
        return loop.cancel(Scope.BATCH, when=(loop.step == 1) | (loop.step == 3)) if here else loop

    callbacks = [skip, ema(0.9)] if first else [ema(0.9), skip]
    loop, _ = small.training_loop(callbacks=callbacks).fit(small.model(), 2)
    assert int(loop.callback_state["ema"]["updates"]) == 4
    assert_close(average_of(loop), debiased(params_by_hand(2, skipped=(1, 3)), 0.9))


def test_the_steps_behind_a_cancelled_fit_do_not_move_the_average():
    def end(loop, event):
        return loop.cancel(Scope.FIT, when=loop.step == 1) if event is Event.BATCH_END else loop

    loop, _ = small.training_loop(callbacks=[ema(0.9), end], steps_per_dispatch=3).fit(small.model(), 2)
    assert_close(average_of(loop), debiased(params_by_hand(1)[:2], 0.9))


def test_what_never_changes_is_its_own_average_to_the_last_bit():
    optimizer = optax.multi_transform(
        {"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, {"kernel": "freeze", "bias": "train"}
    )
    loop, _ = small.training_loop(optimizer=optimizer, callbacks=[ema(0.999)]).fit(small.model(), 5)
    np.testing.assert_array_equal(average_of(loop)["kernel"], small.model().params["kernel"])


def averaged(loop: jl.Loop) -> jl.Model:
    return loop.model.replace(params=jax.tree.map(lambda a, p: a.astype(p.dtype), average_of(loop), loop.model.params))


@pytest.mark.parametrize(("dtype", "steps_per_dispatch"), [(jnp.float32, 2), (jnp.bfloat16, 1)])
def test_validation_evaluate_and_predict_run_on_the_average(dtype, steps_per_dispatch):
    validation = jl.in_batches(small.samples(8, seed=1), 4)
    training_loop = small.training_loop(callbacks=[ema(0.9, evaluate=True)], steps_per_dispatch=steps_per_dispatch)
    loop, history = training_loop.fit(model_of(dtype), 3)
    plain = small.training_loop()
    expected = plain.evaluate(averaged(loop), validation)

    assert expected["loss"] != plain.evaluate(loop.model, validation)["loss"]
    assert history.epochs["validation_loss"][-1] == pytest.approx(expected["loss"], rel=1e-6)
    assert training_loop.evaluate(loop, validation) == pytest.approx(expected, rel=1e-6)
    images = small.samples(6, seed=1)[0]
    np.testing.assert_allclose(
        training_loop.predict(loop, jl.in_batches(images, 4)).astype(np.float32),
        np.asarray(averaged(loop)(images), np.float32),
        rtol=1e-6,
    )


def test_a_model_that_was_never_trained_is_its_own_average():
    training_loop = small.training_loop(callbacks=[ema(0.9, evaluate=True)])
    images, labels = small.samples(8, seed=1)
    expected = small.training_loop().evaluate(small.model(), jl.in_batches((images, labels), 4))
    assert training_loop.evaluate(small.model(), jl.in_batches((images, labels), 4)) == expected
    predicted = training_loop.predict(small.model(), jl.in_batches(images, 4))
    np.testing.assert_allclose(predicted, small.model()(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("at", "first", "dtype"),
    [
        (Event.BATCH_START, True, jnp.float32),
        (Event.BATCH_START, False, jnp.bfloat16),
        (Event.INFERENCE_PREDICTION_END, True, jnp.bfloat16),
    ],
)
def test_a_validation_step_that_is_cancelled_gives_the_parameters_back(at, first, dtype):
    def skip(loop, event):
        return loop.cancel(Scope.BATCH) if event is at and loop.phase is Phase.VALIDATION else loop

    callbacks = [skip, ema(0.9, evaluate=True)] if first else [ema(0.9, evaluate=True), skip]
    loop, history = small.training_loop(callbacks=callbacks).fit(model_of(dtype), 3)
    assert np.isnan(history.epochs["validation_loss"]).all()
    assert_trained_alike(loop, without_evaluation(3, dtype))


@pytest.mark.parametrize("event", [Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END])
def test_with_the_step_cut_for_the_host_all_is_the_same(event):
    @jl.on_host(event, reads="loop")
    def look(loop, seen):
        if loop.phase is Phase.VALIDATION:
            shown.append(np.asarray(loop.model.params["bias"]))

    shown: list[np.ndarray] = []
    loop, history = small.training_loop(callbacks=[ema(0.9, evaluate=True), look]).fit(small.model(), 3)
    assert_trained_alike(loop, without_evaluation(3))
    validation = jl.in_batches(small.samples(8, seed=1), 4)
    measured = small.training_loop().evaluate(averaged(loop), validation)
    assert history.epochs["validation_loss"][-1] == pytest.approx(measured["loss"], rel=1e-6)
    expected = loop.model.params if event is Event.BATCH_END else average_of(loop)
    np.testing.assert_array_equal(shown[-1], expected["bias"])


def test_a_validation_step_that_the_host_cancels_gives_the_parameters_back():
    @jl.on_host(Event.BATCH_START, reads="step")
    def skip(loop, event):
        loop.cancel(Scope.BATCH, when=loop.phase is Phase.VALIDATION)

    loop, _ = small.training_loop(callbacks=[ema(0.9, evaluate=True), skip]).fit(small.model(), 3)
    assert_trained_alike(loop, without_evaluation(3))


def assert_trained_alike(one: jl.Loop, other: jl.Loop) -> None:
    """Bit for bit the same model, optimizer and average."""
    small.assert_trees_equal((one.model, one.opt_state), (other.model, other.opt_state))
    small.assert_trees_equal(average_of(one), average_of(other))


def test_the_averaged_model_unwraps_to_a_module():
    module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    loop, _ = small.training_loop(callbacks=[ema(0.9)]).fit(module, 2)
    model = loop.model.replace(params=loop.callback_state["ema"]["average"])
    images = small.samples(4)[0]
    np.testing.assert_allclose(model.unwrap()(images), model(images), rtol=1e-6)
    assert not np.allclose(model(images), loop.model(images), rtol=1e-4)


def test_two_averages_stand_side_by_side_under_names_of_their_own():
    callbacks = [ema(0.5, name="fast"), ema(0.99, name="slow", evaluate=True)]
    loop, _ = small.training_loop(callbacks=callbacks).fit(small.model(), 2)
    assert_close(average_of(loop, "fast"), debiased(params_by_hand(2), 0.5))
    assert_close(average_of(loop, "slow"), debiased(params_by_hand(2), 0.99))


def test_two_averages_to_be_evaluated_are_refused():
    callbacks = [ema(0.5, name="fast", evaluate=True), ema(0.99, name="slow", evaluate=True)]
    with pytest.raises(ValueError, match=r"one set of weights, but both 'fast' and 'slow'.*`evaluate=True` to one"):
        small.training_loop(callbacks=callbacks).fit(small.model(), 1)


def test_two_averages_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"both remember 'ema'"):
        small.training_loop(callbacks=[ema(0.5), ema(0.99)]).fit(small.model(), 1)


def test_a_loop_without_the_average_that_is_to_be_evaluated_is_refused():
    loop, _ = small.training_loop().fit(small.model(), 1)
    training_loop = small.training_loop(callbacks=[ema(0.9, evaluate=True)])
    with pytest.raises(ValueError, match=r"ema: the loop holds no average 'ema'.*fitted with this callback"):
        training_loop.predict(loop, jl.in_batches(small.samples(8)[0], 4))


def test_an_average_kept_without_evaluation_can_be_evaluated_later():
    loop = without_evaluation(3)
    validation = jl.in_batches(small.samples(8, seed=1), 4)
    later = small.training_loop(callbacks=[ema(0.9, evaluate=True)]).evaluate(loop, validation)
    assert later == pytest.approx(small.training_loop().evaluate(averaged(loop), validation), rel=1e-6)


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, float("nan")])
def test_a_decay_that_is_not_between_0_and_1_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema: `decay` must be above 0 and below 1, got {decay}"):
        ema(decay)
