"""Compiling ahead: what it tells, and that a fit compiles nothing again."""

import jax
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.engine.compiled import CompiledStep
from jaxloop.programs.collectives import Collective
from jaxloop.programs.programs import Program
from tests import small
from tests.compiling import counted_compiles, steps_in
from tests.devices import run_on_devices


@pytest.mark.parametrize("steps", [1, 2, "auto"])
def test_a_fit_compiles_none_of_it_again(steps):
    training_loop = small.training_loop(training=jl.TrainingEpochs(small.samples(16), 4), steps_per_dispatch=steps)
    with counted_compiles() as counts:
        compiled = training_loop.compile(small.model())
    names = {f"jit({step.name.replace(' ', '_')})" for step in (compiled.training, compiled.validation)}
    assert steps_in(counts) == dict.fromkeys(names, 1)
    with counted_compiles() as counts:
        training_loop.fit(small.model(1), 2)
    assert steps_in(counts) == {}


def test_the_work_of_a_step_is_that_of_a_matrix_product_by_hand():
    """Forward pass and gradient of a linear layer of 512 by 256: 2 x 2 x 64 x 512 x 256 FLOPs, and little more."""

    def apply(params, state, input, *, training, key):
        return input @ params["kernel"], state

    model = jl.Model(apply, {"kernel": np.zeros((512, 256), np.float32)}, {})
    data = np.zeros((64, 512), np.float32), np.zeros(64, np.int32)
    training_loop = small.training_loop(training=[jl.in_batches(data, 64)], validation=None, metrics=[])
    step = training_loop.compile(model).training
    assert step.flops == pytest.approx(2 * 2 * 64 * 512 * 256, rel=0.05)
    assert step.steps == 1
    assert step.arithmetic_intensity == pytest.approx(step.flops / step.bytes_accessed)


def test_it_tells_memory_text_and_seconds():
    compiled = small.training_loop(steps_per_dispatch=2).compile(small.model())
    step = compiled.training
    assert step.hlo.startswith("HloModule jit_training_step_x2")
    assert step.compile_seconds > 0
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(small.model().params))
    assert step.memory["aliased"] >= parameters  # donated
    assert step.why == "as given"
    assert "training_step x2: compiled in" in str(compiled)
    assert "validation_step x2: compiled in" in str(compiled)


def test_without_validation_there_is_none():
    assert small.training_loop(validation=None).compile(small.model()).validation is None


def test_a_number_of_epochs_below_one_is_refused():
    with pytest.raises(ValueError, match="epochs: it must be a whole number of at least 1, got 0"):
        small.training_loop().compile(small.model(), epochs=0)


def test_the_arguments_are_told_by_what_they_are_and_add_up():
    """AdamW holds two arrays for each parameter, and an average of the weights one more."""
    data = small.samples(16, features=64)
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(data, 4),
        validation=None,
        optimizer=optax.adamw(1e-3),
        callbacks=[jl.callbacks.ema(0.9)],
        steps_per_dispatch=2,
    )
    step = training_loop.compile(small.model(features=64)).training
    parameters = 4 * (64 * 3 + 3)
    assert step.arguments["parameters"] == parameters
    assert step.arguments["optimizer"] == 2 * parameters
    assert parameters <= step.arguments["other state"] < parameters + 500  # and the scalars
    assert step.arguments["batch"] == 2 * 4 * (64 * 4 + 4)
    assert step.arguments["resident samples"] == 0
    assert sum(step.arguments.values()) == step.memory["arguments"]
    assert step.collectives == ()
    assert step.fits is None
    text = str(step)
    assert f"  memory of one device (cpu): {step.peak / 1e6:.4g} MB\n" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("    ")]
    assert [row[0] for row in rows][:2] == ["parameters", "optimizer"]
    assert sum(float(row[-2]) for row in rows) == pytest.approx(step.peak / 1e6, rel=1e-3)


def test_resident_samples_are_told_apart():
    samples = small.samples(64)
    epochs = jl.TrainingEpochs(samples, 4, resident=True)
    step = small.training_loop(training=epochs, validation=None).compile(small.model()).training
    assert step.arguments["resident samples"] == sum(leaf.nbytes for leaf in samples)
    assert step.arguments["batch"] == 4 * 4  # indices


def test_what_it_sends_and_whether_it_fits_are_said():
    step = CompiledStep(
        name="training_step x2",
        steps=2,
        why="as given",
        compile_seconds=1.0,
        flops=1e9,
        bytes_accessed=1e6,
        memory={"arguments": 17 * 2**30, "outputs": 2**20, "aliased": 2**20, "temporaries": 2**30, "code": 0},
        hlo="",
        device_kind="TPU v5 lite",
        arguments={"parameters": 16 * 2**30, "optimizer": 2**30},
        seconds=0.0025,
        collectives=(Collective("all-reduce", 1, 4e6),),
    )
    assert step.peak == 18 * 2**30
    assert not step.fits
    text = str(step)
    assert "memory of one device (TPU v5 lite): 1.933e+04 MB of 1.718e+04 MB: it does NOT fit" in text
    assert "a step sends: 1 all-reduce of 4 MB" in text
    assert "XLA's estimate: 0.0025 s a step" in text


def test_over_several_devices_the_work_of_all_is_told_apart_from_the_bytes_of_one():
    step = CompiledStep("training_step", 1, "as given", 1.0, 8e6, 1e3, {}, "", parts=8)
    assert step.arithmetic_intensity == 1e3
    assert "a step: 8e+06 FLOPs on all devices, 1000 bytes on each, 1e+03 FLOPs per byte" in str(step)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["data_parallel", "fully_sharded"])
def test_over_several_devices_a_fit_compiles_none_of_it_again(place):
    run_on_devices(
        f"""
import sys
import jaxloop as jl
sys.path.insert(0, ".")
from tests import small
from tests.compiling import counted_compiles, steps_in

training = jl.TrainingEpochs(small.samples(64, features=64, classes=32), 16)
validation = jl.in_batches(small.samples(16, features=64, classes=32), 8)
training_loop = small.training_loop(training=training, validation=validation, steps_per_dispatch=2)
place, model = jl.{place}(), small.model(features=64, classes=32)
kernel = 4 * 64 * 32
step = training_loop.compile(model, on=place).training
assert step.arguments["parameters"] == (kernel if {place == "data_parallel"} else kernel / 8) + 4 * 32
assert step.arguments["batch"] == 2 * (4 * 64 + 4) * 16 / 8
assert sum(one.count for one in step.collectives if one.kind == "all-reduce") == 1, step.collectives
with counted_compiles() as counts:
    training_loop.fit(model, 1, on=place)
assert steps_in(counts) == {{}}, counts
""",
        8,
    )


def test_if_the_compiler_finds_no_way_to_make_it_fit_the_error_says_what_to_do(monkeypatch):
    def compile(self, *arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")

    monkeypatch.setattr(Program, "compile", compile)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as caught:
        small.training_loop().compile(small.model())
    assert caught.value.__notes__ == [
        "jaxloop: training_step does not fit cpu:0 (cpu); jaxloop.largest_batch finds what does"
    ]
