"""Models of flax nnx modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxloop.adapters.nnx import placed_later
from jaxloop.model import Model

INPUT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


class Network(nnx.Module):
    """A layer with batch norm and dropout, and one attribute of the test's choice."""

    def __init__(self, rngs, extra=None):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.extra = extra

    def __call__(self, input):
        return self.dropout(self.norm(self.linear(input)))


class Sowing(nnx.Module):
    """A layer that leaves what it computed behind."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.hidden = nnx.Intermediate(jnp.zeros(()))

    def __call__(self, input):
        output = self.linear(input)
        self.hidden = nnx.Intermediate(output.mean())
        return output


def network(seed=0, extra=None):
    return Network(nnx.Rngs(seed), extra)


def arrays(module):
    """Every variable of an nnx module as NumPy, keys by their bits."""
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(module)))
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, is_key, strict=True)]


def assert_same_arrays(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_params_of_a_module_are_its_nnx_params():
    shapes = jax.tree.map(jnp.shape, Model.from_nnx(network()).params)
    assert shapes == {"linear": {"bias": (4,), "kernel": (3, 4)}, "norm": {"bias": (4,), "scale": (4,)}}


def test_the_state_of_a_module_is_all_else():
    assert set(Model.from_nnx(network()).state) == {"norm", "dropout"}


def test_inference_is_what_the_module_gives_in_eval():
    module = network()
    model = Model.from_nnx(module)
    module.eval()
    np.testing.assert_allclose(model(INPUT), module(INPUT), rtol=1e-6)


def test_training_is_what_the_module_gives_in_train():
    module = network()
    output, _ = Model.from_nnx(module).replace(training=True).forward(INPUT)
    module.train()
    np.testing.assert_allclose(output, module(INPUT), rtol=1e-6)


def test_training_advances_the_state_as_the_module_would():
    module = network()
    _, after = Model.from_nnx(module).replace(training=True).forward(INPUT)
    module.train()
    module(INPUT)
    assert_same_arrays(arrays(after.unwrap()), arrays(module))


def test_inference_leaves_the_batch_statistics():
    model = Model.from_nnx(network())
    _, after = model.forward(INPUT)
    assert_same_arrays(jax.tree.leaves(after.state["norm"]), jax.tree.leaves(model.state["norm"]))


def test_each_training_pass_drops_other_units():
    first, model = Model.from_nnx(network()).replace(training=True).forward(INPUT)
    second, _ = model.forward(INPUT)
    assert not np.array_equal(np.asarray(first) == 0, np.asarray(second) == 0)


def test_the_running_mean_moves_by_the_momentum():
    module = network()
    hidden = np.asarray(module.linear(INPUT))
    _, after = Model.from_nnx(module).replace(training=True).forward(INPUT)
    np.testing.assert_allclose(after.state["norm"]["mean"], 0.1 * hidden.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_users_module_is_left_as_it_is():
    module = network()
    before = arrays(module)
    Model.from_nnx(module).replace(training=True).forward(INPUT)
    assert_same_arrays(arrays(module), before)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_users_module_stays_in_its_mode(mode):
    module = network()
    getattr(module, mode)()
    Model.from_nnx(module).replace(training=True)(INPUT)
    assert (module.dropout.deterministic, module.norm.use_running_average) == ((mode == "eval"),) * 2


def test_unwrap_gives_a_module_with_the_values_of_now():
    model = Model.from_nnx(network())
    doubled = model.replace(params=jax.tree.map(lambda leaf: 2 * leaf, model.params))
    np.testing.assert_array_equal(doubled.unwrap().linear.kernel[...], 2 * model.params["linear"]["kernel"])


def test_unwrap_gives_a_module_of_the_same_class():
    assert type(Model.from_nnx(network()).unwrap()) is Network


@pytest.mark.parametrize("training", [True, False])
def test_unwrap_gives_a_module_in_the_mode_of_the_model(training):
    restored = Model.from_nnx(network()).replace(training=training).unwrap()
    assert (restored.dropout.deterministic, restored.norm.use_running_average) == (not training, not training)


def test_what_is_done_to_an_unwrapped_module_does_not_reach_the_model():
    model = Model.from_nnx(network())
    restored = model.unwrap()
    restored.train()
    restored(INPUT)
    np.testing.assert_array_equal(model.state["norm"]["mean"], np.zeros(4))


def test_equal_modules_have_equal_applies():
    first, second = Model.from_nnx(network(seed=0)).apply, Model.from_nnx(network(seed=1)).apply
    assert first == second
    assert hash(first) == hash(second)


def test_modules_of_other_hyperparameters_have_other_applies():
    assert Model.from_nnx(network(extra=1)).apply != Model.from_nnx(network(extra=2)).apply


def test_equal_modules_share_a_program():
    traces = []

    @jax.jit
    def run(model):
        traces.append(model)
        return model(INPUT)

    run(Model.from_nnx(network(seed=0)))
    run(Model.from_nnx(network(seed=1)))
    assert len(traces) == 1


class Unhashable:
    """An attribute that cannot be a part of a hash."""

    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, Unhashable)


@pytest.mark.parametrize("extra", [Unhashable, lambda: lambda input: input], ids=["unhashable", "lambda"])
def test_a_module_with_an_attribute_of_no_value_equals_itself_alone(extra):
    first, second = Model.from_nnx(network(extra=extra())).apply, Model.from_nnx(network(extra=extra())).apply
    assert first == first
    assert hash(first) == hash(first)
    assert first != second


@pytest.mark.parametrize("extra", [Unhashable, lambda: lambda input: input], ids=["unhashable", "lambda"])
def test_a_module_with_an_attribute_of_no_value_runs(extra):
    assert Model.from_nnx(network(extra=extra()))(INPUT).shape == (5, 4)


@pytest.mark.parametrize("extra", [np.arange(3.0), jnp.arange(3.0)], ids=["numpy", "jax"])
def test_an_array_among_a_modules_attributes_is_state(extra):
    model = Model.from_nnx(network(extra=extra))
    np.testing.assert_array_equal(model.forward(INPUT)[1].state["extra"], extra)


def test_what_a_module_sows_is_no_part_of_its_state():
    module = Sowing(nnx.Rngs(0))
    model = Model.from_nnx(module)
    _, after = model.forward(INPUT)
    assert jax.tree.structure(after.state) == jax.tree.structure(model.state) == jax.tree.structure({})


def test_the_apply_of_a_module_shows_its_class():
    assert repr(Model.from_nnx(network()).apply) == "<forward pass of Network>"


def test_a_module_can_be_differentiated():
    model = Model.from_nnx(network())
    gradient = jax.grad(lambda params: model.replace(params=params)(INPUT).sum())(model.params)
    np.testing.assert_allclose(gradient["norm"]["bias"], np.full(4, 5.0), rtol=1e-6)


def test_modules_can_be_mapped_over():
    models = [Model.from_nnx(network(seed=seed)) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    outputs = jax.vmap(lambda model: model(INPUT))(stacked)
    np.testing.assert_allclose(outputs, np.stack([model(INPUT) for model in models]), rtol=1e-5, atol=1e-6)


def annotated():
    return nnx.Linear(3, 4, rngs=nnx.Rngs(0), kernel_metadata={"out_sharding": ("x", "y")})


def test_a_variable_with_partitioning_metadata_needs_a_mesh_unless_it_is_placed_later():
    with placed_later():
        layer = annotated()
    assert layer.kernel.get_metadata("out_sharding") == ("x", "y")
    with pytest.raises(ValueError, match="mesh context"):
        annotated()


def test_what_is_placed_later_has_the_graph_of_what_flax_has_placed():
    with placed_later():
        later = Model.from_nnx(annotated())
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("x", "y"))):
        at_once = Model.from_nnx(annotated())
    assert later.apply == at_once.apply
    assert later.unwrap().kernel.get_metadata() == at_once.unwrap().kernel.get_metadata()


def test_where_flax_places_nothing_anyway_placing_later_changes_nothing():
    with nnx.use_eager_sharding(False):
        with placed_later():
            later = Model.from_nnx(annotated())
        assert later.apply == Model.from_nnx(annotated()).apply
        assert not nnx.using_eager_sharding()
    assert nnx.using_eager_sharding()
