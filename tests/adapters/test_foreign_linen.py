"""linen modules nobody here wrote, each equal to a loop in the words of flax: `module.apply`, `jax.grad`, optax."""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.core import FrozenDict, freeze, unfreeze
from flax.errors import InvalidRngError
from flax.training.train_state import TrainState

import jaxloop as jl
from jaxloop.loop import new_loop
from jaxloop.model import Model
from tests import small

BATCHES, EPOCHS = 8, 2
OVERWRITTEN = "_overwrite_with_gradient"


class Narrow(nn.Module):
    """Layers that multiply 8-bit floats, whose scales are learned from the gradients."""

    @nn.compact
    def __call__(self, input):
        layer = functools.partial(nn.Dense, dot_general_cls=nn.Fp8DirectDotGeneralOp)
        return layer(3, name="second")(nn.relu(layer(16, name="first")(input)))


class Noisy(nn.Module):
    """Noise of a stream of its own in both modes, and dropout in training."""

    @nn.compact
    def __call__(self, input, is_training: bool = False):
        hidden = nn.Dense(8)(input)
        hidden += 0.1 * jax.random.normal(self.make_rng("noise"), hidden.shape)
        return nn.Dense(3)(nn.Dropout(0.3, deterministic=not is_training)(hidden))


class Sowing(nn.Module):
    """Leaves losses in a collection of their own, which `init` makes too."""

    @nn.compact
    def __call__(self, input):
        hidden = Penalized(8)(input)
        self.sow("losses", "activity", jnp.mean(hidden**2))
        return nn.Dense(3)(hidden)


class Penalized(nn.Module):
    size: int

    @nn.compact
    def __call__(self, input):
        output = nn.Dense(self.size)(input)
        self.sow("losses", "size", jnp.mean(output))
        return output


class Late(nn.Module):
    """Makes a variable in training alone."""

    @nn.compact
    def __call__(self, input, train: bool):
        hidden = nn.BatchNorm(use_running_average=not train)(input)
        if train:
            self.variable("batch_stats", "steps", lambda: jnp.zeros(())).value += 1
        return nn.Dense(3)(hidden)


class Methods(nn.Module):
    """An encoder with batch norm and dropout in a list, and a method of two inputs."""

    def setup(self):
        self.layers = [nn.Dense(6), nn.BatchNorm(momentum=0.9), nn.Dropout(0.3)]
        self.head = nn.Dense(3)

    def __call__(self, input, train: bool):
        return self.classify(input, jnp.zeros_like(input), train=train)

    def classify(self, input, other, train: bool = False):
        dense, norm, dropout = self.layers
        hidden = norm(dense(input + other), use_running_average=not train)
        return self.head(dropout(hidden, deterministic=not train))


def epochs() -> jl.TrainingEpochs:
    return jl.TrainingEpochs(small.samples(4 * BATCHES), batch_size=4)


def batches() -> list[Any]:
    return [batch for epoch in range(EPOCHS) for batch in epochs()[epoch]]


INPUT = batches()[0][0]


def fitted(model: Any, optimizer: Any, steps_per_dispatch: int = 1, **changes: Any) -> jl.Loop:
    changes = {"training": epochs(), "validation": None} | changes
    training_loop = small.training_loop(optimizer=optimizer, steps_per_dispatch=steps_per_dispatch, **changes)
    return training_loop.fit(model, EPOCHS)[0]


def assert_close(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)


