"""Evaluation and prediction by a training loop, against what numpy computes."""

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small
from tests.compiling import counted_compiles, steps_in


def test_padded_evaluation_equals_the_unpadded_with_one_compile() -> None:
    examples = small.samples(53)
    model = small.model()
    training_loop = small.training_loop()
    with counted_compiles() as counts:
        padded = training_loop.evaluate(model, jl.in_batches(examples, 8))
    assert steps_in(counts) == {"jit(validation_step)": 1}
    logits = np.asarray(model(examples[0]), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(53), examples[1]]
    np.testing.assert_allclose(padded["loss"], losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(padded["accuracy"], (logits.argmax(-1) == examples[1]).mean(), rtol=1e-6)
    assert padded == training_loop.evaluate(model, jl.in_batches(examples, 8)[:]) != {}


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, 4])
def test_validation_in_a_fit_equals_evaluation(steps_per_dispatch: int) -> None:
    batches = jl.in_batches(small.samples(53, seed=1), 8)
    training_loop = small.training_loop(validation=batches, steps_per_dispatch=steps_per_dispatch)
    loop, history = training_loop.fit(small.model(), 2)
    metrics = training_loop.evaluate(loop, batches)
    assert metrics == {name: history.epochs[f"validation_{name}"][-1] for name in ("loss", "accuracy")}


def test_a_scalar_loss_evaluates_its_last_batch_unpadded() -> None:
    def mean_loss(output: jax.Array, target: jax.Array) -> jax.Array:
        return jl.losses.softmax_cross_entropy(output, target).mean()

    examples, model = small.samples(10), small.model()
    scalar = small.training_loop(loss_fn=mean_loss).evaluate(model, jl.in_batches(examples, 4))
    whole = small.training_loop().evaluate(model, jl.in_batches(examples, 10))
    np.testing.assert_allclose(scalar["loss"], whole["loss"], rtol=1e-6)
    np.testing.assert_allclose(scalar["accuracy"], whole["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("alone", [True, False])
def test_predictions_are_those_of_every_example_in_order_by_one_program(alone: bool) -> None:
    examples, model = small.samples(53), small.model()
    training_loop = small.training_loop()
    loop, _ = training_loop.fit(model, 1)
    batches = jl.in_batches(examples[0] if alone else examples, 8)
    with counted_compiles() as counts:
        predicted = training_loop.predict(loop, batches)
    assert counts["jit(predict)"] == 1
    np.testing.assert_allclose(predicted, loop.model(examples[0]), rtol=1e-6)
    np.testing.assert_allclose(training_loop.predict(model, batches), model(examples[0]), rtol=1e-6)


def test_predictions_see_what_compiled_callbacks_do_to_input_and_output() -> None:
    def double(loop: jl.Loop, event: Event) -> jl.Loop:
        loop = loop.remember("factor", 2.0)
        if event is Event.BATCH_START:
            return loop.replace(input=loop.input * loop.callback_state["factor"]).record("seen", 1)
        if event is Event.INFERENCE_PREDICTION_END:
            return loop.replace(output=loop.output + 1)
        return loop

    input, model = small.samples(10)[0], small.model()
    predicted = small.training_loop(callbacks=[double]).predict(model, jl.in_batches(input, 4))
    np.testing.assert_allclose(predicted, np.asarray(model(2 * input)) + 1, rtol=1e-6, atol=1e-6)
