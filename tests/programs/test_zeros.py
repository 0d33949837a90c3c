"""Results that are 0 by construction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.programs.zeros import zeros

X = np.ones((4, 3), np.float32)
W = np.ones((3, 2), np.float32)


def found(function: Any, *arguments: Any) -> list[bool]:
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return zeros(program, [False] * len(program.invars))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda w: jnp.mean(X), True),
        (lambda w: jnp.argmax(X @ w, -1).mean(), True),
        (lambda w: (X @ w > 0).astype(jnp.float32).mean(), True),
        (lambda w: jax.jit(jnp.round)(X @ w).mean(), True),
        (lambda w: jax.lax.stop_gradient(X @ w).mean(), True),
        (lambda w: 0.0 * jnp.mean((X @ w) ** 2), True),
        (lambda w: 0.0 * jax.nn.log_softmax(X @ w)[jnp.arange(4), jnp.zeros(4, int)].sum(), True),
        (lambda w: jax.checkpoint(lambda w: jnp.sign(X @ w).mean())(w), True),
        (lambda w: jnp.where(jnp.argmax(X @ w) > 0, w.sum(), 0.0), False),
        (lambda w: jax.lax.cond(w.sum() > 0, jnp.sum, lambda w: 0.0, w), False),
        (lambda w: jnp.argmax(X @ w, -1).mean() + 1e-30 * w.sum(), False),
        (lambda w: (X @ w).mean(), False),
    ],
)
@pytest.mark.parametrize("parts", [None, 2])
@pytest.mark.parametrize("scalar", [False, True])
def test_the_gradient_of_a_loss_that_passes_none_back_is_zero(
    loss: Any, expected: bool, parts: int | None, scalar: bool
) -> None:
    def gradient(w: Any) -> Any:
        spread = (lambda w: w * W) if scalar else (lambda w: w)
        of_one = jax.grad(lambda w: loss(spread(w)).astype(jnp.float32))
        if parts is None:
            return of_one(w)

        def add(total: Any, part: Any) -> Any:
            return total + of_one(w) * part, part

        return jax.lax.scan(add, jnp.zeros_like(w), jnp.ones(parts))[0] / parts

    assert found(gradient, np.float32(1) if scalar else W) == [expected]


def test_the_gradient_of_complex_parameters_is_zero_too() -> None:
    def gradient(w: Any) -> Any:
        return jax.grad(lambda w: jnp.argmax(jnp.abs(X @ w), -1).mean())(w).conj()

    assert found(gradient, W.astype(np.complex64)) == [True]


def test_what_a_loop_makes_of_zeros_is_not_taken_for_zero() -> None:
    assert found(lambda x: jax.lax.scan(lambda one, part: (one + x, one), 0.0, None, length=2), np.float32(1)) == [
        False,
        False,
    ]
    assert found(lambda x: jax.lax.while_loop(lambda one: one < x, lambda one: one + 1, 0.0), np.float32(1)) == [False]
    assert found(lambda x: jax.lax.scan(lambda one, part: (one * x, part), 0.0, jnp.ones(2))[0], np.float32(1)) == [
        True
    ]
