"""A whole fit over trees of any leaves equals a loop by hand, or is refused by the name of the leaf."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxloop as jl

INPUT = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
TARGET = INPUT.sum(axis=1)
EPOCHS = 2
OPTIMIZER = optax.sgd(0.05, momentum=0.9)

#: Leaves that a step may carry, each as a user would make it.
CARRIED = {
    "float32 scalar": lambda: jnp.float32(1.5),
    "float32 array": lambda: jnp.arange(3, dtype=jnp.float32),
    "float64": lambda: np.float64(0.1) if jax.config.x64_enabled else np.float32(0.1),
    "bfloat16 scalar": lambda: jnp.bfloat16(1.5),
    "bfloat16 array": lambda: jnp.ones((2, 2), jnp.bfloat16),
    "float16 scalar": lambda: jnp.float16(0.5),
    "int32 scalar": lambda: np.int32(2**24 + 1),
    "int32 array": lambda: np.arange(3, dtype=np.int32),
    "int8 scalar": lambda: jnp.int8(-3),
    "uint32 scalar": lambda: jnp.uint32(2**32 - 5),
    "bool scalar": lambda: jnp.bool_(True),
    "NumPy bool": lambda: np.bool_(True),
    "bool array": lambda: np.array([True, False]),
    "complex scalar": lambda: jnp.complex64(1 + 2j),
    "complex array": lambda: jnp.ones(2, jnp.complex64),
    "typed key": lambda: jax.random.key(3),
    "typed keys": lambda: jax.random.split(jax.random.key(4), 2),
    "raw key": lambda: jax.random.PRNGKey(5),
    "weak array": lambda: jnp.full(2, 0.25),
    "weak scalar": lambda: jnp.asarray(0.25),
    "Python float": lambda: 0.75,
    "Python int": lambda: 7,
    "Python bool": lambda: False,
}
#: Leaves that can be trained.
TRAINED = tuple(name for name in CARRIED if name.split()[0] in ("float32", "float64", "bfloat16", "float16", "weak"))

names = st.lists(st.sampled_from(sorted(CARRIED)), min_size=0, max_size=4, unique=True)
trained = st.lists(st.sampled_from(sorted(TRAINED)), min_size=0, max_size=3, unique=True)


def moved(leaf: Any) -> Any:
    """What a step makes of a leaf that it carries: another value of the same kind."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf if leaf.ndim else jax.random.fold_in(leaf, 1)
    if leaf.dtype == bool:
        return ~leaf
    return leaf + 1 if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf * 0.5 + 1


def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    output = input @ params["kernel"]
    for leaf in params["more"].values():
        output = output + jnp.sum(leaf).astype(jnp.float32)
    return output, jax.tree.map(moved, state) if training else state


def model_of(params: list[str], state: list[str]) -> jl.Model:
    more = {name: CARRIED[name]() for name in params}
    return jl.Model(apply, {"kernel": jnp.zeros(4), "more": more}, {name: CARRIED[name]() for name in state})


def remembering(memory: list[str]) -> Any:
    def callback(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is jl.Event.FIT_START:
            return loop.remember("memory", {name: CARRIED[name]() for name in memory})
        if event is jl.Event.BATCH_END:
            new = jax.tree.map(moved, loop.callback_state["memory"])
            return loop.replace(callback_state=loop.callback_state | {"memory": new})
        return loop

    return callback


def by_hand(params: list[str], state: list[str], memory: list[str]) -> tuple[Any, Any, Any]:
    """Parameters, state and memory after the same steps, without the library."""
    model = model_of(params, state)
    kept = {name: CARRIED[name]() for name in memory}

    def loss_of(params: Any, state: Any, input: Any, target: Any) -> tuple[jax.Array, Any]:
        output, state = apply(params, state, input, training=True, key=None)
        return jnp.mean((output - target) ** 2), state

    @jax.jit
    def step(params: Any, state: Any, opt_state: Any, input: Any, target: Any) -> tuple[Any, Any, Any]:
        gradient, state = jax.grad(loss_of, has_aux=True)(params, state, input, target)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    params, state, opt_state = model.params, model.state, OPTIMIZER.init(model.params)
    for _ in range(EPOCHS):
        for start in range(0, 12, 4):
            batch = slice(start, start + 4)
            params, state, opt_state = step(params, state, opt_state, INPUT[batch], TARGET[batch])
            kept = jax.tree.map(moved, kept)
    return params, state, kept


def assert_close(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for name, leaf in expected.items():
        ours = found[name]
        if isinstance(leaf, dict):
            assert_close(ours, leaf)
            continue
        assert ours.dtype == leaf.dtype, name
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            ours, leaf = jax.random.key_data(ours), jax.random.key_data(leaf)
        tolerance = 1e-2 if leaf.dtype.itemsize < 4 and jnp.issubdtype(leaf.dtype, jnp.inexact) else 1e-5
        exact = not jnp.issubdtype(leaf.dtype, jnp.inexact)
        ours, leaf = (np.asarray(array if exact else array.astype(complex)) for array in (ours, leaf))
        np.testing.assert_allclose(ours, leaf, rtol=0 if exact else tolerance, err_msg=name)


@contextlib.contextmanager
def x64(enabled: bool) -> Iterator[None]:
    before = jax.config.x64_enabled
    jax.config.update("jax_enable_x64", enabled)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def check(params: list[str], state: list[str], memory: list[str], steps: int, *, apart: bool) -> None:
    callbacks: list[Any] = [remembering(memory)]
    if apart:
        callbacks.append(jl.on_host(jl.Event.UPDATE_START, reads="step")(lambda loop, event: None))
    training_loop = jl.TrainingLoop(
        [[(INPUT[start : start + 4], TARGET[start : start + 4]) for start in range(0, 12, 4)]] * EPOCHS,
        optimizer=OPTIMIZER,
        loss_fn=jl.losses.mean_squared_error,
        callbacks=callbacks,
        progress=False,
        steps_per_dispatch=steps,
    )
    model = model_of(params, state)
    loop, _ = training_loop.fit(model, epochs=EPOCHS)
    expected_params, expected_state, expected_memory = by_hand(params, state, memory)
    assert_close(loop.model.params, expected_params)
    assert_close(loop.model.state, expected_state)
    assert_close(loop.callback_state["memory"], expected_memory)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(params=trained, state=names, memory=names, steps=st.sampled_from([1, 3]), apart=st.booleans())
def test_a_fit_over_any_leaves_equals_a_loop_by_hand(
    wide: bool, params: list[str], state: list[str], memory: list[str], steps: int, apart: bool
) -> None:
    with x64(wide):
        check(params, state, memory, steps, apart=apart)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("steps", [1, 3])
def test_all_kinds_of_leaves_at_once_equal_a_loop_by_hand(wide: bool, steps: int) -> None:
    with x64(wide):
        check(list(TRAINED), list(CARRIED), list(CARRIED), steps, apart=False)
