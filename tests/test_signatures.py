"""What functions take."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxloop as jl
from jaxloop.signatures import check_callback, check_differentiable_step, check_loss, misfit


class Called:
    def __call__(self, loop: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda loop, event: loop, None),
        (lambda *given: given, None),
        (functools.partial(lambda factor, loop, event: loop, 2.0), None),
        (jax.jit(lambda loop, event: loop), None),
        (max, None),
        (lambda loop: loop, "(loop)"),
        (Called(), "(loop)"),
        (lambda loop, event, factor: loop, "(loop, event, factor)"),
    ],
)
def test_a_function_fits_if_python_could_call_it(function: Any, expected: str | None) -> None:
    assert misfit(function, "loop", "event") == expected


def test_a_factory_of_ours_that_was_not_called_is_told_how_to_be_called() -> None:
    with pytest.raises(TypeError, match=r"'ema' takes .*: it makes a callback\. Call it, as ema\(\.\.\.\)"):
        check_callback(jl.callbacks.ema, "ema")
    with pytest.raises(TypeError, match=r"it declares a host callback\. Write it as @on_host"):
        check_callback(jl.on_host(jl.Event.FIT_END), "on_host.declare")


def test_a_callback_that_is_bound_first_is_not_known_yet() -> None:
    check_callback(jl.callbacks.ProgressBar(), "ProgressBar")


def test_a_loss_and_a_step_of_ones_own_are_told_their_arguments() -> None:
    check_loss(jl.losses.softmax_cross_entropy)
    check_differentiable_step(lambda model, loop: (jnp.zeros(()), loop))
    with pytest.raises(TypeError, match=r"`loss_fn` must take \(output, target\), got \(output\)"):
        check_loss(lambda output: output)
    with pytest.raises(TypeError, match=r"must be a function of \(model, loop\), got \(batch\)"):
        check_differentiable_step(lambda batch: batch)
