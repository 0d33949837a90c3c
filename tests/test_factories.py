"""What is a factory of models, and what a factory may not do."""

import functools

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxloop.births import born, is_factory
from jaxloop.loop import new_loop
from jaxloop.model import Model, as_model

INPUT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def scaling(params, state, input, *, training, key):
    return input * params["scale"], state


def bare():
    return Model(scaling, {"scale": jnp.ones(3)}, {})


class Network(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, input):
        return self.dropout(self.linear(input))


def network():
    return Network(nnx.Rngs(0))


class Layers(linen.Module):
    @linen.compact
    def __call__(self, input):
        return linen.Dense(2)(input)


def mlp():
    return equinox.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))


def beginning():
    return jax.random.key(7), INPUT


@pytest.mark.parametrize(
    "given",
    [
        bare,
        lambda: None,
        lambda width=3, *rest, depth=2, **named: None,
        functools.partial(scaling, 1, 2, 3, training=True, key=None),
        functools.partial(Layers),
        jax.jit(bare),
        equinox.filter_jit(bare),
        functools.cache(bare),
        [].copy,
        network().train,
    ],
)
def test_functions_without_arguments_are_factories(given):
    assert is_factory(given)


@pytest.mark.parametrize(
    "given",
    [
        bare(),
        network(),
        Layers(),
        mlp(),
        equinox.filter_jit(mlp()),
        jax.tree_util.Partial(scaling, jnp.ones(3)),
        Model.from_linen(Layers()),
        new_loop(bare(), (), jax.random.key(0)),
        {"scale": jnp.ones(3)},
        None,
        "lambda",
    ],
    ids=lambda given: type(given).__name__,
)
def test_models_and_what_cannot_be_called_are_no_factories(given):
    assert not is_factory(given)


@pytest.mark.parametrize("kind", [Network, Layers, equinox.nn.MLP, Model], ids=lambda kind: kind.__name__)
def test_a_class_is_refused_with_the_fix(kind):
    with pytest.raises(TypeError, match=rf"got the class {kind.__name__}. Write lambda: {kind.__name__}\(\.\.\.\)\."):
        is_factory(kind)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (scaling, r"scaling needs some: \(params, state, input, \*, training, key\)"),
        (lambda config: config, r"the function needs some: \(config\)"),
        (functools.partial(scaling, {}), r"scaling needs some: \(state, input, \*, training, key\)"),
        (network().__call__, r"__call__ needs some: \(input\)"),
    ],
    ids=["function", "lambda", "partial", "method"],
)
def test_a_function_that_needs_arguments_is_refused_with_the_fix(given, said):
    with pytest.raises(TypeError, match=said + r"\. Wrap it: lambda: make\(config\)"):
        is_factory(given)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda: None, "make returned None, and it is called to make the model. Write `return model`"),
        (lambda: new_loop(bare(), (), jax.random.key(0)), "make returned a jaxloop.Loop.*Return loop.model"),
        (lambda: 3, "expected a jaxloop.Model, a jaxloop.Loop, .* got int"),
        (lambda: bare, "expected a jaxloop.Model, a jaxloop.Loop, .* got function"),
    ],
    ids=["nothing", "loop", "number", "function"],
)
def test_a_factory_that_returns_no_model_is_refused_with_the_fix(returned, said):
    def make():
        return returned()

    with pytest.raises(TypeError, match=said):
        born(make)


def test_what_a_factory_returns_is_said_to_come_from_it():
    def make():
        return Model(scaling, {"scale": jnp.arange(3)}, {})

    with pytest.raises(ValueError, match=r"params\['scale'\] is int32\[3\], which has no gradient") as error:
        born(make)
    assert "jaxloop: make returned it." in error.value.__notes__


def test_a_linen_module_without_an_input_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"no variables yet. Write jaxloop.Model.from_linen"):
        born(lambda: Layers())


class Static(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.table = nnx.static(jnp.ones(3))

    def __call__(self, input):
        return self.linear(input) + self.table


class Table(equinox.Module):
    weight: jax.Array
    table: jax.Array = equinox.field(static=True)

    def __call__(self, input):
        return input * self.weight + self.table


class Shifted(linen.Module):
    table: jax.Array

    @linen.compact
    def __call__(self, input):
        return linen.Dense(3)(input) + self.table


def closing():
    table = jnp.ones(3)
    return Model(lambda params, state, input, *, training, key: (input + table, state), {"scale": jnp.ones(3)}, {})


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize(
    "make",
    [lambda: Static(nnx.Rngs(0)), lambda: Table(jnp.ones(3), jnp.ones(3)), lambda: Shifted(jnp.ones(3)), closing],
    ids=["nnx", "equinox", "linen", "closure"],
)
def test_an_array_that_the_forward_pass_holds_by_itself_is_refused_with_the_fix(make):
    with pytest.raises(TypeError, match=r"makes an array, float32\[3\], that the forward pass holds.*Make it by NumPy"):
        born(make, beginning)


def test_an_array_that_was_there_before_may_be_held_by_the_forward_pass():
    table = jnp.arange(3.0)
    model = born(lambda: Shifted(table), beginning)
    np.testing.assert_allclose(model(INPUT), as_model(Shifted(table), beginning)(INPUT), rtol=1e-5)


def test_a_factory_that_leaves_its_model_elsewhere_is_refused_with_the_fix():
    kept = []

    def make():
        kept.append(network())
        return kept[0]

    for leaking in (make, functools.cache(network)):
        with pytest.raises(TypeError, match=r"leaves an array of the model in a place that outlives.*Only return"):
            born(leaking)


@pytest.mark.parametrize("read", ["number", "streams"])
def test_an_error_within_the_factory_says_where_it_is_called(read):
    rngs = nnx.Rngs(0)

    def make():
        return Network(rngs) if read == "streams" else Network(nnx.Rngs(int(jnp.ones(()))))

    with pytest.raises(Exception, match=r"Abstract tracer value|different trace level") as error:
        born(make)
    notes = " ".join(error.value.__notes__)
    assert "make is called inside of jax.jit" in notes
    assert "such as nnx.Rngs, must be made in it" in notes
