"""A forward pass in narrower floats is that of a loop by hand which casts; all that lasts stays float32."""

import copy
import pickle
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxloop as jl
from jaxloop.casting import CastApply, checked_dtype, in_dtype, narrowed, restored
from tests import small

DTYPES = [jnp.bfloat16, jnp.float16, "bfloat16", "float16"]
LINEAR = small.apply


def dtypes_of(tree: Any) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def by_hand(dtype: Any, epochs: int = 2) -> Any:
    """The parameters after the fit of `small`, by a loop that casts. It is compiled, which decides where XLA rounds."""

    @jax.jit
    @jax.grad
    def gradient_of(params: Any, input: Any, target: Any) -> Any:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        logits = input.astype(dtype) @ params["kernel"] + params["bias"]
        assert logits.dtype == dtype
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), target).mean()

    params = small.model().params
    for epoch in range(epochs):
        for input, target in small.training_loop().training[epoch]:
            gradient = gradient_of(params, jnp.asarray(input), target)
            params = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, params, gradient)
    return params


@jl.on_host(jl.Event.UPDATE_START, reads="step")
def looking(loop: Any, event: jl.Event) -> None:
    assert dtypes_of((loop.input, loop.output, loop.loss, loop.gradient)) == {"float32"}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: getattr(dtype, "__name__", repr(dtype)))
def test_a_fit_is_that_of_a_loop_which_casts_parameters_and_input(dtype: Any) -> None:
    loop, _ = small.training_loop(compute_dtype=dtype).fit(small.model(), 2)
    small.assert_close(loop.model.params, by_hand(jnp.dtype(dtype)))
    assert dtypes_of(loop.model.params) == {"float32"}
    assert loop.model.apply is LINEAR
    assert int(loop.model.state["passes"]) == 6


@pytest.mark.parametrize("changes", [{"steps_per_dispatch": 3}, {"steps_per_dispatch": "auto"},
                                     {"callbacks": [looking]}, {"accumulate": 2}],
                         ids=["three steps", "auto", "apart", "accumulate"])  # fmt: skip
def test_it_is_the_same_however_steps_are_dispatched_and_batches_split(changes: Any) -> None:
    loop, history = small.training_loop(compute_dtype="bfloat16", **changes).fit(small.model(), 2)
    tolerance = 2e-3 if "accumulate" in changes else 1e-6  # the products of the gradient are rounded for each part
    for leaf, other in zip(jax.tree.leaves(loop.model.params), jax.tree.leaves(by_hand(jnp.bfloat16)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance)
    assert np.isfinite(history.epochs["validation_loss"]).all()


def test_evaluation_prediction_and_steps_by_hand_are_cast_too() -> None:
    training_loop = small.training_loop(compute_dtype="bfloat16")
    model, (input, target) = small.model(), small.samples(8, seed=1)
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), model.params)
    logits = (jnp.asarray(input, jnp.bfloat16) @ narrow["kernel"] + narrow["bias"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    measured = training_loop.evaluate(model, training_loop.validation)
    np.testing.assert_allclose(measured["loss"], losses.mean(), rtol=1e-6)
    predicted = training_loop.predict(model, input)
    assert predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted, logits)
    loop = training_loop.start(model, epochs=2)
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        for batch in training_loop.training[epoch]:
            loop = training_loop.train_step(loop, batch)
        loop = training_loop.end_epoch(loop)
    small.assert_close(loop.model.params, by_hand(jnp.bfloat16))
    loop = training_loop.begin_epoch(training_loop.start(model, epochs=1))
    stacked = jax.tree.map(lambda *each: np.stack(each), *training_loop.training[0])
    loop, _ = training_loop.run_steps(loop, stacked)
    small.assert_close(loop.model.params, by_hand(jnp.bfloat16, epochs=1))


def test_a_step_of_ones_own_is_given_what_is_cast_and_gives_back_what_is_not() -> None:
    seen: dict[str, Any] = {}

    def own(model: jl.Model, loop: jl.Loop) -> Any:
        output, model = model.forward(loop.input, loop.step_key("model"))
        seen.update(params=dtypes_of(model.params), input=loop.input.dtype, output=output.dtype)
        return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)

    changes: Any = {"loss_fn": None, "differentiable_step": own, "compute_dtype": jnp.bfloat16, "callbacks": [looking]}
    loop, _ = small.training_loop(**changes).fit(small.model(), 2)
    assert seen == {"params": {"bfloat16"}, "input": jnp.bfloat16, "output": jnp.float32}
    small.assert_close(loop.model.params, by_hand(jnp.bfloat16))
    assert int(loop.model.state["passes"]) == 6


