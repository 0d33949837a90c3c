"""Names of leaves: those that the user's library has, one each, and whether what is rebuilt has all in its place."""

from typing import Any, NamedTuple

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxloop as jl
from jaxloop.errors import WeightsError
from jaxloop.weights.naming import weights_of
from tests import small

IMAGES = np.zeros((2, 4), np.float32)


class Module(nnx.Module):
    def __init__(self, seed: int = 0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(4, 3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3, 3, use_bias=False, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(self.first(x)) if x.shape[-1] == 4 else block(x)
        return self.dropout(self.norm(x))


NNX = {
    *("first.kernel", "first.bias", "blocks.0.kernel", "blocks.1.kernel"),
    *("norm.scale", "norm.bias", "norm.mean", "norm.var", "dropout.rngs.count", "dropout.rngs.key"),
}


class Network(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return linen.BatchNorm(use_running_average=not train)(linen.Dense(3)(x))


LINEN = {
    *("Dense_0.kernel", "Dense_0.bias", "BatchNorm_0.scale", "BatchNorm_0.bias"),
    *("batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var"),
}
EQUINOX = {f"layers.{index}.{part}" for index in range(2) for part in ("weight", "bias")}


def mlp() -> equinox.nn.MLP:
    return equinox.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))


def network() -> tuple[Network, Any]:
    return Network(), Network().init(jax.random.key(0), IMAGES)


def haiku_parts() -> tuple[Any, Any, Any]:
    def forward(x: Any) -> Any:
        return haiku.BatchNorm(True, True, 0.9)(haiku.nets.MLP([3])(x), is_training=True)

    transformed = haiku.transform_with_state(forward)
    return transformed.apply, *transformed.init(jax.random.key(0), IMAGES)


def names(given: Any) -> set[str]:
    found = [each.name for each in weights_of(given, "here").named]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Module(), NNX),
        (jl.Model.from_nnx(Module()), NNX),
        (jl.Model.from_nnx(Module(), trained=nnx.PathContains("first")), NNX),
        (Module().norm, {"scale", "bias", "mean", "var"}),
        (network(), LINEN),
        (jl.Model.from_linen(*network()), LINEN),
        (jl.Model.from_linen(*network(), trained=lambda path, leaf: "Batch" in path), LINEN),
        (mlp(), EQUINOX),
        (jl.Model.from_callable(mlp(), batched=False), EQUINOX),
        (jl.Model.from_callable(mlp(), batched=False, trained=lambda path, leaf: "[1]" in path), EQUINOX),
        (mlp().layers, {name.removeprefix("layers.") for name in EQUINOX}),
    ],
    ids=[
        *("nnx", "nnx model", "nnx, a part trained", "part of nnx", "linen", "linen model", "linen, a part trained"),
        *("equinox", "equinox model", "equinox, a part trained", "part of equinox"),
    ],
)
def test_leaves_are_named_by_the_path_in_the_users_library(given: Any, expected: set[str]) -> None:
    assert names(given) == expected


def test_in_haiku_names_begin_with_the_module_and_those_of_the_state_say_so() -> None:
    apply, params, state = haiku_parts()
    assert names(params) == {
        "mlp/~/linear_0.w",
        "mlp/~/linear_0.b",
        "batch_norm.scale",
        "batch_norm.offset",
    }
    assert names(jl.Model(apply, params, state)) > names(params)
    assert "state.batch_norm/~/mean_ema.average" in names(jl.Model(apply, params, state))


def test_the_weights_of_a_loop_are_those_of_its_model() -> None:
    loop = small.training_loop().start(small.model(), epochs=1)
    assert names(loop) == {"kernel", "bias", "state.passes"}


def test_a_box_around_an_array_does_not_show() -> None:
    kernel = linen.with_partitioning(linen.initializers.ones, (None, None))
    module = linen.Dense(3, kernel_init=kernel)
    assert names((module, module.init(jax.random.key(0), IMAGES))) == {"kernel", "bias"}


def test_a_lone_array_has_a_name_too() -> None:
    assert names(np.zeros(3)) == {"value"}
    assert names(jl.Model(small.apply, jnp.zeros(3), jnp.zeros(3))) == {"params", "state"}


class Pair(NamedTuple):
    one: Any
    other: Any


