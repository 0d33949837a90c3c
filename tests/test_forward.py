"""Forward passes: the loss and the gradient of a batch equal those written by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests import small


def test_a_differentiable_step_replaces_forward_pass_and_loss() -> None:
    def two_losses(model: jl.Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
        output, model = model.forward(loop.input)
        losses = jl.losses.softmax_cross_entropy(output, loop.target)
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(model.params))
        return losses + 0.01 * decay, loop.replace(output=output, model=model).record("decay", decay)

    def plain(output: jax.Array, target: jax.Array) -> jax.Array:
        return jl.losses.softmax_cross_entropy(output, target)

    decayed = optax.chain(optax.add_decayed_weights(0.02), optax.sgd(0.1))  # the gradient of 0.01 w**2 is 0.02 w
    own, history = small.training_loop(
        loss_fn=None, differentiable_step=two_losses, optimizer=optax.sgd(0.1), metrics=["accuracy"]
    ).fit(small.model(), 2)
    reference, _ = small.training_loop(loss_fn=plain, optimizer=decayed).fit(small.model(), 2)
    for left, right in zip(jax.tree.leaves(own.model.params), jax.tree.leaves(reference.model.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)
    assert int(own.model.state["passes"]) == 6
    assert np.isfinite(history.epochs["decay"]).all()
    np.testing.assert_allclose(own.stats["validation_accuracy"], reference.stats["validation_accuracy"])


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