class Network(nnx.Module):
    """An embedding, batch norm and dropout; it says in which dtype it computes."""

    seen: ClassVar[set[str]] = set()

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(5, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        assert tokens.dtype == jnp.int32
        hidden = self.dropout(self.norm(self.embed(tokens)))
        self.seen.add(hidden.dtype.name)
        return self.head(hidden)


@pytest.mark.parametrize("called", [False, True])
def test_layers_of_nnx_compute_in_it_while_integers_and_state_stay(called: bool) -> None:
    def own(model: jl.Model, loop: jl.Loop) -> Any:
        output, model = model.call(lambda module: module(loop.input), loop.step_key("model"))
        assert output.dtype == jnp.float32
        return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)

    tokens = np.random.default_rng(0).integers(0, 5, 12).astype(np.int32)
    training = jl.TrainingEpochs((tokens, tokens % 3), batch_size=4)
    changes: Any = {"loss_fn": None, "differentiable_step": own} if called else {}
    Network.seen.clear()
    model = jl.Model.from_nnx(Network(nnx.Rngs(0)))
    loop, _ = small.training_loop(training=training, validation=None, compute_dtype="bfloat16", **changes).fit(model, 1)
    assert Network.seen == {"bfloat16"}
    assert dtypes_of(loop.model.params) == {"float32"}
    assert jax.tree.map(lambda leaf: leaf.dtype, loop.model.state) == jax.tree.map(lambda leaf: leaf.dtype, model.state)
    assert isinstance(loop.model.unwrap(), Network)


def test_running_averages_do_not_stop_where_a_narrow_float_would() -> None:
    """With momentum 0.999 an average in bfloat16 stays where it is once the change is less than its 512th part."""
    norm = nnx.BatchNorm(1, momentum=0.999, rngs=nnx.Rngs(0))
    input = np.full((4, 1), 3, np.float32) + np.array([[-1], [1], [-1], [1]], np.float32)
    training_loop = small.training_loop(
        training=[[(input, input)] * 2000],
        validation=None,
        optimizer=optax.sgd(0.0),
        loss_fn=jl.losses.mean_squared_error,
        metrics=[],
        compute_dtype="bfloat16",
        steps_per_dispatch=2000,
    )
    loop, _ = training_loop.fit(jl.Model.from_nnx(norm), 1)
    np.testing.assert_allclose(loop.model.state["mean"], 3 * (1 - 0.999**2000), rtol=1e-4)
    np.testing.assert_allclose(loop.model.state["var"], 1, rtol=1e-4)
    narrow = jnp.bfloat16(0)
    for _ in range(2000):
        narrow = narrow * jnp.bfloat16(0.999) + jnp.bfloat16(0.003)
    assert float(narrow) == 1, "an average in bfloat16 would have stopped far from 2.6"


class Adapted(nnx.Module):
    """A layer of which only the adapter is trained; it says in which dtype it computes."""

    seen: ClassVar[set[str]] = set()

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        output = self.layer(input)
        self.seen.add(output.dtype.name)
        return output


def test_parameters_that_are_not_trained_are_cast_too_and_keep_their_bits() -> None:
    dense = linen.Sequential([linen.Dense(8), linen.Dense(3)])
    variables = dense.init(jax.random.key(0), np.ones((1, 4), np.float32))
    models = [
        jl.Model.from_nnx(Adapted(nnx.Rngs(0)), trained=nnx.LoRAParam),
        jl.Model.from_linen(dense, variables, trained=lambda path, leaf: path.startswith("layers_1")),
        jl.Model.from_callable(
            jax.tree_util.Partial(lambda w, v, x: x @ w @ v, np.eye(4, dtype=np.float32), np.ones((4, 3), np.float32)),
            trained=lambda path, leaf: leaf.shape == (4, 3),
        ),
    ]
    Adapted.seen.clear()
    for model in models:
        training_loop = small.training_loop(compute_dtype="bfloat16", validation=None, metrics=[])
        loop, _ = training_loop.fit(model, 1)
        small.assert_trees_equal(loop.model.state, model.state)
        narrow = jax.make_jaxpr(in_dtype(model, jnp.dtype("bfloat16")).forward)(np.ones((2, 4), np.float32))
        products = [equation for equation in narrow.eqns if equation.primitive.name == "dot_general"]
        assert {str(variable.aval.dtype) for equation in products for variable in equation.invars} <= {"bfloat16"}
    assert Adapted.seen == {"bfloat16"}