def test_a_pytree_is_named_by_keys_places_and_attributes() -> None:
    assert names({"a": [np.zeros(1), {3: np.zeros(2)}], "b": Pair(np.zeros(1), None)}) == {"a.0", "a.1.3", "b.one"}


def test_python_numbers_in_containers_are_weights_and_in_objects_settings() -> None:
    assert names({"scale": 0.5, "steps": [1, True]}) == {"scale", "steps.0", "steps.1"}
    assert names(equinox.nn.Sequential([mlp(), equinox.nn.Dropout(0.5)])) == {f"layers.0.{name}" for name in EQUINOX}


@pytest.mark.parametrize(
    "tree",
    [{"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}, {"a": [np.zeros(1)], "a.0": np.zeros(1)}],
    ids=["a dot", "a place"],
)
def test_two_leaves_of_one_name_are_refused(tree: Any) -> None:
    with pytest.raises(WeightsError, match=r"here: two leaves of the model have the name 'a\.[b0]'.*rename one"):
        weights_of(tree, "here")


def test_a_dot_alone_is_no_fault() -> None:
    assert names({"h.0.weight": np.zeros(1)}) == {"h.0.weight"}


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_a_file_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="cannot hold the name"):
        weights_of({name: np.zeros(1)}, "here")


@pytest.mark.parametrize("leaf", [np.array(["x"]), np.array([None]), np.datetime64("2020-01-01")])
def test_arrays_that_are_not_of_numbers_are_refused(leaf: Any) -> None:
    with pytest.raises(WeightsError, match=r"here: 'a' is an array of .*arrays of numbers only"):
        weights_of({"a": leaf, "b": np.zeros(1)}, "here")


@pytest.mark.parametrize(
    ("given", "error", "complaint"),
    [
        (lambda: small.model(), TypeError, r"got the function <lambda>, which holds no array.*make_model\(\)"),
        (Module, TypeError, "got the class Module"),
        (None, TypeError, "got NoneType"),
        ({}, TypeError, "got dict"),
        (optax.sgd(0.1), TypeError, "holds no array"),
        (Network(), ValueError, r"this linen module has no variables yet\. Write jaxloop\.Model\.from_linen"),
        (jl.Model.from_linen(Network()), ValueError, "this linen module has no variables yet"),
    ],
    ids=["a function", "a class", "nothing", "an empty tree", "an optimizer", "linen", "a linen model"],
)
def test_what_holds_no_arrays_is_refused(given: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        weights_of(given, "here")


def test_keys_and_counters_are_streams_and_nothing_else_is() -> None:
    for given in (Module(), jl.Model.from_nnx(Module())):
        streams = {each.name for each in weights_of(given, "here").named if each.stream}
        assert streams == {"dropout.rngs.count", "dropout.rngs.key"}
    assert weights_of({"key": jax.random.key(0)}, "here").named[0].stream
    assert not weights_of({"key": jax.random.PRNGKey(0)}, "here").named[0].stream


@pytest.mark.parametrize(
    "given",
    [Module(), network(), mlp(), jl.Model.from_nnx(Module()), jl.Model(*haiku_parts()), {"a": Pair(np.ones(1), 3)}],
    ids=["nnx", "linen", "equinox", "model", "haiku", "tree"],
)
def test_what_is_rebuilt_is_of_the_same_kind_and_has_each_leaf_in_its_place(given: Any) -> None:
    weights = weights_of(given, "here")
    numbered = [np.full(each.leaf.shape, float(index)) for index, each in enumerate(weights.named)]
    numbered = [each.leaf if each.stream else array for each, array in zip(weights.named, numbered, strict=True)]
    again = weights.rebuild(numbered)
    assert type(again) is type(given)
    found = weights_of(again, "here").named
    assert [each.name for each in found] == [each.name for each in weights.named]
    for one, other in zip(found, numbered, strict=True):
        assert one.stream or np.array_equal(one.leaf, other)


def test_a_rebuilt_module_of_nnx_is_in_the_mode_of_the_one_that_was_given() -> None:
    for training in (True, False):
        module = Module()
        module.train() if training else module.eval()
        weights = weights_of(module, "here")
        again = weights.rebuild([each.leaf for each in weights.named])
        assert again.dropout.deterministic is not training
        assert again is not module
