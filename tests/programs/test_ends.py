"""The two ends of a model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.programs.ends import activation_of, weighs_first

X = np.ones((4, 3), np.float32)
W = np.ones((3, 2), np.float32)


def last_of(function: Any, *, differentiated: bool) -> Any:
    """What `function(x, w)` does last, in a program that also differentiates it if that is asked for."""

    def program(x: Any, w: Any) -> Any:
        if not differentiated:
            return function(x, w)

        def loss(w: Any) -> tuple[Any, Any]:
            output = function(x, w)
            return output.sum(), output

        (_, output), gradient = jax.value_and_grad(loss, has_aux=True)(w)
        return output, gradient

    found = jax.make_jaxpr(program)(X, W).jaxpr
    return activation_of(found, found.outvars[0])


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w: jax.nn.softmax(x @ w), "softmax"),
        (lambda x, w: nn.softmax(x @ w, axis=0), "softmax"),
        (jax.jit(lambda x, w: jax.nn.softmax(x @ w)), "softmax"),
        (jax.checkpoint(lambda x, w: jax.nn.softmax(x @ w).astype(jnp.bfloat16)), "softmax"),
        (lambda x, w: jnp.exp(x @ w) / jnp.exp(x @ w).sum(axis=-1, keepdims=True), "softmax"),
        (lambda x, w: jax.nn.sigmoid(x @ w), "sigmoid"),
        (lambda x, w: jax.nn.sigmoid(x @ w)[..., 0], "sigmoid"),
        (lambda x, w: jax.nn.log_softmax(x @ w), None),
        (lambda x, w: x @ w / jnp.linalg.norm(w), None),
        (lambda x, w: jax.nn.softmax(x @ w) @ w.T, None),
        (lambda x, w: jax.nn.relu(x @ w), None),
        (lambda x, w: x, None),
        (lambda x, w: jnp.zeros(3), None),
    ],
)
def test_a_softmax_or_a_sigmoid_at_the_end_is_found(function: Any, expected: str | None, differentiated: bool) -> None:
    assert last_of(function, differentiated=differentiated) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w: x @ w, True),
        (lambda x, w: x.astype(jnp.bfloat16).reshape(2, 6)[:, :3] @ w, True),
        (jax.jit(lambda x, w: x @ w), True),
        (lambda x, w: jax.grad(lambda w: (x @ w).sum())(w), True),
        (lambda x, w: jnp.where(x[:, :1] > 0, x, 0) @ w, True),
        (lambda x, w: (x / 255) @ w, False),
        (lambda x, w: (x - x.mean()) @ w, False),
        (lambda x, w: w[x.astype(int)], False),
        (lambda x, w: x, False),
    ],
)
def test_an_input_that_meets_weights_as_it_comes_is_found(function: Any, expected: bool) -> None:
    found = jax.make_jaxpr(function)(X, W).jaxpr
    assert weighs_first(found, found.invars[0]) == expected
