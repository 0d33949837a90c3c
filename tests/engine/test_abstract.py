"""Steps over shapes and dtypes: they are those of a fit, and nothing is put on a device."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.engine.abstract import AbstractFit
from jaxloop.placement import resolve
from jaxloop.programs.cost import estimate
from tests import small


def fit_of(training_loop, model=None):
    return AbstractFit(training_loop.setup, small.model() if model is None else model, resolve("cpu"))


def memory(training_loop, batch_size, model=None):
    return estimate(fit_of(training_loop, model).steps(batch_size).compile().compiled).memory


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps_per_dispatch": 2},
        {"optimizer": optax.adamw(1e-3), "callbacks": [jl.callbacks.ema(0.9)]},
        {"training": jl.TrainingEpochs(small.samples(12), 4, resident=True)},
        {"training": [[small.samples(4)] * 3]},
        {"callbacks": [jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.1)))]},
    ],
    ids=["plain", "two steps", "adamw and ema", "resident", "loader", "schedule"],
)
def test_the_program_is_the_one_that_compile_makes(changes):
    training_loop = small.training_loop(validation=None, **changes)
    compiled = training_loop.compile(small.model()).training
    steps = fit_of(training_loop).steps(4)
    assert steps.chunk.steps == compiled.steps
    program = steps.compile()
    assert estimate(program.compiled).memory == compiled.memory
    assert program.compiled.as_text().count(" = ") == compiled.hlo.count(" = ")  # as many instructions


def test_a_batch_of_another_size_takes_as_much_more():
    training_loop = small.training_loop(validation=None)
    grown = memory(training_loop, 104)["arguments"] - memory(training_loop, 4)["arguments"]
    assert grown == 100 * (4 * 4 + 4)


def test_it_goes_on_from_a_loop():
    training_loop = small.training_loop(validation=None)
    loop, _ = training_loop.fit(small.model(), 1)
    assert memory(training_loop, 4, loop) == memory(training_loop, 4)


def test_a_linen_module_without_variables_is_not_initialized():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    training_loop = small.training_loop(validation=None)
    with jax.transfer_guard("disallow"):
        steps = fit_of(training_loop, Net()).steps(4)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(steps.steps.session.loop))


def test_resident_samples_and_parameters_stay_where_they_are():
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(64), 4, resident=True), validation=None
    )
    before = len(jax.live_arrays())
    steps = fit_of(training_loop).steps(4)
    steps.compile()
    assert len(jax.live_arrays()) == before
    assert len(training_loop.setup.residents) == 0
    assert len(training_loop.setup.programs) == 0


def test_of_texts_of_several_lengths_the_longest_counts():
    texts = [(np.ones(length, np.int32), np.int32(0)) for length in (3, 30, 5, 6) * 4]
    pad = functools.partial(jl.pad_and_collate, pad_value=0, lengths=(8, 32))
    epochs = jl.NonuniformTrainingEpochs(texts, 4, size=lambda text: len(text[0]), collate=pad, lengths=(8, 32))

    def apply(params, state, input, *, training, key):
        return jnp.take(params["embedding"], input, axis=0).mean(1), state

    model = jl.Model(apply, {"embedding": np.zeros((2, 3), np.float32)}, {})
    training_loop = small.training_loop(training=epochs, validation=None)
    chunk = fit_of(training_loop, model).steps(4).chunk
    assert {shape for _, shape, _ in chunk.batch.leaves} >= {(4, 32)}


def test_floats_that_a_step_widens_are_as_wide_as_in_a_fit():
    model = small.model()
    half = model.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params))
    training_loop = small.training_loop(validation=None, optimizer=optax.sgd(0.1))
    assert memory(training_loop, 4, half) == training_loop.compile(half).training.memory
