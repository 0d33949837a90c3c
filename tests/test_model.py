"""`Model`: a pure function with its arrays, and what is taken as one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxloop.model import Model, as_model

INPUT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def doubling(params, state, input, *, training, key):
    return input * params["scale"] * (2 if training else 1), {"calls": state["calls"] + 1}


@pytest.fixture
def model():
    return Model(doubling, {"scale": jnp.array([1.0, 2.0, 3.0])}, {"calls": jnp.int32(0)})


def test_calling_a_model_gives_its_output_in_inference(model):
    np.testing.assert_array_equal(model(INPUT), INPUT * np.float32([1, 2, 3]))


def test_calling_a_model_that_trains_gives_its_output_in_training(model):
    np.testing.assert_array_equal(model.replace(training=True)(INPUT), INPUT * np.float32([2, 4, 6]))


def test_forward_gives_the_model_with_the_state_it_left(model):
    assert model.forward(INPUT)[1].state == {"calls": 1}


def test_forward_leaves_the_model_itself_as_it_was(model):
    model.forward(INPUT)
    assert model.state == {"calls": 0}


def test_forward_hands_the_key_on():
    model = Model(lambda params, state, input, *, training, key: (jax.random.normal(key, (2,)), state), {}, {})
    np.testing.assert_array_equal(model(INPUT, jax.random.key(3)), jax.random.normal(jax.random.key(3), (2,)))


def test_a_model_needs_no_state(linear_model):
    bare = Model(linear_model().apply, linear_model().params)
    assert bare.state == {}


def test_a_model_cannot_be_edited(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.params = {}


def test_replace_changes_the_named_fields_alone(model):
    after = model.replace(state={"calls": 7})
    assert (after.state, after.params, after.apply) == ({"calls": 7}, model.params, doubling)


def test_unwrap_of_a_plain_model_is_the_model(model):
    assert model.unwrap() is model


def test_the_leaves_of_a_model_are_its_params_and_state(model):
    assert len(jax.tree.leaves(model)) == 2


def test_a_model_passes_through_jit(model):
    np.testing.assert_allclose(jax.jit(lambda model: model(INPUT))(model), model(INPUT), rtol=1e-6)


def test_models_of_one_apply_share_a_program(model):
    traces = []

    @jax.jit
    def run(model):
        traces.append(model)
        return model(INPUT)

    run(model)
    run(model.replace(params={"scale": jnp.zeros(3)}))
    assert len(traces) == 1


def test_a_model_can_be_mapped_over_its_params(model):
    scales = jnp.arange(6.0).reshape(2, 3)
    outputs = jax.vmap(lambda scale: model.replace(params={"scale": scale})(INPUT))(scales)
    np.testing.assert_allclose(outputs, INPUT * np.asarray(scales)[:, np.newaxis], rtol=1e-6)


def test_a_model_can_be_differentiated_as_a_whole(linear_model):
    gradient = jax.grad(lambda model: model(INPUT).sum())(linear_model())
    np.testing.assert_allclose(
        gradient.params["weight"], np.repeat(INPUT.sum(axis=0)[:, np.newaxis], 2, axis=1), rtol=1e-5
    )


def test_a_model_is_taken_as_it_is(model):
    assert as_model(model) is model


def test_an_nnx_module_is_taken_as_a_model():
    module = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(as_model(module)(INPUT), module(INPUT), rtol=1e-6)


def test_a_linen_module_is_initialized_from_the_first_input_with_the_key():
    model = as_model(linen.Dense(4), lambda: (jax.random.key(7), INPUT))
    expected = linen.Dense(4).init(jax.random.key(7), INPUT)
    np.testing.assert_array_equal(model.params["kernel"], expected["params"]["kernel"])


def test_a_model_of_a_linen_module_without_variables_is_initialized_too():
    model = as_model(Model.from_linen(linen.Dense(4)), lambda: (jax.random.key(7), INPUT))
    assert model.params["kernel"].shape == (3, 4)


def test_a_linen_module_that_has_variables_is_not_initialized_again():
    model = Model.from_linen(linen.Dense(4), linen.Dense(4).init(jax.random.key(0), INPUT))
    assert as_model(model, lambda: (jax.random.key(7), INPUT)) is model


def test_a_linen_module_without_an_input_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"no variables yet. Write jaxloop.Model.from_linen\(module, module.init\("):
        as_model(linen.Dense(4))


def test_a_callable_pytree_is_taken_as_a_model():
    scaled = jax.tree_util.Partial(lambda scale, input: scale * input, jnp.float32(3))
    np.testing.assert_array_equal(as_model(scaled)(INPUT), 3 * INPUT)


@pytest.mark.parametrize(
    "given",
    [doubling, jax.vmap(doubling), object(), {"scale": jnp.ones(3)}, jax.tree_util.Partial(doubling, jnp.arange(3))],
    ids=["function", "vmap", "object", "arrays", "integers"],
)
def test_what_is_no_model_is_refused_with_what_is_and_the_fix(given):
    accepted = "a jaxloop.Model, a jaxloop.Loop, a flax.nnx.Module, a flax.linen.Module or a callable pytree"
    with pytest.raises(TypeError, match=accepted) as error:
        as_model(given)
    assert f"got {type(given).__name__}. Wrap a function as jaxloop.Model(apply, params, state)" in str(error.value)


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (np.ones(3, np.int8), r"int8\[3\]"),
        (jnp.ones(3, jnp.uint8), r"uint8\[3\]"),
        (jnp.ones(3, jnp.int4), r"int4\[3\]"),
        (np.array([True]), r"bool\[1\]"),
        (jax.random.key(0), r"key<fry>\[\]"),
        (np.zeros(2, jax.dtypes.float0), r".*float0.*\[2\]"),
        (3, "int, 3"),
        ("name", "str, 'name'"),
    ],
    ids=["int8", "uint8", "int4", "bool", "key", "float0", "number", "text"],
)
def test_a_parameter_that_has_no_gradient_is_refused_by_name_with_the_fix(leaf, said):
    given = Model(doubling, {"scale": np.ones(3), "layers": [{"codes": leaf}]}, {})
    with pytest.raises(ValueError, match=rf"model: params\['layers'\]\[0\]\['codes'\] is {said}, which has no"):
        as_model(given)


def test_parameters_may_be_floats_of_python_complex_or_none(model):
    given = Model(doubling, {"scale": 0.5, "phase": np.ones(2, np.complex64), "bias": None}, {})
    assert as_model(given) is given


def test_a_model_made_of_a_function_has_no_module_to_call(model):
    with pytest.raises(TypeError, match=r"made of a function.*Call model.forward\(input, key\)"):
        model.call(lambda module: module(INPUT))