def test_modules_of_linen_are_called_in_it_and_keep_their_kind_of_variables() -> None:
    network = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(3)])
    model = jl.Model.from_linen(network, network.init(jax.random.key(0), np.ones((1, 4), np.float32)))
    text = small.training_loop(compute_dtype="bfloat16", validation=None).compile(model).training.hlo
    assert "bf16[" in text
    cast = in_dtype(model, jnp.dtype("bfloat16"))
    assert dtypes_of(cast.unwrap()[1]) == {"bfloat16"}
    assert cast.forward(np.ones((2, 4), np.float32))[0].dtype == jnp.float32


def test_only_floats_are_narrowed_and_only_narrow_floats_are_restored() -> None:
    tree = {
        "float32": jnp.ones(2),
        "bfloat16": jnp.ones(2, jnp.bfloat16),
        "int8": jnp.ones(2, jnp.int8),
        "bool": jnp.ones(2, bool),
        "key": jax.random.key(0),
        "complex": jnp.ones(2, jnp.complex64),
        "none": None,
    }
    half = narrowed(tree, jnp.dtype("float16"))
    assert {name: str(leaf.dtype) for name, leaf in half.items() if leaf is not None} == {
        "float32": "float16",
        "bfloat16": "float16",
        "int8": "int8",
        "bool": "bool",
        "key": "key<fry>",
        "complex": "complex64",
    }
    assert half["int8"] is tree["int8"]
    back = restored(half)
    assert dtypes_of((back["float32"], back["bfloat16"])) == {"float32"}
    assert back["int8"] is half["int8"]


def test_floats_of_64_bits_are_narrowed_too_and_get_gradients_of_64_bits() -> None:
    with jax.enable_x64(True):
        model = small.model().replace(params={"kernel": np.ones((4, 3), np.float64), "bias": np.zeros(3)})
        loop, _ = small.training_loop(compute_dtype="bfloat16").fit(model, 1)
        assert dtypes_of(loop.model.params) == {"float64"}
        assert loop.stats["loss"].dtype == jnp.float32


@pytest.mark.parametrize("given", [jnp.int32, "bool", complex, "float64", jnp.float8_e4m3fn])
def test_what_no_pass_can_be_computed_in_is_refused(given: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`compute_dtype` must be a dtype of floats, got .*Give 'bfloat16', 'float16'"
    ):
        small.training_loop(compute_dtype=given)


def test_what_is_no_dtype_is_refused() -> None:
    with pytest.raises(TypeError, match="`compute_dtype` must be a dtype of floats, got 'half way'"):
        small.training_loop(compute_dtype="half way")
    assert checked_dtype(None) is None


def test_without_it_nothing_is_cast() -> None:
    text = small.training_loop(validation=None).compile(small.model()).training.hlo
    assert "bf16" not in text


def test_a_pass_that_is_cast_is_equal_to_another_and_can_be_copied() -> None:
    one, other = CastApply(LINEAR, jnp.dtype("bfloat16")), CastApply(LINEAR, jnp.dtype("bfloat16"))
    assert one == other
    assert hash(one) == hash(other)
    assert one != CastApply(LINEAR, jnp.dtype("float16"))
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert getattr(one, "call", None) is None
    with pytest.raises(TypeError, match="made of a function"):
        in_dtype(small.model(), jnp.dtype("bfloat16")).call(lambda module: module)


def test_a_float16_that_overflows_is_not_hidden() -> None:
    model = small.model()
    model = model.replace(params=jax.tree.map(lambda leaf: leaf * np.float32(1e5), model.params))
    measured = small.training_loop(compute_dtype="float16").evaluate(model, jl.in_batches(small.samples(8), 4))
    assert not np.isfinite(measured["loss"])


def test_what_weighs_nothing_has_no_effect_even_if_it_overflows_only_in_narrow_floats() -> None:
    input, target = small.samples(4)
    weight = np.array([1, 0, 1, 1], np.float32)
    fits = []
    for value in (1e6, 1.0):
        input[1] = value
        training_loop = small.training_loop(
            training=[[(input.copy(), target, weight)]], validation=None, compute_dtype="float16"
        )
        fits.append(training_loop.fit(small.model(), 1)[0])
    assert np.isfinite(fits[0].stats["loss"])
    small.assert_trees_equal(*(loop.model.params for loop in fits))
