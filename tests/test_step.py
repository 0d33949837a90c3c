"""Steps: they equal plain loops written by hand, bit for bit, whichever way they are dispatched; and are pure."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop import Event
from tests import small


class Network(nnx.Module):
    """Dropout and batch norm, the two layers that differ between training and inference."""

    def __init__(self, rngs: nnx.Rngs, normalized: bool = True):
        self.first = nnx.Linear(4, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs) if normalized else _unchanged
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.second(self.dropout(nnx.relu(self.norm(self.first(input)))))


def _unchanged(input: jax.Array) -> jax.Array:
    return input


def trained_by_hand(module: nnx.Module, optimizer: optax.GradientTransformation, batches: Any) -> tuple[Any, Any]:
    """Parameters and other state of a plain jitted loop over an nnx module."""
    module.train()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, rest, opt_state, input, target):
        def loss_fn(params):
            merged = nnx.merge(graph, params, rest, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(merged(input), target)
            return losses.mean(), nnx.to_pure_dict(nnx.state(merged, nnx.Not(nnx.Param)))

        gradient, rest_after = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), rest_after, opt_state

    for input, target in batches:
        params, rest, opt_state = step(params, rest, opt_state, input, target)
    return params, rest


def test_a_hundred_steps_of_dropout_and_batch_norm_equal_a_loop_by_hand_bit_for_bit() -> None:
    optimizer = optax.adam(1e-2)
    epochs = jl.TrainingEpochs(small.samples(100), batch_size=20)
    training_loop = small.training_loop(training=epochs, validation=None, optimizer=optimizer)
    loop, _ = training_loop.fit(Network(nnx.Rngs(0)), 20)
    batches = [batch for epoch in range(20) for batch in epochs[epoch]]
    assert len(batches) == int(loop.step) == 100
    params, rest = trained_by_hand(Network(nnx.Rngs(0)), optimizer, batches)
    small.assert_trees_equal(loop.model.params, params)
    small.assert_trees_equal(loop.model.state, rest)


def fit_network(
    optimizer: optax.GradientTransformation,
    *,
    steps_per_dispatch: int = 1,
    callbacks: tuple[Any, ...] = (),
    normalized: bool = True,
) -> tuple[jl.Loop, jl.History]:
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(4 * 23), 4),
        optimizer=optimizer,
        callbacks=[jl.callbacks.clip_by_global_norm(0.5), *callbacks],
        steps_per_dispatch=steps_per_dispatch,
    )
    return training_loop.fit(Network(nnx.Rngs(1), normalized), 2)


def assert_same_run(one: tuple[jl.Loop, jl.History], other: tuple[jl.Loop, jl.History]) -> None:
    small.assert_trees_equal((one[0].model, one[0].opt_state), (other[0].model, other[0].opt_state))
    assert one[1].batches.keys() == other[1].batches.keys()
    for name, column in one[1].batches.items():
        np.testing.assert_array_equal(column, other[1].batches[name], err_msg=name)


def test_fused_steps_with_a_remainder_equal_single_ones_bit_for_bit() -> None:
    optimizer = optax.adam(1e-2)
    fused, single = fit_network(optimizer, steps_per_dispatch=10), fit_network(optimizer)
    assert_same_run(fused, single)
    small.assert_trees_equal(fused[0], single[0])


@pytest.mark.parametrize(
    "events",
    [
        (Event.UPDATE_START,),
        (Event.BATCH_START, Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END),
    ],
)
def test_stages_apart_equal_single_steps_bit_for_bit(events: tuple[Event, ...]) -> None:
    """For a multi-layer perceptron under SGD. Where XLA fuses across a cut (batch norm's gradient, clipping into
    Adam) it may round once less, and the last bit differs."""

    @jl.on_host(*events, reads="step")
    def look(loop, event):
        pass

    optimizer = optax.sgd(0.1)
    apart = fit_network(optimizer, callbacks=(look,), normalized=False)
    assert_same_run(apart, fit_network(optimizer, normalized=False))


def test_the_loop_of_ones_own_equals_fit_bit_for_bit() -> None:
    training, validation = jl.TrainingEpochs(small.samples(12), 4), jl.in_batches(small.samples(8, seed=1), 4)
    training_loop = small.training_loop(training=training, validation=validation, callbacks=[small.traced()])
    loop = training_loop.start(small.model(), epochs=2)
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        for batch in training[epoch]:
            loop = training_loop.train_step(loop, batch)
        for batch in validation:
            loop = training_loop.eval_step(loop, batch)
        loop = training_loop.end_epoch(loop)
    fitted, _ = training_loop.fit(small.model(), 2)
    assert [*small.trace_of(loop), Event.FIT_END] == small.trace_of(fitted)
    small.assert_trees_equal(loop.model, fitted.model)
    small.assert_trees_equal(loop.stats, fitted.stats)
    small.assert_trees_equal(loop.opt_state, fitted.opt_state)


def stacked_batches(count: int) -> Any:
    return jl.TrainingEpochs(small.samples(4 * count), 4)[0].stacked(0, count)


@pytest.mark.parametrize("count", [1, 5])
def test_run_steps_equals_single_train_steps(count: int) -> None:
    training_loop = small.training_loop(callbacks=[jl.callbacks.clip_by_global_norm(0.1)])
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    final, rows = training_loop.run_steps(loop, stacked_batches(count))
    single = loop
    losses = []
    for index in range(count):
        single = training_loop.train_step(single, jax.tree.map(lambda leaf, i=index: leaf[i], stacked_batches(count)))
        losses.append(single.stats["loss"])
    small.assert_trees_equal(final, single)
    np.testing.assert_array_equal(rows["loss"], losses)
    assert rows["step"].tolist() == rows["batch_index"].tolist() == list(range(count))
    assert rows["counted"].tolist() == [True] * count


def test_one_step_is_the_step_itself_with_no_loop_in_the_program() -> None:
    training_loop = small.training_loop()
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))

    def primitives(count: int) -> str:
        return str(jax.make_jaxpr(training_loop.run_steps)(loop, stacked_batches(count)))

    assert "scan[" not in primitives(1)
    assert "scan[" in primitives(2)


def test_a_vmapped_run_equals_single_runs() -> None:
    training_loop = small.training_loop(callbacks=[jl.callbacks.clip_by_global_norm(0.1), small.traced()])
    loops = [
        training_loop.begin_epoch(training_loop.start(small.model(seed), epochs=1, seed=seed)) for seed in range(4)
    ]
    stacked_loops = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loops)
    batches = stacked_batches(6)
    together, rows = jax.vmap(training_loop.run_steps, in_axes=(0, None))(stacked_loops, batches)
    for index, loop in enumerate(loops):
        alone, alone_rows = training_loop.run_steps(loop, batches)
        this = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        for left, right in zip(jax.tree.leaves(this.model), jax.tree.leaves(alone.model), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(rows["loss"][index], alone_rows["loss"], rtol=1e-6)
        assert small.trace_of(this) == small.trace_of(alone)


def test_the_gradient_of_a_run_by_its_learning_rate_equals_finite_differences() -> None:
    training_loop = small.training_loop()
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    batches = stacked_batches(6)

    def final_loss(rate: Any) -> jax.Array:
        _, rows = training_loop.run_steps(loop.with_hyperparameter("learning_rate", rate), batches)
        return rows["loss"][-1]

    gradient = jax.grad(final_loss)(jnp.float32(0.1))
    difference = (final_loss(jnp.float32(0.12)) - final_loss(jnp.float32(0.08))) / 0.04
    assert abs(float(gradient)) > 1e-2
    np.testing.assert_allclose(gradient, difference, rtol=1e-2)
