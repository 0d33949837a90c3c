"""Models of flax linen modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.core import FrozenDict, freeze, unfreeze

import jaxloop as jl
from jaxloop.loop import new_loop
from jaxloop.model import Model
from tests import small
from tests.compiling import counted_compiles

INPUT = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
STEPS_PER_EPOCH, EPOCHS = 10, 5


class Network(nn.Module):
    """A layer with batch norm and dropout."""

    classes: int = 3

    @nn.compact
    def __call__(self, input, train: bool):
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(input))
        return nn.Dense(self.classes)(nn.Dropout(0.5, deterministic=not train)(hidden))


class Telling(nn.Module):
    """Gives back the mode it was told, `told` being one of the names."""

    @nn.compact
    def __call__(self, input):
        return self.param("bias", nn.initializers.zeros, ()) + 7.0


class TellingTrain(Telling):
    @nn.compact
    def __call__(self, input, train=None):
        return self.param("bias", nn.initializers.zeros, ()) + float(train)


class TellingTraining(Telling):
    @nn.compact
    def __call__(self, input, *, training: bool):
        return self.param("bias", nn.initializers.zeros, ()) + float(training)


class TellingDeterministic(Telling):
    @nn.compact
    def __call__(self, input, deterministic: bool = True):
        return self.param("bias", nn.initializers.zeros, ()) + float(deterministic)


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, input):
        output = nn.Dense(3)(input)
        self.sow("intermediates", "mean", output.mean())
        return output


class Listing(nn.Module):
    """A module that cannot be hashed."""

    sizes: Any = None

    @nn.compact
    def __call__(self, input):
        return nn.Dense(self.sizes[0])(input)


@pytest.fixture
def variables():
    return Network().init(jax.random.key(0), INPUT, train=False)


@pytest.fixture
def model(variables):
    return Model.from_linen(Network(), variables)


@pytest.mark.parametrize(
    ("module", "inference", "training"),
    [(TellingTrain(), 0, 1), (TellingTraining(), 0, 1), (TellingDeterministic(), 1, 0), (Telling(), 7, 7)],
    ids=["train", "training", "deterministic", "none"],
)
def test_the_mode_goes_to_the_argument_that_the_module_has(module, inference, training):
    model = Model.from_linen(module, {"params": {"bias": jnp.float32(0)}})
    assert model(INPUT) == inference
    assert model.replace(training=True)(INPUT) == training


def test_inference_is_what_the_module_gives(model, variables):
    np.testing.assert_allclose(model(INPUT), Network().apply(variables, INPUT, train=False), rtol=1e-5, atol=1e-6)


def test_inference_leaves_the_state_and_takes_no_key(model):
    output, after = model.forward(INPUT, jax.random.key(1))
    assert after.state is model.state
    np.testing.assert_array_equal(output, model.forward(INPUT, jax.random.key(2))[0])


def test_training_is_what_the_module_gives_with_the_key_for_dropout(model, variables):
    key = jax.random.key(5)
    output, after = model.replace(training=True).forward(INPUT, key)
    expected, changed = Network().apply(variables, INPUT, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    np.testing.assert_array_equal(output, expected)
    small.assert_trees_equal(after.state, changed)


def test_the_running_mean_moves_by_the_momentum(model):
    hidden = INPUT @ np.asarray(model.params["Dense_0"]["kernel"])
    _, after = model.replace(training=True).forward(INPUT, jax.random.key(0))
    mean = after.state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_each_step_of_training_is_given_a_key_of_its_own():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, input, train):
            seen = self.variable("noise", "last", lambda: jnp.zeros(()))
            if train:
                seen.value = jax.random.normal(self.make_rng("dropout"))
            return nn.Dense(3)(input)

    training_loop = small.training_loop(progress=False)
    loop = training_loop.begin_epoch(training_loop.start(Noisy(), epochs=1))
    seen = []
    for batch in training_loop.training[0]:
        loop = training_loop.train_step(loop, batch)
        seen.append(float(loop.model.state["noise"]["last"]))
    assert len(set(seen)) == 3
    loop = training_loop.eval_step(loop, batch)
    assert float(loop.model.state["noise"]["last"]) == seen[-1]


def test_what_a_module_sows_is_no_part_of_the_state():
    _, variables = Sowing().init_with_output(jax.random.key(0), INPUT, mutable=True)
    assert "intermediates" in variables
    model = Model.from_linen(Sowing(), variables).replace(training=True)
    assert model.state == model.forward(INPUT)[1].state == {}


def test_frozen_variables_are_taken_too(variables):
    frozen = Model.from_linen(Network(), freeze(variables))
    assert isinstance(frozen.params, FrozenDict)
    small.assert_trees_equal(unfreeze(frozen.unwrap()[1]), variables)


def test_unwrap_gives_the_module_and_the_variables(model, variables):
    module, unwrapped = model.unwrap()
    assert module == Network()
    small.assert_trees_equal(unwrapped, variables)


def test_unwrap_without_variables_gives_what_was_given():
    assert Model.from_linen(Network()).unwrap() == (Network(), None)


def test_what_unwrap_gives_can_be_trained_further():
    training_loop = small.training_loop()
    first, _ = training_loop.fit(Network(), 1)
    module, variables = first.model.unwrap()
    expected, _ = training_loop.fit(Model.from_linen(module, variables), 1)
    found, _ = training_loop.fit((module, variables), 1)
    small.assert_trees_equal(found.model.params, expected.model.params)
    with pytest.raises(ValueError, match="params"):
        training_loop.fit((module, {"batch_stats": {}}), 1)


def test_unwrap_gives_variables_that_the_module_takes_after_training():
    loop, _ = small.training_loop().fit(Network(), 2)
    module, variables = loop.model.unwrap()
    np.testing.assert_allclose(loop.model(INPUT), module.apply(variables, INPUT, train=False), rtol=1e-5, atol=1e-6)


def test_variables_without_params_are_refused(variables):
    with pytest.raises(ValueError, match="must hold the collection 'params', got 'Dense_0', "):
        Model.from_linen(Network(), {"Dense_0": {}, **variables["params"]})


def test_variables_that_are_no_mapping_are_refused():
    with pytest.raises(TypeError, match=r"as module.init\(key, input\) gives it, got ndarray"):
        Model.from_linen(Network(), INPUT)


@pytest.mark.parametrize(
    ("given", "got"),
    [(Network, "the class Network"), (nn.Module(), "Module"), (INPUT, "ndarray")],
    ids=["class", "bare", "array"],
)
def test_what_is_no_linen_module_that_can_be_called_is_refused(given, got):
    with pytest.raises(TypeError, match=f"must be a flax.linen.Module with a `__call__`, got {got}"):
        Model.from_linen(given)


@pytest.mark.parametrize("lift", [nn.remat, nn.jit], ids=["remat", "jit"])
def test_a_lifted_module_is_told_its_mode_too(lift):
    model = Model.from_linen(lift(TellingDeterministic)(), {"params": {"bias": jnp.float32(0)}})
    assert model.apply.modes.told(model.apply.module.value.__call__, training=True) == {"deterministic": False}


def test_calling_a_model_without_variables_says_how_to_get_them():
    with pytest.raises(ValueError, match=r"Network has no variables yet. Give it to `fit`"):
        Model.from_linen(Network())(INPUT)


def test_a_module_without_variables_begins_from_the_first_batch_and_the_seed():
    training_loop = small.training_loop()
    (first, _), *_ = training_loop.training[0]
    loop = training_loop.start(Network(), epochs=1, seed=3)
    expected = jax.jit(lambda key: Network().init(key, first, train=False))(jax.random.key(3))
    small.assert_trees_equal(loop.model.unwrap()[1], expected)


def test_a_module_without_variables_can_be_evaluated():
    training_loop = small.training_loop()
    batches = jl.in_batches(small.samples(8), 4)
    given = Network().init(jax.random.key(0), batches[0][0], train=False)
    measured = training_loop.evaluate(Network(), batches)
    assert measured == pytest.approx(training_loop.evaluate(Model.from_linen(Network(), given), batches), rel=1e-5)


def test_equal_modules_have_equal_applies():
    assert Model.from_linen(Network(3)).apply == Model.from_linen(Network(3)).apply
    assert hash(Model.from_linen(Network(3)).apply) == hash(Model.from_linen(Network(3)).apply)
    assert Model.from_linen(Network(3)).apply != Model.from_linen(Network(4)).apply


def test_a_module_that_cannot_be_hashed_equals_itself_alone_and_runs():
    module = Listing(sizes=np.array([3]))
    first, second = Model.from_linen(module).apply, Model.from_linen(module).apply
    assert first == first
    assert first != second
    loop, _ = small.training_loop().fit(module, 1)
    assert loop.model(INPUT).shape == (64, 3)


def test_a_second_fit_of_an_equal_module_compiles_nothing():
    training_loop = small.training_loop()
    training_loop.fit(Network(), 1)
    with counted_compiles() as counts:
        training_loop.fit(Network(), 2, seed=1)
    assert counts == {}


def test_the_apply_of_a_module_shows_its_class():
    assert repr(Model.from_linen(Network()).apply) == "<forward pass of Network>"


@pytest.mark.parametrize("steps_per_dispatch", [1, 5])
def test_a_fit_equals_a_loop_written_by_hand_bit_for_bit(steps_per_dispatch):
    training = jl.TrainingEpochs(small.samples(4 * STEPS_PER_EPOCH), batch_size=4, seed=2)
    optimizer = optax.adam(1e-2)
    training_loop = small.training_loop(
        training=training, validation=None, optimizer=optimizer, steps_per_dispatch=steps_per_dispatch
    )
    loop, history = training_loop.fit(Network(), EPOCHS, seed=1)

    @jax.jit
    def step(variables, opt_state, key, input, target):
        def mean_loss(params):
            output, changed = Network().apply(
                {**variables, "params": params}, input, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(output, target).mean(), changed

        gradient, changed = jax.grad(mean_loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradient, opt_state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **changed}, opt_state

    first, _ = training[0][0]
    variables = jax.jit(lambda key: Network().init(key, first, train=False))(jax.random.key(1))
    opt_state = optimizer.init(variables["params"])
    at = new_loop(loop.model, None, jax.random.key(1)).replace(phase=jl.Phase.TRAINING)
    batches = [batch for epoch in range(EPOCHS) for batch in training[epoch]]
    for index, (input, target) in enumerate(batches):
        key = at.replace(step=np.int32(index)).step_key("model")
        variables, opt_state = step(variables, opt_state, key, input, target)

    assert len(batches) == 50
    assert len(history.batches["loss"]) == 50
    small.assert_trees_equal(loop.model.unwrap()[1], variables)
