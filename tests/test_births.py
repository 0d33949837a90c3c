"""Models that are born in place, by one program."""

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import Mesh, SingleDeviceSharding

from jaxloop.births import abstract, birth, born
from jaxloop.model import Model, as_model
from tests.devices import run_on_devices

INPUT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def scaling(params, state, input, *, training, key):
    return input * params["scale"], state


def bare():
    params = {"scale": jax.random.normal(jax.random.key(3), (3,)), "weak": jnp.full(2, 0.5), "python": 0.25}
    return Model(scaling, params | {"numpy": np.arange(3.0)}, {"key": jax.random.key(1), "count": 0})


class Network(nnx.Module):
    """Layers with metadata, batch norm and dropout."""

    def __init__(self, rngs, **metadata):
        self.linear = nnx.Linear(3, 4, rngs=rngs, kernel_metadata=metadata)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, input):
        return self.dropout(self.norm(self.linear(input)))


def network():
    return Network(nnx.Rngs(0))


class Layers(linen.Module):
    @linen.compact
    def __call__(self, input, train=False):
        init = linen.with_partitioning(linen.initializers.orthogonal(), (None, "x"))
        hidden = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(8, kernel_init=init)(input))
        return linen.Dense(2)(hidden)


def with_variables():
    return Model.from_linen(Layers(), Layers().init(jax.random.key(5), jnp.zeros((1, 3))))


def mlp():
    return equinox.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))


TRANSFORMED = haiku.transform_with_state(lambda input: haiku.Linear(2)(input))


def transformed(params, state, input, *, training, key):
    return TRANSFORMED.apply(params, state, key, input)


def of_haiku():
    return Model(transformed, *TRANSFORMED.init(jax.random.key(0), jnp.zeros((1, 3))))


def beginning():
    return jax.random.key(7), INPUT


FACTORIES = {
    "bare": bare,
    "nnx": network,
    "linen": Layers,
    "linen with variables": with_variables,
    "equinox": mlp,
    "haiku": of_haiku,
}
factories = pytest.mark.parametrize("name", FACTORIES)


def factory(name):
    return lambda: FACTORIES[name]()


def data(leaf):
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


@factories
def test_a_born_model_is_the_one_that_the_factory_makes(name):
    made, model = as_model(FACTORIES[name](), beginning), born(factory(name), beginning)
    assert model.apply == made.apply
    assert jax.tree.structure(model) == jax.tree.structure(made)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(data(other), data(one), rtol=1e-6)


@factories
def test_the_leaves_of_a_born_model_are_strong_arrays(name):
    leaves = jax.tree.leaves(born(factory(name), beginning))
    assert all(isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False) for leaf in leaves)


@factories
def test_an_abstract_model_has_the_shapes_and_no_arrays(name):
    model = born(factory(name), beginning)
    before = len(jax.live_arrays())
    coming = abstract(factory(name), lambda: (jax.eval_shape(lambda: jax.random.key(0)), INPUT))
    assert len(jax.live_arrays()) == before
    assert coming.apply == model.apply
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), coming) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), model
    )
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and not leaf.weak_type for leaf in jax.tree.leaves(coming))


def test_a_born_model_shares_the_programs_of_an_equal_one():
    traces = []

    @jax.jit
    def run(model):
        traces.append(model)
        return model(INPUT)

    run(Model.from_nnx(network()))
    run(born(network))
    assert len(traces) == 1


def test_a_born_model_computes():
    np.testing.assert_allclose(
        born(lambda: Layers(), beginning)(INPUT), as_model(Layers(), beginning)(INPUT), rtol=1e-5
    )


def test_a_factory_is_called_once():
    calls = []

    def make():
        calls.append(1)
        return Model(scaling, {"scale": np.random.default_rng(len(calls)).normal(size=3)}, {})

    np.testing.assert_allclose(born(make).params["scale"], np.random.default_rng(1).normal(size=3), rtol=1e-6)
    assert len(calls) == 1


def test_a_model_without_params_is_born_without_a_beginning():
    state = {"scale": np.arange(3.0)}
    model = born(lambda: Model(scaling, None, state), beginning)
    assert (model.params, model.apply) == (None, scaling)
    np.testing.assert_array_equal(model.state["scale"], state["scale"])


def test_what_is_abstract_of_the_first_input_is_zeros():
    model = born(lambda: Layers(), lambda: (jax.random.key(7), jax.ShapeDtypeStruct((5, 3), np.float32)))
    expected = as_model(Layers(), beginning)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6)


