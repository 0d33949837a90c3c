"""Compiling ahead: what it tells, and that a fit compiles nothing again."""

import jax
import numpy as np
import pytest

import jaxloop as jl
from tests import small
from tests.compiling import counted_compiles, steps_in


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
