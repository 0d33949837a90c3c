"""Forward passes: from a batch to its output and its loss, in training and in evaluation."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event, Phase
from jaxloop.forward import cleaned, forward, hold, predict, with_loss
from tests import small

INPUT, TARGET = np.ones((2, 3), np.float32), np.array([0, 1], np.int32)


def test_a_differentiable_step_replaces_forward_pass_and_loss() -> None:
    def two_losses(model: jl.Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
        output, model = model.forward(loop.input)
        losses = jl.losses.softmax_cross_entropy(output, loop.target)
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(model.params))
        return losses + 0.01 * decay, loop.replace(output=output, model=model).record("decay", decay)

    def plain(output: jax.Array, target: jax.Array) -> jax.Array:
        return jl.losses.softmax_cross_entropy(output, target)

    decayed = optax.chain(optax.add_decayed_weights(0.02), optax.sgd(0.1))  # the gradient of 0.01 w**2 is 0.02 w
    own, history = small.training_loop(
        loss_fn=None, differentiable_step=two_losses, optimizer=optax.sgd(0.1), metrics=["accuracy"]
    ).fit(small.model(), 2)
    reference, _ = small.training_loop(loss_fn=plain, optimizer=decayed).fit(small.model(), 2)
    for left, right in zip(jax.tree.leaves(own.model.params), jax.tree.leaves(reference.model.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)
    assert int(own.model.state["passes"]) == 6
    assert np.isfinite(history.epochs["decay"]).all()
    np.testing.assert_allclose(own.stats["validation_accuracy"], reference.stats["validation_accuracy"])


def own_step(model: jl.Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
    output, model = model.forward(loop.input, loop.step_key("model"))
    return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)


def telling_mode(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    """An output that says the mode, and a state that counts passes in both."""
    return jnp.full((2, 2), float(training)), {"passes": state["passes"] + 1}


@pytest.fixture
def told(loop: jl.Loop) -> jl.Loop:
    """A loop with a batch at hand, whose model is `telling_mode`."""
    model = loop.model.replace(apply=telling_mode, state={"passes": np.int32(0)})
    return hold(loop.replace(model=model), (INPUT, TARGET, None))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("phase", "mode"), [(Phase.TRAINING, 1.0), (Phase.VALIDATION, 0.0)])
def test_the_mode_of_the_model_is_that_of_the_phase(spec: Any, told: jl.Loop, phase: Phase, mode: float, own: bool):
    made = replace(spec(), differentiable_step=own_step if own else None)
    after = forward(made, told.model, told.replace(phase=phase))
    assert np.unique(after.output) == mode
    assert int(after.model.state["passes"]) == 1


@pytest.mark.parametrize("own", [False, True])
def test_evaluation_leaves_the_model_as_it_was(spec: Any, told: jl.Loop, own: bool):
    told = told.replace(phase=Phase.VALIDATION)
    assert predict(replace(spec(), differentiable_step=own_step if own else None), told).model is told.model


def test_a_step_of_ones_own_has_its_loss_with_the_output_and_the_model_after_it(spec: Any, told: jl.Loop):
    told = told.replace(phase=Phase.VALIDATION)
    own = predict(replace(spec(), loss_fn=None, differentiable_step=own_step), told)
    assert with_loss(replace(spec(), loss_fn=None, differentiable_step=own_step), own) is own
    plain = predict(spec(), told)
    assert plain.loss is None
    np.testing.assert_allclose(with_loss(spec(), plain).loss, own.loss)


def test_evaluation_measures_the_output_that_callbacks_have_made() -> None:
    """INFERENCE_PREDICTION_END comes between the output and the loss."""

    def zeros(loop: jl.Loop, event: Event) -> jl.Loop:
        is_predicted = event is Event.INFERENCE_PREDICTION_END
        return loop.replace(output=jnp.zeros_like(loop.output)) if is_predicted else loop

    loop, _ = small.training_loop(callbacks=[zeros]).fit(small.model(), 1)
    np.testing.assert_allclose(loop.stats["validation_loss"], np.log(3), rtol=1e-6)


WEIGHT = np.array([1, 0], np.float32)
WILD = np.array([[1, 1, 1], [1, np.nan, np.inf]], np.float32)


@pytest.mark.parametrize("own", [False, True])
def test_the_target_is_cleaned_only_where_the_model_is_given_it(spec: Any, loop: jl.Loop, own: bool):
    made = replace(spec(), differentiable_step=own_step if own else None)
    loop = hold(loop.replace(phase=Phase.TRAINING), (WILD, WILD, WEIGHT))
    after = cleaned(made, loop)
    np.testing.assert_array_equal(after.input, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(after.target, [[1, 1, 1], [1, 0, 0]] if own else WILD)


@pytest.mark.parametrize("changes", [{"phase": Phase.VALIDATION}, {"phase": Phase.TRAINING, "weight": None}])
def test_nothing_is_cleaned_where_no_example_reaches_another(spec: Any, loop: jl.Loop, changes: Any):
    loop = hold(loop, (WILD, WILD, WEIGHT)).replace(**changes)
    assert cleaned(spec(), loop) is loop