def test_the_shardings_are_asked_for_the_abstract_model():
    device = SingleDeviceSharding(jax.devices()[0])
    asked = []

    def shardings(model):
        asked.append(model)
        return jax.tree.map(lambda leaf: device, model)

    model = born(network, None, shardings)
    assert jax.tree.structure(asked[0]) == jax.tree.structure(model)
    assert all(leaf.sharding == device for leaf in jax.tree.leaves(model))


def test_a_birth_can_be_run_in_a_program_of_the_callers():
    coming = birth(lambda: Layers(), beginning)
    assert jax.tree.structure(jax.jit(coming.make)(*coming.arguments)) == jax.tree.structure(coming.model)


def test_what_the_factory_closes_over_is_copied():
    module = network()
    model = born(lambda: module)
    kernel = module.linear.kernel[...]
    assert model.params["linear"]["kernel"].unsafe_buffer_pointer() != kernel.unsafe_buffer_pointer()
    np.testing.assert_array_equal(model.params["linear"]["kernel"], kernel)


def test_flax_places_nothing_by_itself_and_needs_no_mesh():
    with pytest.raises(ValueError, match="mesh context"):
        Network(nnx.Rngs(0), out_sharding=("x", "y"))
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("x", "y"))
    with jax.set_mesh(mesh):
        made = Model.from_nnx(Network(nnx.Rngs(0), out_sharding=("x", "y")))
    assert born(lambda: Network(nnx.Rngs(0), out_sharding=("x", "y"))).apply == made.apply
    assert nnx.using_eager_sharding()


def test_a_born_model_trains():
    model = born(mlp)
    gradient = jax.grad(lambda params: jax.vmap(model.replace(params=params))(INPUT).sum())(model.params)
    updates, _ = optax.sgd(0.1).update(gradient, optax.sgd(0.1).init(model.params), model.params)
    assert jax.tree.structure(updates) == jax.tree.structure(model.params)


IN_PLACE = """
import jax, jax.numpy as jnp, numpy as np
from flax import linen, nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxloop.births import born
from jaxloop.model import Model, as_model
from jaxloop.partitioning import partitioning

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
SIZE = 512
init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x", "y"))
boxed = linen.with_partitioning(linen.initializers.lecun_normal(), ("x", "y"))
weights = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)

def whole():
    shards = [shard for array in jax.live_arrays() for shard in array.addressable_shards]
    return [shard for shard in shards if shard.data.size >= SIZE * SIZE]

def shardings(model):
    assert not whole()
    specs = partitioning(model)
    def of(field, tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(mesh, specs.get((field, path), PartitionSpec())), tree)
    return model.replace(params=of("params", model.params), state=of("state", model.state))

def in_nnx():
    module = nnx.Linear(SIZE, SIZE, rngs=nnx.Rngs(0), kernel_init=init)
    assert not whole()
    return module

def by_hand():
    kernel = linen.Partitioned(jnp.asarray(weights), ("x", "y"))
    assert not whole()
    return Model(lambda params, state, input, *, training, key: (input @ params["kernel"].value, state),
                 {"kernel": kernel}, {})

beginning = lambda: (jax.random.key(1), jax.ShapeDtypeStruct((4, SIZE), np.float32))
kept = {}
for name, make in {"nnx": in_nnx, "linen": lambda: linen.Dense(SIZE, kernel_init=boxed), "hand": by_hand}.items():
    model = born(make, beginning, shardings)
    assert not whole(), name
    kernel = jax.tree.leaves(model.params["kernel"])[0]
    assert kernel.sharding == NamedSharding(mesh, PartitionSpec("x", "y")), name
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(SIZE // 2, SIZE // 4)}, name
    kept[name] = np.array(kernel)
with jax.set_mesh(mesh):
    eager = np.asarray(nnx.Linear(SIZE, SIZE, rngs=nnx.Rngs(0), kernel_init=init).kernel[...])
np.testing.assert_allclose(kept["nnx"], eager, rtol=1e-6)
eager = as_model(linen.Dense(SIZE, kernel_init=boxed), lambda: (jax.random.key(1), np.zeros((4, SIZE), np.float32)))
np.testing.assert_allclose(kept["linen"], eager.params["kernel"].value, rtol=1e-6)
np.testing.assert_array_equal(kept["hand"], weights)
del eager

with jax.set_mesh(mesh):  # a mesh of the user's own changes nothing
    model = born(in_nnx, None, shardings)
np.testing.assert_array_equal(np.asarray(model.params["kernel"]), kept["nnx"])
"""


def test_no_array_of_full_size_is_ever_on_one_device():
    run_on_devices(IN_PLACE, 8)
