"""Benchmarks of training loops; functions are in test_timing."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import benchmark
from tests.small import model, samples, training_loop

LITTLE = {"calls": 3, "rounds": 2, "warmup": 1}


def test_a_function_is_timed_with_its_arguments():
    measured = benchmark(jax.jit(lambda a, b: a @ b), jnp.ones((2, 3)), jnp.ones((3, 4)), examples=2, **LITTLE)

    assert measured.flops == 2 * 2 * 3 * 4
    assert (measured.rounds, measured.calls, measured.examples) == (2, 3, 2)


@pytest.fixture(scope="module")
def measured_loop():
    """A training loop with three steps an epoch, and what a benchmark of it asked for 100 found."""
    loop = training_loop()
    return loop, benchmark(loop, model(), rounds=2, warmup=1, calls=100)


def test_a_training_loop_has_an_epochs_steps_for_calls_and_knows_its_examples(measured_loop):
    _, measured = measured_loop

    assert (measured.rounds, measured.calls, measured.examples) == (2, 3, 4)
    assert measured.dispatch_seconds is None
    assert measured.bytes > 0
    assert measured.device_count == 1


def test_the_flops_of_a_step_are_those_of_forward_pass_gradient_and_update():
    """Of a linear layer: one product forward, one for the weights' gradient. The rest is small."""
    loop = training_loop(training=jl.TrainingEpochs(samples(64, features=256, classes=128), 64), validation=None)

    measured = benchmark(loop, model(features=256, classes=128), rounds=1, warmup=1)

    assert measured.flops == pytest.approx(2 * 2 * 64 * 256 * 128, rel=0.1)


def test_time_is_that_of_the_training_phases_behind_the_warm_up(clock_of):
    """Batches that take time: 2 seconds each; of the first also 100 s in the warm-up, where programs compile."""
    clock = clock_of(sys.modules["jaxloop.benchmark"])
    read = []

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                read.append(batch)
                clock.now += 2.0 if len(read) > 4 else 100.0
                yield batch

    inputs, labels = samples(12)
    batches = Slow((inputs[start : start + 4], labels[start : start + 4]) for start in (0, 4, 8))
    measured = benchmark(training_loop(), model(), batches, **LITTLE)

    assert measured.seconds == benchmark.__globals__["Quartiles"](2.0, 2.0, 2.0)


def test_where_not_said_steps_fill_a_fifth_of_a_second_of_the_epoch():
    loop = training_loop(training=jl.TrainingEpochs(samples(4 * 40), batch_size=4))

    assert 16 <= benchmark(loop, model(), rounds=1, warmup=1).calls <= 40


def test_host_callbacks_and_validation_are_left_out_and_compiled_ones_are_not(tmp_path):
    traced = []

    def compiled(loop, event):
        traced.append(event)
        return loop

    logger = jl.callbacks.CSVLogger(tmp_path / "log.csv")
    benchmark(training_loop(callbacks=[compiled, logger], validate_at_start=True), model(), **LITTLE)

    assert jl.Event.UPDATE_START in traced
    assert jl.Event.VALIDATION_START not in traced
    assert list(tmp_path.iterdir()) == []


def test_the_training_loop_itself_stays_as_it_was(measured_loop):
    loop, _ = measured_loop
    reference, _ = training_loop().fit(model(), epochs=1)

    trained, history = loop.fit(model(), epochs=1)

    np.testing.assert_array_equal(trained.model.params["kernel"], reference.model.params["kernel"])
    assert "validation_loss" in history.epochs


def test_a_loop_that_was_trained_may_come_in(measured_loop):
    loop, _ = measured_loop
    trained, _ = loop.fit(model(), epochs=2)

    assert benchmark(loop, trained, **LITTLE).calls == 3
    assert int(trained.step) == 6


def test_a_training_loop_runs_on_the_device_it_is_given():
    assert benchmark(training_loop(), model(), on="cpu:0", **LITTLE).device_count == 1
    with pytest.raises(ValueError, match="on: there is no device 'cpu:9' here"):
        benchmark(training_loop(), model(), on="cpu:9", **LITTLE)


def test_a_function_is_told_to_run_where_its_arguments_lie():
    with pytest.raises(TypeError, match=r"`on` is for training loops.*Put them there by jax\.device_put"):
        benchmark(jax.jit(jnp.sin), jnp.ones(3), on="cpu")


def test_a_fit_that_is_cancelled_is_refused():
    def stop(loop, event):
        return loop.cancel(jl.Scope.EPOCH, when=loop.batch_index == 1) if event is jl.Event.BATCH_END else loop

    with pytest.raises(ValueError, match=r"benchmark: a callback has cancelled a part of the fit.*Leave it out"):
        benchmark(training_loop(callbacks=[stop]), model(), **LITTLE)


def test_epochs_that_can_be_had_once_are_not_used_up():
    inputs, labels = samples(4)
    epochs = iter([[(inputs, labels)]])

    with pytest.raises(ValueError, match=r"can be had only once.*Give it batches"):
        benchmark(training_loop(training=epochs), model(), **LITTLE)
    assert len(next(epochs)) == 1


@pytest.mark.parametrize("name", ["calls", "rounds", "warmup", "examples"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_numbers_are_whole_and_at_least_one(name, value):
    with pytest.raises(ValueError, match=rf"benchmark: `{name}` must be a whole number of at least 1, got {value}"):
        benchmark(len, [], **{name: value})


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="expected a function or a TrainingLoop, got list"):
        benchmark([1, 2])


@pytest.mark.parametrize("options", [{"carry": True}, {"examples": 3}])
def test_what_is_for_functions_is_refused_for_a_training_loop(options):
    with pytest.raises(TypeError, match=r"`carry` and `examples` are for functions.*Leave them out"):
        benchmark(training_loop(), model(), **options)


@pytest.mark.parametrize("arguments", [(), (1, 2, 3)])
def test_a_training_loop_takes_a_model_and_perhaps_batches(arguments):
    with pytest.raises(TypeError, match=rf"a model or a loop, and perhaps batches, got {len(arguments)} arguments"):
        benchmark(training_loop(), *arguments)


def test_callbacks_that_wait_for_validation_do_not_disturb_it():
    waiting = training_loop(callbacks=[jl.callbacks.early_stopping("validation_loss", patience=1)])
    assert benchmark(waiting, model(), **LITTLE).examples == 4
