"""Callable pytrees nobody here wrote, equinox modules with a state too, each equal to a plain loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.model import Model
from tests import small

equinox = pytest.importorskip("equinox")

BATCHES, EPOCHS = 8, 2


class Normed(equinox.Module):
    """Batch norm between two layers, for one example; its running statistics are a state of equinox's."""

    first: Any
    norm: Any
    second: Any

    def __init__(self, key: Any):
        one, two = jax.random.split(key)
        self.first = equinox.nn.Linear(4, 6, key=one)
        self.norm = equinox.nn.BatchNorm(6, axis_name="batch", mode="batch")
        self.second = equinox.nn.Linear(6, 3, key=two)

    def __call__(self, input: Any, state: Any) -> Any:
        hidden, state = self.norm(self.first(input), state)
        return self.second(jax.nn.relu(hidden)), state


class Adapted(equinox.Module):
    """A layer with an adapter of low rank, and a rate of dropout by the argument `train`."""

    layer: Any
    codes: Any
    down: Any
    up: Any

    def __call__(self, input: Any, train: bool = False, key: Any = None) -> Any:
        hidden = input + input @ self.down @ self.up + self.codes.astype(jnp.float32)
        if train and key is not None:
            hidden = jnp.where(jax.random.bernoulli(key, 0.5, hidden.shape), 2 * hidden, 0)
        return jax.vmap(self.layer)(hidden)


def adapted() -> Adapted:
    random = np.random.default_rng(0)
    down, up = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((4, 2), (2, 4)))
    return Adapted(equinox.nn.Linear(4, 3, key=jax.random.key(0)), jnp.arange(4, dtype=jnp.int8), down, up)


def epochs() -> jl.TrainingEpochs:
    return jl.TrainingEpochs(small.samples(4 * BATCHES), batch_size=4)


def batches() -> list[Any]:
    return [batch for epoch in range(EPOCHS) for batch in epochs()[epoch]]


def fitted(model: Any, optimizer: Any, steps_per_dispatch: int = 1, **changes: Any) -> jl.Loop:
    changes = {"training": epochs(), "validation": None} | changes
    training_loop = small.training_loop(optimizer=optimizer, steps_per_dispatch=steps_per_dispatch, **changes)
    return training_loop.fit(model, EPOCHS)[0]


def assert_close(one: Any, other: Any) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def with_state() -> tuple[Model, Any, Any]:
    """A model of an equinox module with state, the module without its arrays, and the state at the start."""
    module, state = equinox.nn.make_with_state(Normed)(jax.random.key(0))
    params, static = equinox.partition(module, equinox.is_inexact_array)

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        module = equinox.nn.inference_mode(equinox.combine(params, static), not training)
        state = jax.tree.map(lambda leaf: leaf, state)  # equinox lets a state be set once
        return jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(input, state)

    return Model(apply, params, state), static, state


@pytest.fixture(scope="module")
def with_state_by_equinox() -> Any:
    model, static, state = with_state()
    optimizer = optax.adam(1e-2)
    params, opt_state = model.params, optimizer.init(model.params)

    @equinox.filter_jit
    def step(params: Any, state: Any, opt_state: Any, input: Any, target: Any) -> Any:
        def mean_loss(params: Any) -> Any:
            call = jax.vmap(equinox.combine(params, static), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            output, after = call(input, state)
            return optax.softmax_cross_entropy_with_integer_labels(output, target).mean(), after

        gradient, state = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    for input, target in batches():
        params, state, opt_state = step(params, state, opt_state, input, target)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
def test_an_equinox_module_with_state_trains_as_by_equinox(with_state_by_equinox: Any, steps_per_dispatch: int) -> None:
    model, _, before = with_state()
    validation = jl.in_batches(small.samples(8, seed=1), 4)
    loop = fitted(model, optax.adam(1e-2), steps_per_dispatch, validation=validation)
    assert_close((loop.model.params, loop.model.state), with_state_by_equinox)
    assert not np.allclose(jax.tree.leaves(loop.model.state)[-1], jax.tree.leaves(before)[-1])


def lora_alone(module: Adapted) -> Any:
    """The tree of bools that equinox's users write."""
    nothing = jax.tree.map(lambda _: False, module)
    return equinox.tree_at(lambda tree: (tree.down, tree.up), nothing, (True, True))


@pytest.mark.parametrize("trained", ["function", "tree"])
def test_the_arrays_that_are_chosen_train_and_the_others_stay_bit_for_bit(trained: str) -> None:
    module = adapted()
    choice = (lambda path, leaf: path in ("down", "up")) if trained == "function" else lora_alone(module)
    model = Model.from_callable(module, trained=choice, modes={})
    assert sorted(model.params) == ["down", "up"]
    after = fitted(model, optax.adam(1e-2)).model.unwrap()
    small.assert_trees_equal(
        (after.layer.weight, after.layer.bias, after.codes), (module.layer.weight, module.layer.bias, module.codes)
    )
    params, opt_state = (module.down, module.up), optax.adam(1e-2).init((module.down, module.up))

    def mean_loss(params: Any, input: Any, target: Any) -> Any:
        output = equinox.tree_at(lambda tree: (tree.down, tree.up), module, params)(input)
        return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()

    gradient = jax.jit(jax.grad(mean_loss))
    for input, target in batches():
        updates, opt_state = optax.adam(1e-2).update(gradient(params, input, target), opt_state)
        params = optax.apply_updates(params, updates)
    assert_close((after.down, after.up), params)


def test_the_mode_goes_to_the_argument_of_a_pytree_and_of_its_methods() -> None:
    module, key = adapted(), jax.random.key(1)
    input, _ = batches()[0]
    model = Model.from_callable(module)
    for training in (True, False):
        expected = module(input, train=training, key=key)
        told = model.replace(training=training)
        np.testing.assert_allclose(told(input, key), expected, rtol=1e-5)
        np.testing.assert_allclose(told.call(lambda module: module(input, key=key))[0], expected, rtol=1e-5)


def test_a_method_of_an_equinox_module_is_told_the_mode() -> None:
    class Encoder(equinox.Module):
        weight: Any

        def __call__(self, input: Any) -> Any:
            return input * self.weight

        def encode(self, input: Any, train: bool = False) -> Any:
            return self(input) if train else 0 * input

    model = Model.from_callable(Encoder(jnp.ones(4)))
    input, _ = batches()[0]
    np.testing.assert_array_equal(model.replace(training=True).call(lambda module: module.encode(input))[0], input)
    np.testing.assert_array_equal(model.call(lambda module: module.encode(input))[0], 0 * input)


def test_an_example_at_a_time_is_told_the_mode_too() -> None:
    told = jax.tree_util.Partial(lambda scale, example, training=False: scale * example * training, jnp.float32(2))
    model = Model.from_callable(told, batched=False)
    input, _ = batches()[0]
    np.testing.assert_allclose(model.replace(training=True)(input), 2 * input, rtol=1e-6)
    np.testing.assert_array_equal(model(input), 0 * input)
