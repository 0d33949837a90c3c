"""nnx modules called by `Model.call`, told modes of one's own, and what is refused of them."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop.model import Model
from tests import small

INPUT = small.samples(4)[0]


class Count(nnx.Variable):
    """A kind of variable of one's own."""


class Network(nnx.Module):
    """A method of two inputs, which goes by its argument and by its layers' attributes, and counts its passes."""

    def __init__(self, rngs: nnx.Rngs):
        self.part = Part(rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, input: jax.Array, train: bool = False) -> jax.Array:
        return self.classify(input, jnp.zeros_like(input), train=train)

    def classify(self, input: jax.Array, other: jax.Array, *, train: bool = False) -> jax.Array:
        self.count[...] += 1
        return self.part(self.dropout(input + other), train)


class Part(nnx.Module):
    """Batch norm that is told the mode by the call."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, input: jax.Array, train: bool = False) -> jax.Array:
        return self.layer(self.norm(input, use_running_average=not train))


class Plain(nnx.Module):
    """Goes by its layers' attributes."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.dropout(self.norm(input))


class Late(nnx.Module):
    """Makes a variable in its first call."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        output = self.layer(input)
        self.late = Count(output.mean())
        return output


class Sowing(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        output = self.layer(input)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # flax wants its callers to capture
            self.sow(nnx.Intermediate, "mean", output.mean())
            self.sow(Count, "sum", output.sum())
        return output


def classify(model: Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
    output, model = model.call(lambda module: module.classify(loop.input, jnp.zeros_like(loop.input)))
    return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_methods_in_a_differentiable_step_go_by_the_phase_and_change_the_state_as_the_call_does(
    steps_per_dispatch: int,
) -> None:
    changes: dict[str, Any] = {"steps_per_dispatch": steps_per_dispatch, "optimizer": optax.sgd(0.1)}
    own, _ = small.training_loop(loss_fn=None, differentiable_step=classify, **changes).fit(Network(nnx.Rngs(0)), 2)
    by_call, _ = small.training_loop(**changes).fit(Network(nnx.Rngs(0)), 2)
    assert int(own.model.state["count"]) == 6
    assert not np.allclose(own.model.state["part"]["norm"]["mean"], 0)
    small.assert_trees_equal((own.model.params, own.model.state), (by_call.model.params, by_call.model.state))
    np.testing.assert_allclose(own.stats["validation_loss"], by_call.stats["validation_loss"], rtol=1e-6)


def test_parts_are_told_the_mode_and_what_is_said_stands() -> None:
    model = Model.from_nnx(Network(nnx.Rngs(0)))
    training, inference = (Network(nnx.Rngs(0)).part(INPUT, mode) for mode in (True, False))
    told = model.replace(training=True).call(lambda module: module.part(INPUT))[0]
    said = model.replace(training=True).call(lambda module: module.part(INPUT, train=False))[0]
    np.testing.assert_allclose(told, training, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said, inference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.call(lambda module: module.part(INPUT))[0], inference, rtol=1e-5, atol=1e-6)


def test_a_module_without_arguments_that_say_the_mode_comes_as_itself() -> None:
    (kind, deterministic), _ = Model.from_nnx(Plain(nnx.Rngs(0))).call(
        lambda module: (type(module), module.dropout.deterministic)
    )
    assert kind is Plain
    assert deterministic


def test_the_call_is_told_what_modes_say_in_place_of_what_is_found() -> None:
    class Rated(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, input: jax.Array, rate: float, train: bool = False) -> jax.Array:
            return input * self.scale[...] * rate + train

    model = Model.from_nnx(Rated(nnx.Rngs(0)), modes={"rate": (0.5, 2.0)})
    np.testing.assert_array_equal(model.replace(training=True)(INPUT), 0.5 * INPUT)
    np.testing.assert_array_equal(model(INPUT), 2 * INPUT)
    assert model.apply == Model.from_nnx(Rated(nnx.Rngs(1)), modes={"rate": (0.5, 2.0)}).apply
    assert model.apply != Model.from_nnx(Rated(nnx.Rngs(0)), modes={"rate": (0.5, 1.0)}).apply


def test_a_module_goes_by_a_train_of_its_own() -> None:
    class Frozen(Plain):
        def train(self, **attributes: Any) -> None:
            super().train(**attributes)
            self.norm.eval()

    module = Frozen(nnx.Rngs(0))
    modes, _ = (
        Model.from_nnx(module)
        .replace(training=True)
        .call(lambda module: (module.norm.use_running_average, module.dropout.deterministic))
    )
    assert modes == (True, False)
    assert (module.norm.use_running_average, module.dropout.deterministic) == (False, False)


def test_a_train_that_needs_arguments_is_another_thing() -> None:
    class Other(Plain):
        def train(self, data: Any) -> None:
            raise AssertionError

    assert Model.from_nnx(Other(nnx.Rngs(0)))(INPUT).shape == (4, 4)


def test_a_variable_that_a_pass_makes_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a pass of Late makes the variable 'late', which it had not to begin with"):
        small.training_loop().fit(Late(nnx.Rngs(0)), 1)


def test_what_is_sown_changes_nothing() -> None:
    module = Sowing(nnx.Rngs(0))
    module(INPUT)
    first, again = (small.training_loop().fit(each, 1)[0] for each in (module, Sowing(nnx.Rngs(0))))
    small.assert_trees_equal(first.model.params, again.model.params)
    assert again.model.state == {}
    assert len(first.model.state["sum"]) == 1


def test_a_filter_that_chooses_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"chooses none of the variables that can be trained: layer.bias \(Param\), "):
        Model.from_nnx(Late(nnx.Rngs(0)), trained=nnx.LoRAParam)


def test_a_variable_of_several_arrays_is_refused_by_name() -> None:
    class Holding(nnx.Module):
        def __init__(self):
            self.both = nnx.Param({"one": jnp.ones(2), "two": jnp.ones(2)})

    with pytest.raises(ValueError, match=r"the variable both holds a mapping of 'one', 'two'. Make a variable of each"):
        Model.from_nnx(Holding())


def test_an_argument_that_may_say_the_mode_or_not_is_refused_before_anything_runs() -> None:
    class Unclear(nnx.Module):
        def __call__(self, input: jax.Array, train: float = 0.5) -> jax.Array:
            return input

    with pytest.raises(ValueError, match=r"Model.from_nnx: whether `train: float = 0.5` of .*__call__ says the mode"):
        Model.from_nnx(Unclear())


class Handed(nnx.Module):
    """Dropout that is given its random stream by the call, as in flax's own first tutorial."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer, self.dropout = nnx.Linear(4, 3, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, input: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.dropout(self.layer(input), rngs=rngs)


def test_a_module_that_is_called_with_streams_is_told_how_it_may_have_them():
    with pytest.raises(ValueError, match="no `rngs` argument was provided to Dropout") as caught:
        small.training_loop().fit(Handed(nnx.Rngs(0)), 1)
    assert sum(note.startswith("jaxloop: Handed is called without `rngs`") for note in caught.value.__notes__) == 1


def test_a_module_that_is_called_with_streams_can_have_them_in_a_step_of_ones_own():
    def step(model: Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
        rngs = nnx.Rngs(loop.step_key("dropout"))
        output, model = model.call(lambda module: module(loop.input, rngs))
        loss = jl.losses.softmax_cross_entropy(output, loop.target)
        return loss, loop.replace(output=output, model=model)

    training_loop = small.training_loop(loss_fn=None, differentiable_step=step)
    loop, history = training_loop.fit(Handed(nnx.Rngs(0)), 1)
    first, second = (training_loop.evaluate(loop, small.samples(8)) for _ in range(2))
    assert first == second  # without dropout
    assert np.isfinite(history.batches["loss"]).all()
