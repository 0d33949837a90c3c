"""A task that compiles in no time, and callbacks that write down what happens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from jaxloop.engine.phase_steps import PhaseSteps

CODES = {event: code for code, event in enumerate(jl.Event)}
LIMIT = 400


def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    """A linear classifier that counts its forward passes in training."""
    output = input @ params["kernel"] + params["bias"]
    return output, {"passes": state["passes"] + 1} if training else state


def model(seed: int = 0, features: int = 4, classes: int = 3) -> jl.Model:
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(features, classes)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.zeros(classes, np.float32)}
    return jl.Model(apply, params, {"passes": np.int32(0)})


def samples(count: int, seed: int = 0, features: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, 1])
    images = random.normal(size=(count, features)).astype(np.float32)
    return images, random.integers(0, classes, count).astype(np.int32)


def training_loop(**changes: Any) -> jl.TrainingLoop:
    """Three training batches and two of validation, of 4 examples, one at once, unless `changes` say otherwise."""
    arguments: dict[str, Any] = {
        "training": jl.TrainingEpochs(samples(12), batch_size=4),
        "validation": jl.in_batches(samples(8, seed=1), 4),
        "optimizer": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
        "loss_fn": jl.losses.softmax_cross_entropy,
        "metrics": ["accuracy"],
        "progress": False,
        "steps_per_dispatch": 1,
    }
    return jl.TrainingLoop(**(arguments | changes))


def steps_of(training_loop: jl.TrainingLoop) -> tuple[PhaseSteps, Any]:
    """The steps of the first training phase, and the wire at its start."""
    setup = training_loop.setup
    _, loop, steps = next(setup.run(setup.fit(model(), 1)).walk())
    return steps, steps.layout.to_wire(loop)


def at(event: jl.Event, change: Any) -> Callable[[jl.Loop, jl.Event], Any]:
    """A compiled callback that changes the loop at `event`."""

    def callback(loop: jl.Loop, seen: jl.Event) -> Any:
        return change(loop) if seen is event else loop

    return callback


def traced() -> Callable[[jl.Loop, jl.Event], jl.Loop]:
    """A compiled callback that writes each event's code into an array in `callback_state`."""

    def trace(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        loop = loop.remember("trace", {"codes": jnp.full(LIMIT, -1), "count": 0})
        memory = loop.callback_state["trace"]
        codes = memory["codes"].at[memory["count"]].set(CODES[event])
        memory = {"codes": codes, "count": memory["count"] + 1}
        return loop.replace(callback_state=loop.callback_state | {"trace": memory})

    return trace


def trace_of(loop: jl.Loop) -> list[jl.Event]:
    """The events that `traced` wrote down."""
    memory = loop.callback_state["trace"]
    events = list(jl.Event)
    return [events[code] for code in np.asarray(memory["codes"])[: int(memory["count"])]]


def witness(seen: list[jl.Event], **options: Any) -> Any:
    """A host callback on all twelve events that appends each to `seen`."""

    @jl.on_host(*jl.Event, **options)
    def watch(loop: Any, event: jl.Event) -> None:
        seen.append(event)

    return watch


def assert_trees_equal(one: Any, other: Any) -> None:
    """Equal in structure, and bit for bit in every leaf."""
    one_leaves, one_tree = jax.tree.flatten(one)
    other_leaves, other_tree = jax.tree.flatten(other)
    assert one_tree == other_tree
    for left, right in zip(one_leaves, other_leaves, strict=True):
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def assert_close(one: Any, other: Any) -> None:
    """Equal in every leaf but for what rounding does to a few steps of training."""
    for leaf, other_leaf in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, other_leaf, rtol=2e-5, atol=2e-6)
