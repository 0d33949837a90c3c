"""nnx modules nobody here wrote, each equal to a loop in the words of nnx: `nnx.grad` and `nnx.Optimizer`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop.model import Model
from tests import small

BATCHES, EPOCHS = 8, 2
STEPS = [1, 8]


class Recurrent(nnx.Module):
    """A GRU that begins with noise, and dropout: their streams are the module's own."""

    def __init__(self, rngs: nnx.Rngs):
        self.cell = nnx.RNN(nnx.GRUCell(2, 6, rngs=rngs), rngs=rngs)
        self.rngs = rngs
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        carry = 0.1 * jax.random.normal(self.rngs.carry(), (input.shape[0], 6))
        return self.head(self.dropout(self.cell(input.reshape(-1, 2, 2), initial_carry=carry)[:, -1]))


class Tied(nnx.Module):
    """An embedding whose matrix, the very same `nnx.Param`, is used for the output too."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 3, use_bias=False, rngs=rngs)
        self.last = nnx.Linear(4, 3, use_bias=False, rngs=rngs)
        self.last.kernel = self.first.kernel

    def __call__(self, input: jax.Array) -> jax.Array:
        hidden = nnx.tanh(self.first(input))
        return self.last(hidden @ self.first.kernel[...].T)


class Ensemble(nnx.Module):
    """Four networks in one, made and called by `nnx.vmap`; their logits' mean."""

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=4)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> Any:
            return Member(rngs)

        self.members = make(rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        @nnx.vmap(in_axes=(0, None), out_axes=0)
        def each(member: Any, input: jax.Array) -> jax.Array:
            return member(input)

        return each(self.members, input).mean(axis=0)


class Member(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.second = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.second(self.dropout(nnx.relu(self.norm(self.first(input)))))


class Adapted(nnx.Module):
    """A layer with an adapter of low rank, and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.LoRALinear(4, 6, lora_rank=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.head(nnx.tanh(self.layer(input)))


class Quantized(nnx.Module):
    """A layer of whole numbers with a scale to each column, in `nnx.Param`s, under an adapter of low rank."""

    def __init__(self, rngs: nnx.Rngs):
        kernel = jax.random.normal(rngs.params(), (4, 3))
        scale = jnp.abs(kernel).max(axis=0) / 127
        self.kernel = nnx.Param(jnp.round(kernel / scale).astype(jnp.int8))
        self.kept = nnx.Param(jnp.array([True, True, False]))
        self.scale = nnx.Param(scale)
        self.adapter = nnx.LoRA(4, 2, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        base = input @ self.kernel[...].astype(jnp.float32) * self.scale[...]
        return jnp.where(self.kept[...], base, 0) + self.adapter(input)


class Called(nnx.Module):
    """Batch norm and dropout that are told the mode by the call, in the words of `argument`."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=None, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, deterministic=None, rngs=rngs)
        self.second = nnx.Linear(6, 3, rngs=rngs)

    def passed(self, input: jax.Array, training: bool) -> jax.Array:
        hidden = self.norm(self.first(input), use_running_average=not training)
        return self.second(self.dropout(hidden, deterministic=not training))


class CalledTrain(Called):
    def __call__(self, input: jax.Array, train: bool = False) -> jax.Array:
        return self.passed(input, train)


class CalledTraining(Called):
    def __call__(self, input: jax.Array, *, training: bool = False) -> jax.Array:
        return self.passed(input, training)


class CalledIsTraining(Called):
    def __call__(self, input: jax.Array, is_training: bool) -> jax.Array:
        return self.passed(input, is_training)


class CalledDeterministic(Called):
    def __call__(self, input: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.passed(input, not deterministic)


class CalledInference(Called):
    def __call__(self, input: jax.Array, inference: "bool | None" = None) -> jax.Array:
        return self.passed(input, inference is False)


class CalledUseRunningAverage(Called):
    def __call__(self, input: jax.Array, use_running_average: bool = True) -> jax.Array:
        return self.passed(input, not use_running_average)


def epochs() -> jl.TrainingEpochs:
    return jl.TrainingEpochs(small.samples(4 * BATCHES), batch_size=4)


def batches() -> list[Any]:
    return [batch for epoch in range(EPOCHS) for batch in epochs()[epoch]]


@functools.cache
def trained_by_nnx(kind: Any, *, wrt: Any = nnx.Param, **told: bool) -> Any:
    """A module after a loop in the words of nnx, `told` going to each call."""
    module = kind(nnx.Rngs(0))
    module.train()
    state = nnx.Optimizer(module, optax.adam(1e-2), wrt=wrt)

    @nnx.jit
    def step(module: Any, state: Any, input: jax.Array, target: jax.Array) -> None:
        def mean_loss(module: Any) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(module(input, **told), target)
            return losses.mean()

        gradient = nnx.grad(mean_loss, argnums=nnx.DiffState(0, wrt))(module)
        state.update(module, gradient)

    for input, target in batches():
        step(module, state, input, target)
    return module


def fitted(model: Any, steps_per_dispatch: int = 1, **changes: Any) -> jl.Loop:
    changes = {"training": epochs(), "validation": None, "optimizer": optax.adam(1e-2)} | changes
    return small.training_loop(steps_per_dispatch=steps_per_dispatch, **changes).fit(model, EPOCHS)[0]


def assert_same_variables(module: Any, other: Any) -> None:
    """Equal in every variable, up to what XLA rounds when it fuses otherwise."""
    left, right = nnx.to_pure_dict(nnx.state(module)), nnx.to_pure_dict(nnx.state(other))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for path, leaf in jax.tree_util.tree_leaves_with_path(left):
        expected = dict(jax.tree_util.tree_leaves_with_path(right))[path]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, expected = jax.random.key_data(leaf), jax.random.key_data(expected)
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", STEPS)
@pytest.mark.parametrize("kind", [Recurrent, Tied, Ensemble], ids=lambda kind: kind.__name__)
def test_a_module_trains_as_by_nnx(kind: Any, steps_per_dispatch: int) -> None:
    module = fitted(kind(nnx.Rngs(0)), steps_per_dispatch).model.unwrap()
    assert_same_variables(module, trained_by_nnx(kind))
    if kind is Tied:
        assert module.last.kernel is module.first.kernel


@pytest.mark.parametrize("steps_per_dispatch", STEPS)
def test_lora_trains_alone_as_by_nnx_and_leaves_the_base_bit_for_bit(steps_per_dispatch: int) -> None:
    model = Model.from_nnx(Adapted(nnx.Rngs(0)), trained=nnx.LoRAParam)
    assert jax.tree.map(jnp.shape, model.params) == {"layer": {"lora": {"lora_a": (4, 2), "lora_b": (2, 6)}}}
    module = fitted(model, steps_per_dispatch).model.unwrap()
    assert_same_variables(module, trained_by_nnx(Adapted, wrt=nnx.LoRAParam))
    for layer in ("layer", "head"):
        before, after = getattr(Adapted(nnx.Rngs(0)), layer), getattr(module, layer)
        np.testing.assert_array_equal(before.kernel[...], after.kernel[...])
        np.testing.assert_array_equal(before.bias[...], after.bias[...])


@pytest.mark.parametrize("trained", [None, nnx.LoRAParam], ids=["default", "lora"])
def test_quantized_weights_are_state_and_the_rest_trains_as_by_nnx(trained: Any) -> None:
    floats = nnx.All(trained or nnx.Param, lambda path, one: jnp.issubdtype(one.get_value().dtype, jnp.floating))
    loop = fitted(Model.from_nnx(Quantized(nnx.Rngs(0)), trained=trained))
    assert {"kernel", "kept"} <= loop.model.state.keys()
    assert ("scale" in loop.model.params) is (trained is None)
    assert_same_variables(loop.model.unwrap(), trained_by_nnx(Quantized, wrt=floats))


@pytest.mark.parametrize("steps_per_dispatch", STEPS)
def test_the_mode_goes_to_the_call_of_an_nnx_module_as_by_nnx(steps_per_dispatch: int) -> None:
    module = fitted(CalledTrain(nnx.Rngs(0)), steps_per_dispatch).model.unwrap()
    assert_same_variables(module, trained_by_nnx(CalledTrain, train=True))


CALLED = [CalledTrain, CalledTraining, CalledIsTraining, CalledDeterministic, CalledInference, CalledUseRunningAverage]


@pytest.mark.parametrize("kind", CALLED, ids=lambda kind: kind.__name__)
def test_each_argument_that_says_the_mode_is_told_it(kind: Any) -> None:
    module = kind(nnx.Rngs(0))
    (input, _), *_ = batches()
    expected = {training: kind(nnx.Rngs(0)).passed(input, training) for training in (True, False)}
    for training, output in expected.items():
        model = Model.from_nnx(module).replace(training=training)
        np.testing.assert_allclose(model(input), output, rtol=1e-5, atol=1e-6)
        called, _ = model.call(lambda module: module(input))
        np.testing.assert_allclose(called, output, rtol=1e-5, atol=1e-6)
