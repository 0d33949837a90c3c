"""Gradients: of a batch, with weights, by complex parameters and by what they overwrite, they are those by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.events import Phase
from jaxloop.forward import hold
from jaxloop.gradient import Variables, changes_between, differentiate, mean_loss, value_and_gradient, with_changes
from tests import small


def test_weights_of_examples_count_in_the_gradient_and_in_the_statistics() -> None:
    input, target = small.samples(12)
    weight = np.array([1, 0, 1, 1] * 3, np.float32)
    input[1::4] = np.nan  # what weighs nothing is not even looked at in the statistics
    kept = weight == 1
    weighted, history = small.training_loop(
        training=[[(np.where(np.isnan(input), 0, input), target, weight)]], validation=[(input, target, weight)]
    ).fit(small.model(), 1)
    plain, plain_history = small.training_loop(
        training=[[(input[kept], target[kept])]], validation=[(input[kept], target[kept])]
    ).fit(small.model(), 1)
    for left, right in zip(jax.tree.leaves(weighted.model), jax.tree.leaves(plain.model), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        np.testing.assert_allclose(history.epochs[name], plain_history.epochs[name], rtol=1e-6)


def complex_targets() -> tuple[np.ndarray, np.ndarray]:
    """Inputs float32[12, 4], and a target for each by weights and biases that are complex."""
    input, _ = small.samples(12)
    return input, (input @ np.array([1 + 2j, -1j, 0.5, 3 - 1j]) + (2 - 2j)).astype(np.complex64)


def complex_output(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    return input @ params["weight"] + params["bias"] * params["scale"], state


def squared_distance(output: Any, target: Any) -> Any:
    return jnp.abs(output - target) ** 2


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_complex_parameters_train_as_their_real_and_imaginary_parts(steps_per_dispatch: int) -> None:
    params = {"weight": np.zeros(4, np.complex64), "bias": np.complex64(0.5j), "scale": np.float32(1)}
    epochs = jl.TrainingEpochs(complex_targets(), batch_size=4)
    training_loop = small.training_loop(
        training=epochs,
        validation=None,
        optimizer=optax.sgd(0.05),
        loss_fn=squared_distance,
        metrics=(),
        steps_per_dispatch=steps_per_dispatch,
    )
    loop, history = training_loop.fit(jl.Model(complex_output, params, {}), 8)

    def together(parts: Any) -> Any:
        return jax.tree.map(lambda one, other: one if other is None else one + 1j * other, *parts, is_leaf=_is_none)

    def mean_loss(parts: Any, input: Any, target: Any) -> Any:
        return squared_distance(complex_output(together(parts), {}, input, training=True, key=None)[0], target).mean()

    parts = tuple({name: part(params[name]) for name in ("weight", "bias")} for part in (np.real, np.imag))
    parts = (parts[0] | {"scale": params["scale"]}, parts[1] | {"scale": None})
    gradient = jax.jit(jax.grad(mean_loss))
    for epoch in range(8):
        for batch in epochs[epoch]:
            parts = jax.tree.map(lambda value, slope: value - 0.05 * slope, parts, gradient(parts, *batch))
    for name, value in together(parts).items():
        np.testing.assert_allclose(loop.model.params[name], value, rtol=1e-4, atol=1e-6)
    assert history.epochs["loss"][-1] < 0.1 * history.epochs["loss"][0]


def _is_none(leaf: Any) -> bool:
    return leaf is None


def test_complex_parameters_train_under_adam_as_optax_says_of_them() -> None:
    """Optax asks for the conjugate of what `jax.grad` gives."""
    params = {"weight": np.zeros(4, np.complex64), "bias": np.complex64(0.5j), "scale": np.float32(1)}
    epochs, optimizer = jl.TrainingEpochs(complex_targets(), batch_size=4), optax.adam(0.1)
    training_loop = small.training_loop(
        training=epochs, validation=None, optimizer=optimizer, loss_fn=squared_distance, metrics=()
    )
    loop, _ = training_loop.fit(jl.Model(complex_output, params, {}), 2)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any, input: Any, target: Any) -> Any:
        gradient = jax.grad(
            lambda params: squared_distance(
                complex_output(params, {}, input, training=True, key=None)[0], target
            ).mean()
        )(params)
        updates, opt_state = optimizer.update(jax.tree.map(jnp.conj, gradient), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for epoch in range(2):
        for batch in epochs[epoch]:
            params, opt_state = step(params, opt_state, *batch)
    for name, value in params.items():
        np.testing.assert_allclose(loop.model.params[name], value, rtol=1e-4, atol=1e-6)


BATCH = (np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), np.array([0, 1], np.int32), None)


@pytest.fixture
def training(loop: jl.Loop) -> jl.Loop:
    """A loop in training with a batch at hand."""
    return hold(loop.replace(phase=Phase.TRAINING), BATCH)


def test_value_and_gradient_are_those_of_jax(spec: Any, training: jl.Loop) -> None:
    def by_hand(params: Any) -> Any:
        logits = BATCH[0] @ params["weight"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH[1]).mean()

    params = training.model.params
    loss = functools.partial(mean_loss, spec())
    value, changes, gradient = value_and_gradient(loss, Variables(params, {}), training)
    expected_value, expected = jax.value_and_grad(by_hand)(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    assert gradient.overwritten == {}
    for name in ("weight", "bias"):
        np.testing.assert_allclose(gradient.params[name], expected[name], rtol=1e-5)
    assert changes.keys() == {"output", "loss", "model"}
    np.testing.assert_allclose(changes["loss"].mean(), value, rtol=1e-6)


def test_of_a_complex_parameter_the_gradient_points_to_where_the_loss_rises(training: jl.Loop) -> None:
    """Of |w - z|**2 that is 2 (w - z)."""

    def squared(variables: Variables, loop: jl.Loop) -> Any:
        return jnp.abs(variables.params - (1 - 2j)) ** 2, {}

    _, _, gradient = value_and_gradient(squared, Variables(jnp.complex64(3 + 1j), {}), training)
    np.testing.assert_allclose(gradient.params, 4 + 6j, rtol=1e-6)


class Scaled:
    """`scale` times the input: the state keeps the gradient by the scale, and counts the passes."""

    overwritten = ("scale",)

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        output = state["scale"] * input @ params["weight"] + params["bias"]
        return output, {"scale": state["scale"], "passes": state["passes"] + 1}


def test_state_that_is_overwritten_becomes_the_gradient_by_it(spec: Any, training: jl.Loop) -> None:
    state = {"scale": np.float32(1), "passes": np.int32(0)}
    loop = training.replace(model=training.model.replace(apply=Scaled(), state=state))
    after = differentiate(spec(loss_fn=lambda output, target: output.sum(axis=-1)), loop)
    expected = (BATCH[0] @ loop.model.params["weight"]).sum(axis=-1).mean()
    np.testing.assert_allclose(after.model.state["scale"], expected, rtol=1e-5)
    assert int(after.model.state["passes"]) == 1
    np.testing.assert_allclose(after.gradient["bias"], [1, 1], rtol=1e-6)


def test_changes_are_the_fields_that_are_not_the_very_same(training: jl.Loop) -> None:
    after = training.replace(loss=np.float32(1), model=training.model.replace(params={}, state={"passes": 1}))
    changes = changes_between(training, after)
    assert changes == {"loss": 1, "model": {"passes": 1}}
    back = with_changes(after, changes_between(after, training))
    assert back.loss is None
    assert back.model.state is training.model.state
    assert back.model.params == {}, "parameters are no part of what a forward pass changes"