@pytest.fixture(scope="module")
def narrow_by_flax() -> Any:
    """Variables after a loop over flax's own `TrainState`, which knows how the scales are trained."""
    state = TrainState.create(
        apply_fn=Narrow().apply, params=dict(Narrow().init(jax.random.key(0), INPUT)), tx=optax.adam(1e-2)
    )

    @jax.jit
    def step(state: Any, input: Any, target: Any) -> Any:
        def mean_loss(variables: Any) -> Any:
            output = state.apply_fn(variables, input)
            return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()

        return state.apply_gradients(grads=jax.grad(mean_loss)(state.params))

    for input, target in batches():
        state = step(state, input, target)
    return state.params


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
def test_scales_of_8_bit_floats_are_overwritten_by_their_gradients_as_by_flax(
    narrow_by_flax: Any, steps_per_dispatch: int
) -> None:
    model = Model.from_linen(Narrow(), Narrow().init(jax.random.key(0), INPUT))
    _, variables = fitted(model, optax.adam(1e-2), steps_per_dispatch).model.unwrap()
    assert_close(variables, narrow_by_flax)
    first = variables[OVERWRITTEN]["first"]["Fp8DirectDotGeneralOp_0"]
    assert float(first["input_scale"][0]) != 1
    assert np.count_nonzero(first["output_grad_amax_history"]) == BATCHES * EPOCHS


def test_scales_of_8_bit_floats_run_through_microbatches_in_turn() -> None:
    model = Model.from_linen(Narrow(), Narrow().init(jax.random.key(0), INPUT))
    training_loop = jl.TrainingLoop(
        [list(batches())[:2]],
        optimizer=optax.sgd(0.0),
        loss_fn=jl.losses.softmax_cross_entropy,
        progress=False,
        accumulate=2,
    )
    _, variables = training_loop.fit(model, 1)[0].model.unwrap()
    first = variables[OVERWRITTEN]["first"]["Fp8DirectDotGeneralOp_0"]
    assert np.count_nonzero(first["output_grad_amax_history"]) == 2 * 2
    largest = [np.abs(input[part::2]).max() for input, _ in list(batches())[:2] for part in (0, 1)]
    history = np.asarray(first["input_amax_history"])
    np.testing.assert_allclose(np.sort(history[history != 0]), np.sort(largest), rtol=1e-6)


def keys_of(step: int) -> dict[str, Any]:
    """The keys of the random streams in training, as `Model.from_linen` describes them."""
    at = new_loop(small.model(), None, jax.random.key(0)).replace(phase=jl.Phase.TRAINING, step=np.int32(step))
    key = at.step_key("model")
    return {"dropout": key, "noise": jax.random.fold_in(key, zlib.crc32(b"noise"))}


