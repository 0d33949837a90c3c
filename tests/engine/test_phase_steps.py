"""The programs of a phase's steps: how many steps each takes, and how many programs there are."""

import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests import small
from tests.compiling import counted_compiles, steps_in


def fitted(epochs: int = 2, **changes: Any) -> tuple[jl.Loop, jl.History]:
    return small.training_loop(**changes).fit(small.model(), epochs)


def test_auto_takes_as_many_steps_as_divide_the_epoch_in_one_program() -> None:
    data = jl.TrainingEpochs(small.samples(4 * 50), 4)
    with counted_compiles() as counts:
        fitted(training=data, validation=None, steps_per_dispatch="auto")
    assert steps_in(counts) == {"jit(training_step_x25)": 1}


def test_what_is_left_of_an_epoch_has_a_second_program_and_nothing_compiles_later() -> None:
    training_loop = small.training_loop(training=jl.TrainingEpochs(small.samples(4 * 5), 4), steps_per_dispatch=3)
    with counted_compiles() as counts:
        training_loop.fit(small.model(), 3)
    assert steps_in(counts) == {
        "jit(training_step_x3)": 1,
        "jit(training_step_x2)": 1,
        "jit(validation_step_x2)": 1,
    }
    with counted_compiles() as counts:
        training_loop.fit(small.model(1), 2)
    assert counts == {}


def test_a_program_that_was_compiled_to_count_its_work_is_not_compiled_again() -> None:
    one_batch = [jl.in_batches(small.samples(4), 4)]
    with counted_compiles() as counts:
        fitted(1, training=one_batch, validation=None, steps_per_dispatch="auto")
    assert steps_in(counts) == {"jit(training_step)": 1}


def test_the_work_is_counted_in_the_program_that_takes_the_steps_and_where_xla_does_not_tell(monkeypatch) -> None:
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda lowered: None)  # as on GPUs and TPUs
    data = jl.TrainingEpochs(small.samples(4 * 50), 4)
    steps, wire = small.steps_of(small.training_loop(training=data, steps_per_dispatch="auto"))
    assert steps.fusing(wire).steps == 25
    traced = [count for count in range(1, 33) if steps.program(steps.feed.expected(count))._traced is not None]
    assert traced == [25]


def test_a_program_of_many_steps_tells_the_work_of_one() -> None:
    steps, wire = small.steps_of(small.training_loop())
    flops = [steps.flops(wire, steps.feed.expected(count)) for count in (1, 2, 32)]
    assert flops == pytest.approx([flops[0]] * 3)
    assert flops[0] > 2 * 2 * 4 * 4 * 3  # two products of matrices


def convolutional(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    """Two convolutions with a stride and a normalization in between, then the mean over space."""
    for name in ("first", "second"):
        input = jax.lax.conv_general_dilated(
            input, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        input = jax.nn.relu(input - input.mean((0, 1, 2)))
    return input.mean((1, 2)), state


def test_a_network_of_convolutions_is_fused_on_a_cpu_and_gives_what_single_steps_give() -> None:
    random = np.random.default_rng(0)
    kernels = {"first": random.normal(size=(3, 3, 2, 4)), "second": random.normal(size=(3, 3, 4, 3))}
    model = jl.Model(convolutional, {name: kernel.astype(np.float32) / 3 for name, kernel in kernels.items()}, {})
    samples = random.normal(size=(4 * 16, 8, 8, 2)).astype(np.float32), random.integers(0, 3, 4 * 16).astype(np.int32)
    loops, programs = [], []
    for steps in (1, "auto"):
        changes = {"training": jl.TrainingEpochs(samples, 4), "validation": None, "optimizer": optax.adam(1e-2)}
        with counted_compiles() as counts:
            loops.append(small.training_loop(**changes, steps_per_dispatch=steps).fit(model, 2)[0])
        programs.append(steps_in(counts))
    assert programs == [{"jit(training_step)": 1}, {"jit(training_step_x16)": 1}]
    small.assert_trees_equal(*loops)


def test_a_ragged_validation_set_compiles_one_program() -> None:
    with counted_compiles() as counts:
        fitted(2, validation=jl.in_batches(small.samples(11, seed=1), 4), steps_per_dispatch=1)
    assert steps_in(counts) == {"jit(training_step)": 1, "jit(validation_step)": 1}


def test_texts_of_several_lengths_have_all_programs_before_the_first_step_when_fused_too() -> None:
    lengths = (4, 8)
    random = np.random.default_rng(0)
    texts = [random.integers(1, 50, random.integers(1, 9)).astype(np.int32) for _ in range(96)]
    pad = functools.partial(jl.pad_and_collate, pad_value=(0, None), lengths=lengths)
    epochs = jl.NonuniformTrainingEpochs(
        [(text, np.int32(text.sum() % 3)) for text in texts],
        batch_size=8,
        size=lambda pair: len(pair[0]),
        collate=pad,
        lengths=lengths,
        batches_per_sort=6,
    )

    def apply(params, state, tokens, *, training, key):
        return jax.nn.one_hot(tokens, 50).mean(axis=1) @ params["kernel"], state

    model = jl.Model(apply, {"kernel": np.zeros((50, 3), np.float32)}, {})
    training_loop = small.training_loop(training=epochs, validation=None, steps_per_dispatch=3)
    with counted_compiles() as counts:
        fused, _ = training_loop.fit(model, 3)
    assert steps_in(counts) == {"jit(training_step_x3)": 2, "jit(training_step)": 2}
    single, _ = small.training_loop(training=epochs, validation=None).fit(model, 3)
    small.assert_trees_equal(fused.model.params, single.model.params)


def test_a_number_that_is_given_stands() -> None:
    steps, wire = small.steps_of(small.training_loop(steps_per_dispatch=7))
    assert (steps.fusing(wire).steps, steps.fusing(wire).why) == (7, "as given")
