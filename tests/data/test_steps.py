"""Epochs without data, and training on them: right against a loop by hand, whatever a dispatch takes."""

import importlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
import jaxloop.data
from jaxloop.data import EmptyBatches
from tests import small


def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    assert input is None
    return params["x"], state


def model() -> jl.Model:
    return jl.Model(apply, {"x": np.array([3.0, -1.0], np.float32)}, {})


def residual(model: jl.Model, loop: jl.Loop) -> tuple[Any, jl.Loop]:
    """A scalar, over points drawn anew in each step."""
    assert loop.target is None
    points = jax.random.uniform(loop.step_key("points"), (16, 2))
    return jnp.mean((model.params["x"] - points) ** 2), loop.replace(output=points)


def training_loop(**changes: Any) -> jl.TrainingLoop:
    arguments: dict[str, Any] = {"training": jl.steps(7), "validation": jl.steps(3), "metrics": []}
    if "loss_fn" not in changes:
        arguments |= {"differentiable_step": residual, "loss_fn": None}
    return small.training_loop(**(arguments | changes))


@pytest.fixture(scope="module")
def by_hand() -> tuple[Any, list[float], list[float]]:
    """Parameters, and the mean losses of training and validation of two epochs, in a loop by hand."""
    loop = training_loop().start(model(), epochs=2)
    x, step_count, means = loop.model.params["x"], 0, ([], [])
    for _, (phase, count) in itertools.product(range(2), enumerate((7, 3))):
        losses = []
        for batch_index in range(count):
            at = loop.replace(step=jnp.int32(step_count), batch_index=jnp.int32(batch_index))
            at = at.replace(phase=list(jl.Phase)[phase], model=loop.model.replace(params={"x": x}))

            def loss(x: Any, at: jl.Loop = at) -> Any:
                return residual(at.model.replace(params={"x": x}), at)[0]

            losses.append(float(loss(x)))
            if phase == 0:
                x, step_count = x - 0.1 * jax.grad(loss)(x), step_count + 1
        means[phase].append(np.mean(losses))
    return x, *means


def test_epochs_without_end_have_so_many_batches_that_hold_nothing() -> None:
    epochs: Any = jl.steps(np.int64(3))  # type: ignore[arg-type]
    assert [list(epoch) for epoch in itertools.islice(epochs, 2)] == [[(None, None)] * 3] * 2
    assert len(epochs[1000]) == 3
    assert epochs[0][:2] == EmptyBatches(2)
    assert epochs[0][-1] == (None, None)
    with pytest.raises(IndexError):
        epochs[0][3]


def test_the_function_has_its_name_for_itself() -> None:
    importlib.import_module("jaxloop.data.steps")  # the module of that name
    assert jl.steps is jaxloop.data.steps


@pytest.mark.parametrize("count", [0, -1, 2.0, True, None])
def test_no_whole_number_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="steps: `count` must be a whole number of at least 1, got"):
        jl.steps(count)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
def test_training_without_data_is_that_of_a_loop_by_hand(steps_per_dispatch: Any, by_hand: Any) -> None:
    loop, history = training_loop(steps_per_dispatch=steps_per_dispatch).fit(model(), 2)
    np.testing.assert_allclose(loop.model.params["x"], by_hand[0], rtol=1e-5)
    np.testing.assert_allclose(history.epochs["loss"], by_hand[1], rtol=1e-5)
    np.testing.assert_allclose(history.epochs["validation_loss"], by_hand[2], rtol=1e-5)
    assert int(loop.step) == 14


def test_a_host_callback_in_the_step_sees_no_input(by_hand: Any) -> None:
    @jl.on_host(jl.Event.UPDATE_START, reads="step")
    def look(loop, event):
        assert loop.input is None

    loop, _ = training_loop(callbacks=[look]).fit(model(), 2)
    np.testing.assert_allclose(loop.model.params["x"], by_hand[0], rtol=1e-5)


def test_whoever_owns_the_loop_steps_over_the_same_batches(by_hand: Any) -> None:
    epochs: Any = jl.steps(7)
    one = training_loop()
    loop = one.start(model(), epochs=2)
    for epoch in range(2):
        loop = one.begin_epoch(loop)
        for batch in epochs[epoch]:
            loop = one.train_step(loop, batch)
        loop = one.eval_step(loop, (None, None))
        loop = one.end_epoch(loop)
    np.testing.assert_allclose(loop.model.params["x"], by_hand[0], rtol=1e-5)
    with pytest.raises(ValueError, match=r"run_steps: `batches` hold no array.*numpy.zeros\(K\)"):
        one.run_steps(loop, (None, None))
    _, rows = one.run_steps(one.begin_epoch(loop), (np.zeros(5), None))
    assert rows["loss"].shape == (5,)


@pytest.mark.parametrize("scalar", [True, False])
def test_a_loss_function_is_given_the_models_output_and_no_target(scalar: bool) -> None:
    def loss_fn(output: Any, target: Any) -> Any:
        assert target is None
        return jnp.mean(output**2) if scalar else output**2

    one = training_loop(loss_fn=loss_fn, steps_per_dispatch="auto")
    loop, history = one.fit(model(), 2, limit_batches=2)
    assert int(loop.step) == 4
    x = np.array([3.0, -1.0], np.float32) * 0.9**4  # the gradient of the mean of x**2 over two is x
    np.testing.assert_allclose(loop.model.params["x"], x, rtol=1e-5)
    np.testing.assert_allclose(
        history.epochs["validation_loss"], [np.mean((x / 0.9**2) ** 2), np.mean(x**2)], rtol=1e-5
    )
    np.testing.assert_allclose(one.evaluate(loop, jl.steps(2))["loss"], np.mean(x**2), rtol=1e-5)
    with pytest.raises(ValueError, match=r"batches: a batch holds no input to predict from. Write loop.model\(None\)"):
        one.predict(loop, jl.steps(2))


def test_batches_that_hold_nothing_may_be_given_as_a_list_too(by_hand: Any) -> None:
    training, validation = [[(None, None)] * 7] * 2, [(None, None)] * 3
    loop, history = training_loop(training=training, validation=validation, steps_per_dispatch=3).fit(model(), 2)
    np.testing.assert_allclose(loop.model.params["x"], by_hand[0], rtol=1e-5)
    np.testing.assert_allclose(history.epochs["validation_loss"], by_hand[2], rtol=1e-5)


def test_the_finder_and_the_report_of_compilation_take_them() -> None:
    one = training_loop(validation=None, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    assert jl.find_learning_rate(one, model(), steps=40).suggestion > 0
    assert one.compile(model()).training.steps >= 1
