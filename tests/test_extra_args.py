"""What an optimizer asks for beside the gradient is of this very batch: its loss, its gradients, each example's."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax import contrib

import jaxloop as jl
from jaxloop.extra_args import extra_args, save
from jaxloop.optimizer import KNOWN
from tests import small


class Network(nnx.Module):
    """Dropout and batch norm, so that the same loss means the same key, mode and state."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.second(self.dropout(nnx.relu(self.norm(self.first(input)))))


def network() -> Network:
    return Network(nnx.Rngs(0))


def transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose update takes what the types of optax do not tell."""
    return optax.GradientTransformationExtraArgs(init, update)


def assert_close(one: Any, other: Any) -> None:
    for leaf, other_leaf in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, other_leaf, rtol=2e-5, atol=2e-6)


def watching() -> optax.GradientTransformationExtraArgs:
    """SGD whose state says how far what it is given is from what it should be."""

    def init(params: Any) -> Any:
        return {"value": jnp.zeros(()), "grad": jnp.zeros(()), "examples": jnp.zeros(())}

    def update(updates: Any, state: Any, params: Any, *, value: Any, grad: Any, value_fn: Any, grad_fn: Any) -> Any:
        state = {
            "value": jnp.maximum(state["value"], jnp.abs(value - value_fn(params))),
            "grad": jnp.maximum(state["grad"], distance(grad, grad_fn(params, 0))),
            "examples": jnp.maximum(state["examples"], distance(grad, updates)),
        }
        return jax.tree.map(lambda gradient: -0.1 * gradient, updates), state

    return transformation(init, update)


def distance(one: Any, other: Any) -> Any:
    return optax.tree.norm(optax.tree.sub(one, other))


@jl.on_host(jl.Event.UPDATE_START, reads="step")
def look_at_the_gradient(loop: Any, event: jl.Event) -> None:
    assert loop.gradient is not None


@pytest.mark.parametrize("ways", ["fused", "apart"])
def test_value_fn_and_grad_fn_are_the_loss_of_this_batch_under_its_key_and_state(ways: str) -> None:
    training_loop = small.training_loop(
        optimizer=watching(),
        validation=None,
        callbacks=[jl.callbacks.clip_by_global_norm(0.1), *([look_at_the_gradient] if ways == "apart" else [])],
        steps_per_dispatch=3 if ways == "fused" else 1,
    )
    loop, _ = training_loop.fit(network(), 2)
    assert float(loop.opt_state["value"]) < 1e-6
    assert float(loop.opt_state["grad"]) < 1e-5, "`grad` is the gradient as it was, not what a callback made of it"
    assert float(loop.opt_state["examples"]) > 0.1, "the updates are what the callback made of it"


def searching() -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(3))


def test_a_line_search_sees_the_same_at_every_altitude_and_with_a_step_apart() -> None:
    def made(**changes: Any) -> jl.TrainingLoop:
        return small.training_loop(optimizer=searching(), validation=None, metrics=[], **changes)

    whole, _ = made().fit(small.model(), 1)
    apart, _ = made(callbacks=[look_at_the_gradient]).fit(small.model(), 1)
    training_loop = made()
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    for batch in training_loop.training[0]:
        loop = training_loop.train_step(loop, batch)
    assert_close(apart.model.params, whole.model.params)
    assert_close(loop.model.params, whole.model.params)
    assert int(apart.model.state["passes"]) == int(loop.model.state["passes"]) == 3


def test_a_differentiable_step_is_taken_again_for_a_line_search() -> None:
    def step(model: jl.Model, loop: jl.Loop) -> tuple[Any, jl.Loop]:
        output, model = model.forward(loop.input, loop.step_key("model"))
        seen = loop.callback_state["seen"] + 1
        loop = loop.replace(output=output, model=model, callback_state={"seen": seen})
        return jl.losses.softmax_cross_entropy(output, loop.target), loop

    def remember(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        return loop.remember("seen", 0) if event is jl.Event.FIT_START else loop

    changes: dict[str, Any] = {"optimizer": optax.polyak_sgd(), "validation": None}
    plain, _ = small.training_loop(**changes).fit(small.model(), 1)
    optimizer = optax.chain(optax.polyak_sgd(), optax.scale_by_backtracking_linesearch(3))
    changes |= {"loss_fn": None, "differentiable_step": step, "callbacks": [remember]}
    searched, _ = small.training_loop(**changes | {"optimizer": optimizer}).fit(small.model(), 1)
    loop, _ = small.training_loop(**changes).fit(small.model(), 1)
    assert_close(loop.model.params, plain.model.params)
    assert int(searched.callback_state["seen"]) == int(loop.callback_state["seen"]) == 3


def test_a_batch_that_is_cancelled_leaves_a_line_search_as_it_was() -> None:
    def skip_second(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        return loop.cancel(jl.Scope.BATCH, loop.batch_index == 1) if event is jl.Event.UPDATE_START else loop

    training_loop = small.training_loop(
        optimizer=searching(), callbacks=[skip_second], validation=None, steps_per_dispatch=3
    )
    loop, _ = training_loop.fit(small.model(), 1)
    batches = list(small.training_loop().training[0])
    other = small.training_loop(training=[[batches[0], batches[2]]], optimizer=searching(), validation=None)
    assert_close(loop.model.params, other.fit(small.model(), 1)[0].model.params)
    assert int(loop.model.state["passes"]) == 2


def test_what_an_optimizer_does_not_ask_for_costs_nothing() -> None:
    loop = small.training_loop(validation=None)
    program = loop.compile(small.model()).training
    assert program.hlo.count(" dot(") == 2, "one product forward, one for the kernel's gradient"


def private(inner: Any) -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any, *, per_example_grad_fn: Any, **extra: Any) -> Any:
        return inner.update(per_example_grad_fn(params), state, params)

    return transformation(inner.init, update)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_each_example_are_clipped_as_by_hand(weighted: bool) -> None:
    aggregate = contrib.differentially_private_aggregate(l2_norm_clip=0.5, noise_multiplier=0.0, key=0)
    optimizer = optax.chain(aggregate, optax.sgd(0.1))
    input, target = small.samples(12)
    weight = (np.arange(12) % 4 < 3).astype(np.float32)
    epochs = [[(input[at : at + 4], target[at : at + 4], weight[at : at + 4]) for at in (0, 4, 8)]]
    epochs = epochs if weighted else [[batch[:2] for batch in epochs[0]]]
    loop, _ = small.training_loop(training=epochs, optimizer=private(optimizer), validation=None).fit(small.model(), 1)

    def loss(params: Any, input: Any, target: Any, weight: Any) -> Any:
        logits = input @ params["kernel"] + params["bias"]
        return weight * optax.softmax_cross_entropy_with_integer_labels(logits, target)

    params, state = small.model().params, optimizer.init(small.model().params)
    for batch in epochs[0]:
        batch = batch if weighted else (*batch, np.ones(4, np.float32))
        each = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0, 0))(params, *batch)
        updates, state = optimizer.update(each, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(loop.model.params, params)


def test_every_example_has_a_key_of_its_own() -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return params["scale"] * jax.random.normal(key, input.shape), state

    def update(updates: Any, state: Any, params: Any, *, per_example_grad_fn: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), per_example_grad_fn(params)["scale"]

    optimizer = transformation(lambda params: jnp.zeros(4), update)
    training_loop = small.training_loop(
        training=[[(np.ones(4, np.float32), np.zeros(4, np.float32))]],
        optimizer=optimizer,
        loss_fn=lambda output, target: output,
        validation=None,
        metrics=[],
    )
    loop, _ = training_loop.fit(jl.Model(apply, {"scale": np.float32(1)}, {}), 1)
    assert len(np.unique(loop.opt_state)) == 4


def test_for_an_optimizer_that_asks_for_nothing_nothing_is_saved(spec: Any, loop: jl.Loop) -> None:
    made = replace(spec(), optimizer=optax.identity())
    saved = save(made, loop, loop.replace(gradient=loop.model.params))
    assert saved is None
    assert extra_args(made, loop, saved) == {}


def test_what_has_changed_since_the_gradient_is_saved(spec: Any, loop: jl.Loop) -> None:
    made = spec()
    before = loop.replace(input=np.ones((4, 3), np.float32), target=np.zeros(4, np.int32))
    after = before.replace(loss=np.ones(4, np.float32), gradient=loop.model.params, stats={"loss": np.float32(0)})
    saved = save(made, before, after)
    assert saved is not None
    assert saved.fields == {"loss": None, "gradient": None, "stats": {}}
    assert saved.gradient is after.gradient
    known = extra_args(made, after.replace(gradient=None), saved)
    assert known.keys() == set(KNOWN)
    assert known["grad"] is after.gradient
    assert float(known["value"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("ways", ["fused", "apart"])
def test_in_microbatches_too_the_functions_are_those_of_this_batch(ways: str) -> None:
    training_loop = small.training_loop(
        optimizer=watching(),
        validation=None,
        callbacks=[look_at_the_gradient] if ways == "apart" else [],
        steps_per_dispatch=3 if ways == "fused" else 1,
        accumulate=2,
    )
    loop, _ = training_loop.fit(network(), 2)
    assert float(loop.opt_state["value"]) < 1e-6
    assert float(loop.opt_state["grad"]) < 1e-6
    assert float(loop.opt_state["examples"]) == 0


@pytest.mark.slow
def test_in_microbatches_a_line_search_takes_the_steps_that_it_takes_at_once() -> None:
    for optimizer in (searching(), optax.lbfgs()):
        whole, split = (
            small.training_loop(optimizer=optimizer, validation=None, metrics=[], accumulate=n).fit(small.model(), 1)[0]
            for n in (1, 2)
        )
        for leaf, other in zip(jax.tree.leaves(split.model.params), jax.tree.leaves(whole.model.params), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)


def test_in_microbatches_each_example_has_the_gradient_that_it_has_at_once() -> None:
    aggregate = contrib.differentially_private_aggregate(l2_norm_clip=0.5, noise_multiplier=0.0, key=0)
    optimizer = private(optax.chain(aggregate, optax.sgd(0.1)))
    whole, split = (
        small.training_loop(optimizer=optimizer, validation=None, accumulate=n).fit(small.model(), 1)[0] for n in (1, 2)
    )
    assert_close(split.model.params, whole.model.params)
