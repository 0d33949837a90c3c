"""The partitioning metadata of a model's arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

import jaxloop as jl
from jaxloop.adapters.nnx import placed_later
from jaxloop.model import Model, as_model
from jaxloop.partitioning import partitioning

INPUT = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
KERNEL = ("params", (DictKey("kernel"),))


def mesh():
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("x", "y"))


def linear(axes, **metadata):
    """A linear layer of flax nnx whose kernel has metadata."""
    with placed_later():
        layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0), kernel_metadata={"out_sharding": axes, **metadata})
        return Model.from_nnx(layer)


class Deep(nnx.Module):
    """Two layers, one of which stands in two places, and a variable of two arrays."""

    def __init__(self, rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "y"))
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs, kernel_init=init) for _ in range(2)])
        self.again = self.layers[0]
        self.pair = nnx.Variable((jnp.ones(3), jnp.ones(4)), out_sharding=("x",))

    def __call__(self, input):
        return self.layers[1](self.layers[0](input))


class Stacked(nnx.Module):
    """Two equal layers of flax nnx that are scanned over."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=(0,), out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def layers(rngs):
            init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "y"))
            return nnx.Linear(4, 4, rngs=rngs, kernel_init=init)

        self.layers = layers(rngs)

    def __call__(self, input):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def over_layers(hidden, layer):
            return layer(hidden)

        return over_layers(input, self.layers)


class Boxed(linen.Module):
    """Layers of flax linen with boxes of both kinds, in the params and in the state."""

    rules: tuple | None = None

    @linen.compact
    def __call__(self, input, train=False):
        normal = linen.initializers.lecun_normal()
        logical = linen.with_logical_partitioning(normal, ("embed", "mlp"), rules=self.rules)
        hidden = linen.Dense(8, kernel_init=linen.with_partitioning(normal, (None, "x")))(input)
        hidden = linen.BatchNorm(use_running_average=not train, momentum=0.9)(hidden)
        calls = self.variable("calls", "count", linen.with_partitioning(jnp.zeros, ("y",)), (8,))
        if train:
            calls.value = calls.value + 1
        return linen.Dense(3, kernel_init=logical)(hidden)


def boxed(rules=None):
    return as_model(Boxed(rules), lambda: (jax.random.key(0), INPUT))


FIRST = ("params", (DictKey("Dense_0"), DictKey("kernel"), GetAttrKey("value")))
SECOND = ("params", (DictKey("Dense_1"), DictKey("kernel"), GetAttrKey("value")))
COUNT = ("state", (DictKey("calls"), DictKey("count"), GetAttrKey("value")))


@pytest.mark.parametrize(
    ("axes", "spec"),
    [
        (("x", None), PartitionSpec("x", None)),
        ((("x", "y"), None), PartitionSpec(("x", "y"), None)),
        (PartitionSpec("x"), PartitionSpec("x")),
        (PartitionSpec(), PartitionSpec()),
        ((), PartitionSpec()),
    ],
    ids=["names", "two axes", "spec", "empty spec", "no names"],
)
def test_a_variable_of_nnx_with_metadata_has_their_spec(axes, spec):
    assert partitioning(linear(axes)) == {KERNEL: spec}


def test_a_sharding_in_the_metadata_of_nnx_stands_for_its_spec():
    assert partitioning(linear(NamedSharding(mesh(), PartitionSpec("x")))) == {KERNEL: PartitionSpec("x")}


def test_a_variable_without_metadata_is_left_out(linear_model):
    assert partitioning(linear(None)) == {}
    assert partitioning(linear_model()) == {}


def test_the_rules_in_the_metadata_of_nnx_translate_its_axes():
    model = linear(("embed", "y"), sharding_rules=(("embed", "x"),))
    assert partitioning(model) == {KERNEL: PartitionSpec("x", "y")}


def test_the_rules_that_hold_now_translate_the_axes_of_nnx():
    model = linear(("embed", None))
    with linen.logical_axis_rules((("embed", "x"),)):
        assert partitioning(model) == {KERNEL: PartitionSpec("x", None)}
    assert partitioning(model) == {KERNEL: PartitionSpec("embed", None)}


def test_variables_are_found_in_lists_where_they_are_shared_and_where_they_hold_several_arrays():
    with placed_later():
        model = Model.from_nnx(Deep(nnx.Rngs(0)))
    assert partitioning(model) == {
        ("params", (DictKey("again"), DictKey("kernel"))): PartitionSpec(None, "y"),
        ("params", (DictKey("layers"), DictKey(1), DictKey("kernel"))): PartitionSpec(None, "y"),
        ("state", (DictKey("pair"), SequenceKey(0))): PartitionSpec("x"),
        ("state", (DictKey("pair"), SequenceKey(1))): PartitionSpec("x"),
    }


