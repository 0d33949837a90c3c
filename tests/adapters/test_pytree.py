"""Models of callable pytrees: `jax.tree_util.Partial`, and equinox modules, which jaxloop knows nothing of."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.model import Model, as_model
from tests import small
from tests.compiling import counted_compiles

INPUT = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Affine:
    """A layer whose non-arrays are leaves, as equinox has them."""

    weight: Any
    shift: Any
    activation: Any
    factor: Any

    def __call__(self, input):
        return self.activation(input @ self.weight + self.shift) * self.factor


def affine(seed=0, activation=jnp.tanh, factor=2.0):
    weight = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
    return Affine(jnp.asarray(weight), np.arange(3), activation, factor)


def dropping(mlp_seed=0):
    """An equinox network with dropout, for one example."""
    equinox = pytest.importorskip("equinox")
    first, second = jax.random.split(jax.random.key(mlp_seed))
    return equinox.nn.Sequential(
        [equinox.nn.Linear(4, 8, key=first), equinox.nn.Dropout(0.5), equinox.nn.Linear(8, 3, key=second)]
    )


def noisy(scale, input, *, key=None):
    return input * scale + (0 if key is None else jax.random.normal(key, input.shape))


def test_arrays_of_floats_are_params_by_path_and_other_arrays_are_state():
    model = Model.from_callable(affine())
    assert set(model.params) == {"weight"}
    assert set(model.state) == {"shift"}


def test_keys_and_bools_are_state_and_complex_numbers_are_params():
    leaves = {"key": jax.random.key(0), "mask": np.array([True]), "z": jnp.ones(2, jnp.complex64), "name": "a"}
    model = Model.from_callable(jax.tree_util.Partial(lambda leaves, input: input, leaves))
    assert [path.split("'")[1] for path in model.params] == ["z"]
    assert sorted(path.split("'")[1] for path in model.state) == ["key", "mask"]


def test_the_output_is_that_of_the_pytree_in_either_mode():
    model = Model.from_callable(affine())
    np.testing.assert_allclose(model(INPUT), affine()(INPUT), rtol=1e-5)
    np.testing.assert_allclose(model.replace(training=True)(INPUT), affine()(INPUT), rtol=1e-5)


def test_the_state_stays_as_it_is():
    model = Model.from_callable(affine())
    assert model.replace(training=True).forward(INPUT)[1].state is model.state


def test_the_key_goes_to_what_accepts_one():
    model = Model.from_callable(jax.tree_util.Partial(noisy, jnp.float32(2)))
    key = jax.random.key(3)
    np.testing.assert_allclose(model(INPUT, key), noisy(2, INPUT, key=key), rtol=1e-6)
    np.testing.assert_array_equal(model(INPUT), 2 * INPUT)


def test_with_examples_one_by_one_each_has_a_key_of_its_own():
    model = Model.from_callable(jax.tree_util.Partial(noisy, jnp.float32(0)), batched=False)
    key = jax.random.key(3)
    expected = [jax.random.normal(one, (4,)) for one in jax.random.split(key, 5)]
    np.testing.assert_allclose(model(INPUT, key), np.stack(expected), rtol=1e-6)
    np.testing.assert_array_equal(model(INPUT), 0 * INPUT)


def test_examples_one_by_one_may_be_pytrees():
    total = jax.tree_util.Partial(lambda scale, pair: scale * (pair["a"] + pair["b"]).sum(), jnp.float32(2))
    output = Model.from_callable(total, batched=False)({"a": INPUT, "b": INPUT})
    np.testing.assert_allclose(output, 4 * INPUT.sum(axis=1), rtol=1e-5)


def test_unwrap_gives_the_pytree_with_the_values_of_now():
    model = Model.from_callable(affine())
    after = model.replace(params={"weight": model.params["weight"] + 1}).unwrap()
    assert type(after) is Affine
    np.testing.assert_array_equal(after.weight, affine().weight + 1)
    np.testing.assert_array_equal(after.shift, np.arange(3))
    assert (after.activation, after.factor) == (jnp.tanh, 2.0)


def test_pytrees_that_differ_in_arrays_alone_have_equal_applies():
    first, second = (Model.from_callable(affine(seed)).apply for seed in (0, 1))
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    "other", [{"activation": jnp.sin}, {"factor": 3.0}, {"factor": 2}], ids=["function", "number", "type"]
)
def test_pytrees_with_other_static_leaves_have_other_applies(other):
    assert Model.from_callable(affine()).apply != Model.from_callable(affine(**other)).apply


def test_a_static_leaf_without_a_hash_makes_a_model_equal_to_itself_alone():
    def first(factor, weight, input):
        return input @ weight * factor[0]

    given = jax.tree_util.Partial(first, np.array(["x", 2], object), jnp.ones((4, 3)))
    one, other = Model.from_callable(given), Model.from_callable(given)
    assert one.apply == one.apply
    assert one.apply != other.apply


def test_a_second_fit_of_a_like_pytree_compiles_nothing():
    training_loop = small.training_loop()
    training_loop.fit(affine(0), 1)
    with counted_compiles() as counts:
        loop, _ = training_loop.fit(affine(1), 2)
    assert counts == {}
    assert not np.array_equal(loop.model.unwrap().weight, affine(1).weight)


def test_an_equinox_module_trains_with_a_key_for_dropout_that_differs_by_step_and_example():
    equinox = pytest.importorskip("equinox")
    module = dropping()
    model = Model.from_callable(module, batched=False, inference=equinox.nn.inference_mode(module)).replace(
        training=True
    )
    one = np.repeat(INPUT[:1], 16, axis=0)
    first, second = (np.asarray(model(one, jax.random.key(seed))) for seed in (0, 1))
    assert len(np.unique(first.round(5), axis=0)) > 8
    assert not np.allclose(first, second)


def test_the_pytree_given_for_inference_is_called_in_inference_with_the_values_of_now():
    equinox = pytest.importorskip("equinox")
    module = dropping()
    quiet = equinox.nn.inference_mode(module)
    training_loop = small.training_loop()
    loop, _ = training_loop.fit(Model.from_callable(module, batched=False, inference=quiet), 2)
    trained = equinox.nn.inference_mode(loop.model.unwrap())
    np.testing.assert_allclose(loop.model(INPUT), jax.vmap(trained)(INPUT), rtol=1e-5, atol=1e-6)
    assert loop.model.unwrap().layers[1].inference is False


def test_without_one_for_inference_the_mode_is_not_guessed():
    model = Model.from_callable(dropping(), batched=False)
    one, other = (model(INPUT, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)


def test_an_equinox_module_that_takes_batches_is_taken_as_it_is():
    equinox = pytest.importorskip("equinox")

    class Batched(equinox.Module):
        mlp: Any

        def __call__(self, input):
            return jax.vmap(self.mlp)(input)

    module = Batched(equinox.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)))
    assert sorted(as_model(module).params) == [
        f"mlp.layers[{layer}].{name}" for layer in range(2) for name in ("bias", "weight")
    ]
    loop, _ = small.training_loop().fit(module, 1)
    np.testing.assert_allclose(loop.model(INPUT), loop.model.unwrap()(INPUT), rtol=1e-5, atol=1e-6)


def test_an_error_from_a_module_that_was_given_a_batch_says_how_to_give_one_example():
    with pytest.raises((TypeError, ValueError)) as caught:
        small.training_loop().fit(dropping(), 1)
    (note,) = [note for note in caught.value.__notes__ if "takes one example" in note]
    assert note.endswith("give jaxloop.Model.from_callable(module, batched=False).")


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="`pytree` must be callable, got dict"):
        Model.from_callable({"weight": jnp.ones(3)})


def test_what_holds_no_array_of_floats_is_refused():
    with pytest.raises(ValueError, match=r"function has no leaf that is an array of floats.*batched=False\)"):
        Model.from_callable(jax.vmap(affine()))


@pytest.mark.parametrize(
    "inference", [3, jnp.tanh, jax.tree_util.Partial(noisy, jnp.float32(2))], ids=["number", "function", "pytree"]
)
def test_another_pytree_for_inference_is_refused(inference):
    with pytest.raises(ValueError, match="`inference` must be Affine itself in inference mode, with the same arrays"):
        Model.from_callable(affine(), inference=inference)


def test_the_apply_of_a_pytree_shows_its_class():
    assert repr(Model.from_callable(affine()).apply) == "<forward pass of Affine>"
    assert jl.Model is Model
