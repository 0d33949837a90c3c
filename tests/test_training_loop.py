"""`TrainingLoop`: fits, second fits, ownership, programs, errors."""

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
from tests.compiling import counted_compiles, steps_in
from tests.devices import run_on_devices


class Module(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.dropout(self.linear(input))


def test_each_program_compiles_once() -> None:
    with counted_compiles() as counts:
        small.training_loop(callbacks=[small.traced()]).fit(Module(nnx.Rngs(0)), 3)
    assert steps_in(counts) == {"jit(training_step)": 1, "jit(validation_step)": 1}


def test_fused_steps_compile_one_program_and_one_for_the_remainder() -> None:
    data = jl.TrainingEpochs(small.samples(4 * 7), 4)
    with counted_compiles() as counts:
        small.training_loop(training=data, validation=None, steps_per_dispatch=3).fit(small.model(), 2)
    assert steps_in(counts) == {"jit(training_step_x3)": 1, "jit(training_step)": 1}


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
def test_a_second_fit_compiles_nothing_with_other_epochs_or_an_equal_module(steps_per_dispatch: int) -> None:
    training_loop = small.training_loop(
        callbacks=[jl.callbacks.clip_by_global_norm(1.0)], steps_per_dispatch=steps_per_dispatch
    )
    loop, _ = training_loop.fit(Module(nnx.Rngs(0)), 1)
    with counted_compiles() as counts:
        training_loop.fit(loop, 3)
        training_loop.fit(Module(nnx.Rngs(7)), 2)
        training_loop.evaluate(loop, training_loop.validation)
    assert counts == {}


def test_programs_of_a_callback_bound_to_the_plan_compile_anew_when_the_plan_changes() -> None:
    class HalfWay:
        """Records whether half of the steps are over."""

        def bind(self, plan: jl.Plan):
            def callback(loop: jl.Loop, event: Event) -> jl.Loop:
                if event is not Event.BATCH_START:
                    return loop
                return loop.record("late", (loop.epoch_index * 3 + loop.batch_index) * 2 >= plan.total_steps)

            return callback

    training_loop = small.training_loop(callbacks=[HalfWay()], validation=None)
    _, history = training_loop.fit(small.model(), 2)
    assert history.batches["late"].tolist() == [0, 0, 0, 1, 1, 1]
    with counted_compiles() as counts:
        _, history = training_loop.fit(small.model(), 4)
    assert steps_in(counts) == {"jit(training_step)": 1}
    assert history.batches["late"].tolist() == [0] * 6 + [1] * 6
    with counted_compiles() as counts:
        training_loop.fit(small.model(), 2)
    assert counts == {}


def test_the_model_and_the_loop_given_stay_as_they_were() -> None:
    module = Module(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    training_loop = small.training_loop(optimizer=optax.adam(0.1))
    loop, _ = training_loop.fit(module, 2)
    small.assert_trees_equal(nnx.to_pure_dict(nnx.state(module, nnx.Param)), before)
    copy = jax.tree.map(jnp.copy, loop)
    other, _ = training_loop.fit(loop, 1)
    training_loop.evaluate(loop, training_loop.validation)
    small.assert_trees_equal(loop, copy)
    assert int(other.step) == int(loop.step) + 3
    again, _ = training_loop.fit(loop, 1)
    small.assert_trees_equal(again, other)


def test_unwrapping_gives_the_module_with_the_trained_values() -> None:
    module = Module(nnx.Rngs(0))
    loop, _ = small.training_loop().fit(module, 2)
    trained = loop.model.unwrap()
    assert type(trained) is Module
    np.testing.assert_array_equal(trained.linear.kernel[...], loop.model.params["linear"]["kernel"])
    assert not np.array_equal(trained.linear.kernel[...], module.linear.kernel[...])
    input = small.samples(4)[0]
    trained.eval()
    np.testing.assert_allclose(loop.model(input), trained(input), rtol=1e-6)


def test_a_fit_on_a_loop_goes_on_in_life_and_begins_anew_in_position() -> None:
    positions: list[tuple[int, ...]] = []

    @jl.on_host(Event.TRAINING_START)
    def look(loop, event):
        positions.append(tuple(int(getattr(loop, name)) for name in ("epoch", "epoch_index", "epoch_count", "step")))

    training_loop = small.training_loop(callbacks=[look])
    loop, _ = training_loop.fit(small.model(), 2)
    training_loop.fit(loop, 3)
    assert positions == [(1, 0, 2, 0), (2, 1, 2, 3), (3, 0, 3, 6), (4, 1, 3, 9), (5, 2, 3, 12)]


def test_two_short_fits_train_as_one_long_fit_does() -> None:
    training_loop = small.training_loop(optimizer=optax.adam(0.01))
    halfway, _ = training_loop.fit(Module(nnx.Rngs(0)), 2)
    two, _ = training_loop.fit(halfway, 3)
    one, _ = training_loop.fit(Module(nnx.Rngs(0)), 5)
    small.assert_trees_equal(two.model, one.model)
    small.assert_trees_equal(two.opt_state, one.opt_state)


def test_only_lasting_memory_reaches_the_next_fit() -> None:
    def count(loop: jl.Loop, event: Event) -> jl.Loop:
        loop = loop.remember("fit", 0).remember("life", 0, lasting=True)
        if event is not Event.BATCH_END:
            return loop
        return loop.replace(callback_state=jax.tree.map(lambda number: number + 1, loop.callback_state))

    training_loop = small.training_loop(callbacks=[count], validation=None)
    loop, _ = training_loop.fit(small.model(), 1)
    loop, _ = training_loop.fit(loop, 2)
    assert {name: int(value) for name, value in loop.callback_state.items()} == {"fit": 6, "life": 9}


def test_memory_that_shares_the_models_arrays_gets_arrays_of_its_own() -> None:
    def average(loop: jl.Loop, event: Event) -> jl.Loop:
        loop = loop.remember("average", loop.model.params)
        if event is not Event.BATCH_END or loop.phase is not jl.Phase.TRAINING:
            return loop
        mixed = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, loop.callback_state["average"], loop.model.params)
        return loop.replace(callback_state={"average": mixed})

    def last(loop: jl.Loop, event: Event) -> jl.Loop:
        loop = loop.remember("last", loop.model.params)
        if event in (Event.BATCH_END, Event.EPOCH_END):
            return loop.replace(callback_state=loop.callback_state | {"last": loop.model.params})
        return loop

    kept: list[Any] = []

    @jl.on_host(Event.BATCH_END, reads="loop")
    def keep(loop, event):
        if loop.phase is jl.Phase.TRAINING:
            kept.append(loop.model.params["kernel"])

    model = small.model()
    small.training_loop(callbacks=[keep]).fit(model, 2)
    expected = np.float64(model.params["kernel"])
    for kernel in kept:
        expected = 0.9 * expected + 0.1 * np.float64(kernel)
    loop, _ = small.training_loop(callbacks=[average]).fit(model, 2)
    np.testing.assert_allclose(loop.callback_state["average"]["kernel"], expected, rtol=1e-5)
    loop, _ = small.training_loop(callbacks=[last]).fit(model, 2)
    small.assert_trees_equal(loop.callback_state["last"], loop.model.params)


def test_callbacks_of_one_fit_are_for_that_fit_alone() -> None:
    seen: list[Event] = []
    training_loop = small.training_loop()
    training_loop.fit(small.model(), 1, callbacks=[small.witness(seen), jl.callbacks.clip_by_global_norm(1.0)])
    count = len(seen)
    _, history = training_loop.fit(small.model(), 1)
    assert count > 0
    assert len(seen) == count
    assert "gradient_norm" not in history.epochs


def test_statistics_are_the_means_over_the_phase() -> None:
    training_loop = small.training_loop(optimizer=optax.sgd(0.0), validation=None)
    _, history = training_loop.fit(small.model(), 1)
    input, target = small.samples(12)
    logits = np.asarray(small.model()(input), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(12), target]
    np.testing.assert_allclose(history.epochs["loss"], [losses.mean()], rtol=1e-6)
    np.testing.assert_allclose(history.batches["loss"][-1], losses.mean(), rtol=1e-6)
    assert history.batches["epoch"].tolist() == [1, 1, 1]
    assert history.batches["batch"].tolist() == history.batches["step"].tolist() == [1, 2, 3]


def test_the_learning_rate_in_the_log_is_the_one_applied() -> None:
    def halve(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is Event.BATCH_START and loop.phase is jl.Phase.TRAINING:
            return loop.with_hyperparameter("learning_rate", 0.5**loop.batch_index)
        return loop

    _, history = small.training_loop(callbacks=[halve]).fit(small.model(), 1)
    assert history.batches["learning_rate"].tolist() == [1.0, 0.5, 0.25]


def test_report_by_epoch_gives_one_row_of_batches_an_epoch() -> None:
    _, history = small.training_loop(report="epoch").fit(small.model(), 2)
    assert history.batches["batch"].tolist() == [3, 3]
    np.testing.assert_array_equal(history.batches["loss"], history.epochs["loss"].astype(np.float32))


def test_a_model_may_be_initialized_on_a_device_by_name() -> None:
    for on in ("cpu", "cpu:0", jax.devices("cpu")[0], jl.default_device(), None):
        loop, _ = small.training_loop().fit(small.model(), 1, on=on)
        assert loop.model.params["kernel"].devices() == {jax.devices("cpu")[0]}


ON_THE_FIFTH_OF_EIGHT = """
import jax
import jaxloop as jl
from tests import small
assert len(jax.devices()) == 8
@jl.on_host(jl.Event.UPDATE_START, reads="loop")
def look(loop, event):
    return loop
for callbacks in ([small.traced()], [look, small.traced()]):
    loop, _ = small.training_loop(callbacks=callbacks, steps_per_dispatch=2).fit(small.model(), 2, on="cpu:4")
    devices = {device for leaf in jax.tree.leaves(loop) for device in leaf.devices()}
    assert devices == {jax.devices()[4]}, devices
"""


def test_a_fit_stays_on_the_device_it_was_given() -> None:
    run_on_devices(ON_THE_FIFTH_OF_EIGHT, 8, timeout=120)


def test_a_compiled_callback_that_branches_on_a_value_is_told_before_any_compile() -> None:
    def branch(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is Event.BATCH_END and loop.step > 2:
            return loop.cancel(jl.Scope.FIT)
        return loop

    with (
        counted_compiles() as counts,
        pytest.raises(TypeError, match=r"'.*branch' at BATCH_END: it is compiled.*jnp\.where.*on_host"),
    ):
        small.training_loop(callbacks=[branch]).fit(small.model(), 1)
    assert steps_in(counts) == {}


def test_a_callback_that_changes_a_field_in_the_step_is_told_which() -> None:
    def integer(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is not Event.UPDATE_START:
            return loop
        return loop.replace(gradient=jax.tree.map(lambda leaf: leaf.astype(jnp.int32), loop.gradient))

    with pytest.raises(TypeError, match=r"'.*integer' at UPDATE_START: field 'gradient'.*float32.*got int32"):
        small.training_loop(callbacks=[integer]).fit(small.model(), 1)


def test_a_name_recorded_deep_in_the_run_is_a_column_from_the_first_row() -> None:
    def late(loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.record("double_loss", 2 * loop.stats["loss"]) if event is Event.EPOCH_END else loop

    _, history = small.training_loop(callbacks=[late]).fit(small.model(), 2)
    np.testing.assert_allclose(history.epochs["double_loss"], 2 * history.epochs["loss"], rtol=1e-6)
    assert np.isnan(history.batches["double_loss"][:3]).all()