@pytest.fixture(scope="module")
def noisy_by_flax() -> Any:
    variables = Noisy().init({"params": jax.random.key(0), "noise": jax.random.key(1)}, INPUT)
    optimizer = optax.adam(1e-2)
    params, opt_state = variables["params"], optimizer.init(variables["params"])

    @jax.jit
    def step(params: Any, opt_state: Any, keys: Any, input: Any, target: Any) -> Any:
        def mean_loss(params: Any) -> Any:
            output = Noisy().apply({"params": params}, input, is_training=True, rngs=keys)
            return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()

        updates, opt_state = optimizer.update(jax.grad(mean_loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for index, (input, target) in enumerate(batches()):
        params, opt_state = step(params, opt_state, keys_of(index), input, target)
    return variables, params


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
def test_a_further_random_stream_has_a_key_in_both_modes_as_by_flax(
    noisy_by_flax: Any, steps_per_dispatch: int
) -> None:
    variables, expected = noisy_by_flax
    model = Model.from_linen(Noisy(), variables, rngs=("noise",))
    validation = jl.in_batches(small.samples(8, seed=1), 4)
    loop = fitted(model, optax.adam(1e-2), steps_per_dispatch, validation=validation)
    assert_close(loop.model.params, expected)
    key = jax.random.key(3)
    noise = {"noise": jax.random.fold_in(key, zlib.crc32(b"noise"))}
    np.testing.assert_allclose(
        loop.model(INPUT, key), Noisy().apply({"params": expected}, INPUT, rngs=noise), rtol=1e-3, atol=1e-5
    )


def test_a_random_stream_needs_no_name_in_training_and_says_how_to_be_had_in_inference(noisy_by_flax: Any) -> None:
    model = Model.from_linen(Noisy(), noisy_by_flax[0])
    key = jax.random.key(3)
    one, other = (model.replace(training=True)(INPUT, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)
    with pytest.raises(InvalidRngError) as error:
        model(INPUT, key)
    assert "Model.from_linen(module, rngs=('noise',))" in error.value.__notes__[0]


@pytest.mark.parametrize("sown", [True, False], ids=["kept", "left out"])
def test_what_is_sown_into_a_collection_that_init_made_changes_nothing(sown: bool) -> None:
    variables = Sowing().init(jax.random.key(0), INPUT)
    assert len(variables["losses"]["activity"]) == 1
    given = variables if sown else {"params": variables["params"]}
    loop = fitted(Model.from_linen(Sowing(), given), optax.sgd(0.1))
    assert_close(loop.model.state, {"losses": variables["losses"]} if sown else {})
    plain = fitted(Model.from_linen(Sowing(), {"params": variables["params"]}), optax.sgd(0.1))
    small.assert_trees_equal(loop.model.params, plain.model.params)


def test_what_is_sown_can_be_read_by_the_function_that_calls() -> None:
    variables = Sowing().init(jax.random.key(0), INPUT)

    class Telling(nn.Module):
        @nn.compact
        def __call__(self, input):
            self.sow("intermediates", "mean", input.mean())
            return Sowing()(input)

    model = Model.from_linen(Telling(), {"params": {"Sowing_0": variables["params"]}}).replace(training=True)
    (output, sown), after = model.call(lambda module: (module(INPUT), module.variables["intermediates"]["mean"]))
    np.testing.assert_allclose(sown[0], INPUT.mean(), rtol=1e-6)
    np.testing.assert_allclose(output, Sowing().apply({"params": variables["params"]}, INPUT), rtol=1e-6)
    assert after.state == {}


def test_a_call_in_training_without_a_key_says_how_to_give_one(noisy_by_flax: Any) -> None:
    model = Model.from_linen(Noisy(), noisy_by_flax[0]).replace(training=True)
    with pytest.raises(InvalidRngError) as error:
        model.call(lambda module: module(INPUT))
    assert "model.call(function, key)" in error.value.__notes__[0]


def test_a_variable_that_training_makes_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a training pass of Late makes the variable 'batch_stats/steps'"):
        fitted(Late(), optax.sgd(0.1))


def test_a_variable_that_training_makes_is_kept_where_it_is_given() -> None:
    variables = Late().init(jax.random.key(0), INPUT, train=True)
    variables = {**variables, "batch_stats": {**variables["batch_stats"], "steps": jnp.zeros(())}}
    assert float(fitted(Model.from_linen(Late(), variables), optax.sgd(0.1)).model.state["batch_stats"]["steps"]) == 16


def test_methods_are_told_the_mode_and_change_the_state_as_the_call_does() -> None:
    def classify(model: Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
        output, model = model.call(
            lambda module: module.classify(loop.input, jnp.zeros_like(loop.input)), loop.step_key("model")
        )
        return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)

    validation = jl.in_batches(small.samples(8, seed=1), 4)
    by_method = fitted(Methods(), optax.sgd(0.1), loss_fn=None, differentiable_step=classify, validation=validation)
    by_call = fitted(Methods(), optax.sgd(0.1), validation=validation)
    assert_close(by_method.model.unwrap()[1], by_call.model.unwrap()[1])
    np.testing.assert_allclose(by_method.stats["validation_loss"], by_call.stats["validation_loss"], rtol=1e-5)


def test_a_part_in_a_list_is_told_the_mode_and_what_is_said_stands() -> None:
    variables = Methods().init(jax.random.key(0), INPUT, train=False)
    model = Model.from_linen(Methods(), variables).replace(training=True)
    output, after = model.call(lambda module: module.layers[1](jnp.ones((2, 6))))
    np.testing.assert_allclose(output, np.zeros((2, 6)), atol=1e-6)  # the mean of the batch, not the running one
    assert not np.allclose(after.state["batch_stats"]["layers_1"]["mean"], 0)
    zeros = jnp.zeros_like(INPUT)
    for classify in (
        lambda module: module.classify(INPUT, zeros, False),
        lambda module: module.classify(INPUT, zeros, train=False),
    ):
        np.testing.assert_allclose(model.call(classify)[0], model.replace(training=False)(INPUT), rtol=1e-6)


@pytest.mark.parametrize("mask", ["tree", "function"])
def test_a_frozen_mask_fits_frozen_parameters_as_in_a_plain_loop(mask: str) -> None:
    module = nn.Dense(3)
    variables = freeze(module.init(jax.random.key(0), INPUT))
    flags = freeze({"kernel": True, "bias": False})
    decay = optax.masked(optax.add_decayed_weights(0.1), flags if mask == "tree" else lambda params: freeze(flags))
    optimizer = optax.chain(decay, optax.sgd(0.1))
    loop = fitted(Model.from_linen(module, variables), optimizer)
    params, opt_state = variables["params"], optimizer.init(variables["params"])

    def mean_loss(params: Any, input: Any, target: Any) -> Any:
        output = module.apply({"params": params}, input)
        return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()

    for input, target in batches():
        updates, opt_state = optimizer.update(jax.grad(mean_loss)(params, input, target), opt_state, params)
        params = optax.apply_updates(params, updates)
    assert isinstance(loop.model.params, FrozenDict)
    assert_close(loop.model.params, params)


TRAINED = {
    "function": lambda path, leaf: path.startswith("layers_0"),
    "tree": {"layers_0": True, "layers_1": False, "head": {"kernel": False, "bias": False}},
}


@pytest.mark.slow
@pytest.mark.parametrize("given", ["dict", "frozen", "none"])
@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_the_parameters_that_are_chosen_train_and_the_others_stay_bit_for_bit(trained: Any, given: str) -> None:
    variables = Methods().init(jax.random.key(0), INPUT, train=False)
    start = {"dict": variables, "frozen": freeze(variables), "none": None}[given]
    loop = fitted(Model.from_linen(Methods(), start, trained=trained), optax.sgd(0.1))
    assert jax.tree.map(jnp.shape, unfreeze(loop.model.params)) == {"layers_0": {"kernel": (4, 6), "bias": (6,)}}
    _, after = loop.model.unwrap()
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, variables)
    if given != "none":
        small.assert_trees_equal(after["params"]["head"], variables["params"]["head"])
    flags = {"layers_0": True, "layers_1": False, "head": False}
    frozen = optax.masked(optax.set_to_zero(), {name: not flag for name, flag in flags.items()})
    whole = fitted(start_of(loop, start), optax.chain(optax.sgd(0.1), frozen))
    assert_close(whole.model.unwrap()[1], after)


def start_of(loop: jl.Loop, variables: Any) -> Model:
    return Model.from_linen(Methods(), None if variables is None else unfreeze(variables))


def test_whole_numbers_among_linen_parameters_are_state() -> None:
    class Quantized(nn.Module):
        @nn.compact
        def __call__(self, input):
            kernel = self.param("kernel", lambda key: jnp.arange(12, dtype=jnp.int8).reshape(4, 3) - 6)
            return input @ kernel.astype(jnp.float32) * self.param("scale", nn.initializers.constant(0.1), (3,))

    loop = fitted(Quantized(), optax.sgd(0.1))
    assert set(loop.model.params) == {"scale"}
    np.testing.assert_array_equal(loop.model.unwrap()[1]["params"]["kernel"], np.arange(12).reshape(4, 3) - 6)
    assert not np.allclose(loop.model.params["scale"], 0.1)
