"""Advice before the first step."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.engine.advice import advise_on, advise_on_prints
from jaxloop.losses import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from jaxloop.programs.step_trace import StepEnds
from tests import small

BYTES = np.arange(256, dtype=np.uint8).reshape(2, 128)


def given(ends: StepEnds, loss_fn: Any, input: Any) -> None:
    batch = (input, np.zeros(2), None)
    kind = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    advise_on(ends, loss_fn, lambda: batch, kind, "training")


@pytest.mark.parametrize(
    ("loss_fn", "activation"),
    [
        (softmax_cross_entropy, "softmax"),
        (softmax_cross_entropy, "sigmoid"),
        (sigmoid_cross_entropy, "sigmoid"),
    ],
)
def test_an_activation_that_the_loss_applies_again_is_told(loss_fn: Any, activation: Any) -> None:
    with pytest.warns(UserWarning, match=f"{loss_fn.__name__} takes logits .* Leave the {activation} out of the model"):
        given(StepEnds({"": activation}), loss_fn, BYTES)


def test_a_loss_of_probabilities_and_a_model_of_logits_are_as_they_should_be() -> None:
    given(StepEnds({"": "softmax"}), mean_squared_error, BYTES)
    given(StepEnds(), softmax_cross_entropy, BYTES)


@pytest.mark.parametrize(
    "input", [BYTES, BYTES.astype(np.float32), BYTES[:, 90:]], ids=["bytes", "floats", "few bytes"]
)
def test_bytes_that_meet_weights_as_they_come_are_told(input: Any) -> None:
    with pytest.warns(UserWarning, match=r"training: input holds .*Scale it, as `images.* / 255`"):
        given(StepEnds(weighed=frozenset({""})), softmax_cross_entropy, input)
    with pytest.warns(UserWarning, match=r"input\['image'\] holds"):
        given(StepEnds(weighed=frozenset({"['image']"})), softmax_cross_entropy, {"image": input})


@pytest.mark.parametrize(
    "input",
    [
        BYTES.astype(np.float32) / 255,
        BYTES.astype(np.float32) - 128,
        BYTES.astype(np.float32) + 0.5,
        BYTES.astype(np.float32)[:, 100:],  # as few as the columns of a table
        (BYTES > 100).astype(np.uint8),
        np.zeros((2, 0), np.uint8),
        BYTES.astype(np.int32),
    ],
)
def test_what_is_scaled_or_no_image_is_as_it_should_be(input: Any) -> None:
    given(StepEnds(weighed=frozenset({""})), softmax_cross_entropy, input)


def test_bytes_that_the_model_scales_itself_are_as_they_should_be() -> None:
    given(StepEnds(), softmax_cross_entropy, BYTES)


def test_a_loss_without_a_gradient_is_told() -> None:
    with pytest.warns(UserWarning, match=r"^loss_fn: the gradient of every parameter is 0"):
        given(StepEnds(flat=True), mean_squared_error, BYTES)


def test_print_in_compiled_code_is_told_with_what_to_write() -> None:
    with pytest.warns(UserWarning, match=r"callback 'mine' at BATCH_END: it is compiled.*jax\.debug\.print"):
        advise_on_prints(["callback 'mine' at BATCH_END"])


def wrong_guesses(output: Any, target: Any) -> Any:
    return (output.argmax(-1) != target).astype("float32")


def test_what_trains_without_the_gradient_is_as_it_should_be() -> None:
    def jumps(loop: jl.Loop) -> jl.Loop:
        params = jax.tree.map(lambda leaf: leaf + 0.1, loop.model.params)
        return loop.replace(model=loop.model.replace(params=params))

    def tries_out(gradient: Any, state: Any, params: Any, *, value_fn: Any) -> Any:
        further = jax.tree.map(lambda leaf: 0.1 * jax.numpy.sign(leaf), params)
        rise = value_fn(jax.tree.map(jax.numpy.add, params, further)) - value_fn(params)
        return jax.tree.map(lambda leaf: -rise * leaf, further), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), tries_out)
    small.training_loop(loss_fn=wrong_guesses, optimizer=optimizer).fit(small.model(), 1)
    small.training_loop(loss_fn=wrong_guesses, callbacks=[small.at(jl.Event.UPDATE_START, jumps)]).fit(small.model(), 1)
