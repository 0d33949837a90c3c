"""What a step changes in kind is refused by its name, before the first step; what it makes strong compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests import small
from tests.compiling import counted_compiles, steps_in

CHANGES: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
    "int32 to float32": (jnp.int32(7), lambda leaf: leaf + 0.5, "must stay int32[], got float32[]"),
    "bool to int32": (jnp.bool_(True), lambda leaf: leaf + 1, "must stay bool[], got int32[]"),
    "float32 to int32": (jnp.float32(7), lambda leaf: leaf.astype(jnp.int32), "must stay float32[], got int32[]"),
    "float32 to bfloat16": (
        jnp.float32(7),
        lambda leaf: leaf.astype(jnp.bfloat16),
        "must stay float32[], got bfloat16[]",
    ),
    "Python int to float32": (7, lambda leaf: leaf * 0.5, "must stay int32[], got float32[]"),
    "longer": (jnp.zeros(2), lambda leaf: jnp.concatenate([leaf, leaf]), "must stay float32[2], got float32[4]"),
    "a scalar to an array": (jnp.zeros(()), lambda leaf: leaf[None], "must stay float32[], got float32[1]"),
}
change = pytest.mark.parametrize("change", list(CHANGES))
ways = pytest.mark.parametrize("way", ["1", "3", "apart", "owned"])


def optimizer_with(leaf: Any, changed: Callable[[Any], Any], neighbour: Any = 3.0) -> optax.GradientTransformation:
    """SGD whose state holds `leaf`, between others on the wire."""

    def init(params: Any) -> Any:
        return {"a": jnp.float32(neighbour), "n": leaf, "z": jnp.int32(5)}

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda leaf: -0.1 * leaf, gradient), state | {"n": changed(state["n"])}

    return optax.GradientTransformation(init, update)


def model_with(leaf: Any, changed: Callable[[Any], Any]) -> jl.Model:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return input @ params["kernel"], {"n": changed(state["n"])} if training else state

    return jl.Model(apply, {"kernel": jnp.zeros((4, 3))}, {"n": leaf})


class MetricWith:
    """A metric whose accumulator holds a leaf."""

    name = "changing"

    def __init__(self, leaf: Any, changed: Callable[[Any], Any]):
        self._leaf, self._changed = leaf, changed

    def init(self) -> Any:
        return {"n": self._leaf}

    def update(self, state: Any, **seen: Any) -> Any:
        return {"n": self._changed(state["n"])}

    def compute(self, state: Any) -> jax.Array:
        return jnp.float32(0)


def run(way: str, model: jl.Model | None = None, **arguments: Any) -> jl.Loop:
    """Two epochs, by one of four ways."""
    if way == "apart":
        look = jl.on_host(jl.Event.UPDATE_START, reads="step")(lambda loop, event: None)
        arguments["callbacks"] = [*arguments.get("callbacks", ()), look]
    training_loop = small.training_loop(steps_per_dispatch=3 if way == "3" else 1, validation=None, **arguments)
    if way != "owned":
        return training_loop.fit(model or small.model(), epochs=2)[0]
    loop = training_loop.start(model or small.model(), epochs=2)
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        for batch in training_loop.training[epoch]:
            loop = training_loop.train_step(loop, batch)
        loop = training_loop.end_epoch(loop)
    return loop


@change
@ways
def test_a_leaf_of_the_optimizer_that_changes_in_kind_is_refused(change: str, way: str) -> None:
    leaf, changed, words = CHANGES[change]
    with counted_compiles() as counts, pytest.raises(TypeError) as caught:
        run(way, optimizer=optimizer_with(leaf, changed))
    assert f"loop.opt_state['n'] {words}" in str(caught.value)
    assert "the optimizer" in str(caught.value)
    assert steps_in(counts) == {}


@change
@ways
def test_a_leaf_of_the_model_that_changes_in_kind_is_refused(change: str, way: str) -> None:
    leaf, changed, words = CHANGES[change]
    with counted_compiles() as counts, pytest.raises(TypeError) as caught:
        run(way, model_with(leaf, changed))
    assert f"loop.model.state['n'] {words}" in str(caught.value)
    assert steps_in(counts) == {}


@change
@ways
def test_a_leaf_of_a_metric_that_changes_in_kind_is_refused(change: str, way: str) -> None:
    leaf, changed, words = CHANGES[change]
    with counted_compiles() as counts, pytest.raises(TypeError) as caught:
        run(way, metrics=[MetricWith(leaf, changed)])
    assert f"loop.metrics['changing']['n'] {words}" in str(caught.value)
    assert steps_in(counts) == {}


def test_a_leaf_that_comes_with_the_first_step_is_refused_by_its_name() -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return input @ params["kernel"], {**state, "late": jnp.zeros(2)}

    model = jl.Model(apply, {"kernel": jnp.zeros((4, 3))}, {"n": jnp.int32(0)})
    with pytest.raises(TypeError, match=r"loop\.model must keep its structure .*\.state\['late'\] has come"):
        run("1", model)


@ways
@pytest.mark.parametrize("leaf", [True, np.bool_(True), jnp.bool_(True)], ids=["Python", "NumPy", "JAX"])
def test_a_bool_in_the_state_of_an_optimizer_or_a_model_is_carried(leaf: Any, way: str) -> None:
    loop = run(way, model_with(leaf, lambda leaf: ~leaf), optimizer=optimizer_with(leaf, lambda leaf: jnp.array(False)))
    assert (bool(loop.opt_state["n"]), bool(loop.model.state["n"])) == (False, True)  # six steps
    assert (float(loop.opt_state["a"]), int(loop.opt_state["z"])) == (3.0, 5)


@pytest.mark.slow
@ways
def test_the_optimizers_of_optax_that_keep_bools_train(way: str) -> None:
    masked = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, mask={"kernel": True, "bias": False})
    for optimizer in (masked, optax.optimistic_gradient_descent(0.1)):
        model, images = small.model(), small.samples(12)
        loop = run(way, optimizer=optimizer)
        params, opt_state = model.params, optimizer.init(model.params)

        def loss(params: Any, batch: Any) -> jax.Array:
            output = batch[0] @ params["kernel"] + params["bias"]
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output, batch[1]))

        for epoch in range(2):
            for batch in jl.TrainingEpochs(images, batch_size=4)[epoch]:
                updates, opt_state = optimizer.update(jax.grad(loss)(params, batch), opt_state, params)
                params = optax.apply_updates(params, updates)
        jax.tree.map(lambda ours, hand: np.testing.assert_allclose(ours, hand, atol=1e-5), loop.model.params, params)


@pytest.mark.parametrize("way", ["1", "3", "apart"])
def test_floats_that_a_step_widens_are_wide_from_the_beginning(way: str) -> None:
    """As in a loop by hand, which goes on with the wider ones from its second step."""
    optimizer = optimizer_with(jnp.bfloat16(1), lambda leaf: leaf * jnp.float32(0.1))
    loop = run(way, optimizer=optimizer)
    assert loop.opt_state["n"].dtype == jnp.float32
    np.testing.assert_allclose(loop.opt_state["n"], 0.1**6, rtol=1e-6)


def test_leaves_of_weak_types_compile_once() -> None:
    def init(params: Any) -> Any:
        return {"momentum": jax.tree.map(lambda leaf: jnp.full(jnp.shape(leaf), 0.0), params), "count": 0, "rate": 1.0}

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        momentum = jax.tree.map(lambda old, new: 0.9 * old + new, state["momentum"], gradient)
        state = {"momentum": momentum, "count": state["count"] + 1, "rate": state["rate"] * 0.5}
        return jax.tree.map(lambda leaf: -0.1 * leaf, gradient), state

    def remember(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is jl.Event.FIT_START:
            return loop.replace(callback_state={"late": {"n": 5, "f": 1.0}})  # not by `remember`
        return loop

    class Count:
        name = "count"

        def init(self) -> Any:
            return {"n": 0, "s": 0.0}

        def update(self, state: Any, *, loss: Any, **seen: Any) -> Any:
            return {"n": state["n"] + 1, "s": state["s"] + jnp.sum(loss)}

        def compute(self, state: Any) -> Any:
            return state["s"] / state["n"]

    model = model_with(7.0, lambda leaf: leaf + 0.5).replace(params={"kernel": jnp.full((4, 3), 0.5)})
    for way, expected in (("1", {"jit(training_step)": 1}), ("3", {"jit(training_step_x3)": 1})):
        with counted_compiles() as counts:
            loop = run(
                way,
                model,
                optimizer=optax.GradientTransformation(init, update),
                metrics=[Count()],
                callbacks=[remember],
            )
        assert steps_in(counts) == expected
        assert (float(loop.model.state["n"]), int(loop.opt_state["count"])) == (10.0, 6)
    with counted_compiles() as counts:
        run("apart", model, optimizer=optax.GradientTransformation(init, update), metrics=[Count()])
    assert set(steps_in(counts).values()) == {1}
    with counted_compiles() as counts:
        run("owned", model, optimizer=optax.GradientTransformation(init, update), metrics=[Count()])
    assert steps_in(counts) == {"jit(train_step)": 1}


def test_a_loop_with_python_numbers_in_it_goes_on() -> None:
    training_loop = small.training_loop(validation=None)
    loop, _ = training_loop.fit(small.model(), epochs=1)
    odd = loop.replace(model=loop.model.replace(state={"passes": 3}))
    assert int(training_loop.fit(odd, epochs=1)[0].model.state["passes"]) == 6