def test_layers_that_are_scanned_over_have_the_axis_of_the_layers_and_need_no_mesh():
    with placed_later():
        model = Model.from_nnx(Stacked(nnx.Rngs(0)))
    where = ("params", (DictKey("layers"), DictKey("kernel")))
    assert partitioning(model) == {where: PartitionSpec("layers", None, "y")}
    kernels, biases = model.params["layers"]["kernel"], model.params["layers"]["bias"]
    expected = (INPUT @ kernels[0] + biases[0]) @ kernels[1] + biases[1]
    np.testing.assert_allclose(model(INPUT), expected, rtol=1e-5, atol=1e-6)


def test_each_key_is_the_path_of_a_leaf():
    with placed_later():
        models = [Model.from_nnx(Deep(nnx.Rngs(0))), boxed()]
    for model in models:
        leaves = {
            (field, path)
            for field in ("params", "state")
            for path, _ in jax.tree_util.tree_leaves_with_path(getattr(model, field))
        }
        assert partitioning(model).keys() <= leaves


def test_an_nnx_module_made_on_a_mesh_has_the_same_specs():
    with jax.set_mesh(mesh()):
        layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0), kernel_metadata={"out_sharding": ("x", "y")})
    assert partitioning(Model.from_nnx(layer)) == partitioning(linear(("x", "y"))) == {KERNEL: PartitionSpec("x", "y")}


@pytest.mark.parametrize("transform", [jax.jit, lambda make: lambda: jax.eval_shape(make)], ids=["jit", "eval_shape"])
@pytest.mark.parametrize("make", [lambda: linear(("x", "y")), boxed], ids=["nnx", "linen"])
def test_a_model_from_within_a_program_has_the_specs_too(make, transform):
    assert partitioning(transform(make)()) == partitioning(make())


def test_metadata_do_not_keep_equal_modules_from_sharing_programs():
    assert linear(("x", "y")).apply == linear(("x", "y")).apply != linear(("y", "x")).apply


def test_the_arrays_of_a_model_with_metadata_are_pure_dicts():
    assert jax.tree.map(jnp.shape, linear(("x", "y")).params) == {"bias": (8,), "kernel": (4, 8)}


def test_boxes_of_linen_have_their_spec():
    assert partitioning(boxed()) == {
        FIRST: PartitionSpec(None, "x"),
        SECOND: PartitionSpec("embed", "mlp"),
        COUNT: PartitionSpec("y"),
    }


def test_logical_boxes_follow_the_rules_that_hold_now():
    with linen.logical_axis_rules((("embed", "x"),)):
        expected = linen.logical_to_mesh(linen.get_partition_spec(boxed().params))["Dense_1"]["kernel"]
        assert partitioning(boxed())[SECOND] == expected == PartitionSpec("x", None)
        assert partitioning(boxed())[FIRST] == PartitionSpec(None, "x")


def test_logical_boxes_with_rules_of_their_own_follow_these():
    with linen.logical_axis_rules((("embed", "x"),)):
        assert partitioning(boxed((("mlp", "y"),)))[SECOND] == PartitionSpec(None, "y")


def test_boxes_in_a_model_of_a_function_are_found():
    model = boxed()
    bare = Model(lambda params, state, input, *, training, key: (input, state), model.params, model.state)
    assert partitioning(bare) == partitioning(model)


def test_a_linen_module_without_variables_has_no_specs():
    assert partitioning(Model.from_linen(Boxed())) == {}


def test_boxed_variables_train_as_those_without_boxes_do():
    batches = [(INPUT, np.arange(8, dtype=np.int32) % 3)] * 4
    training = jl.TrainingLoop(
        jl.repeat(batches),
        batches,
        optimizer=optax.adamw(1e-2),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        progress=False,
    )
    variables = Boxed().init(jax.random.key(0), INPUT)
    found = []
    for given in (variables, linen.unbox(variables)):
        loop, history = training.fit(Model.from_linen(Boxed(), given), epochs=2)
        found.append((loop.model, history.epochs, training.evaluate(loop, batches), training.predict(loop, [INPUT])))
    (model, epochs, measured, predicted), (plain, plain_epochs, plain_measured, plain_predicted) = found
    assert partitioning(model) == partitioning(boxed())
    for name in ("loss", "accuracy", "validation_loss"):
        np.testing.assert_array_equal(epochs[name], plain_epochs[name])
    assert measured == plain_measured
    np.testing.assert_array_equal(predicted, plain_predicted)
    _, variables = model.unwrap()
    assert isinstance(variables["params"]["Dense_0"]["kernel"], linen.Partitioned)
    np.testing.assert_array_equal(variables["calls"]["count"].value, np.full(8, 8.0))
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(plain.unwrap()[1]), strict=True):
        np.testing.assert_array_equal(one, other)
