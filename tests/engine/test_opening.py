"""The loop that a run begins with: its key, and models that are initialized from the first batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxloop as jl
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from tests import small


def setup(**changes) -> Setup:
    return small.training_loop(**changes).setup


def begun(of: Setup, given, epochs: int = 2, **changes) -> Session:
    return of.fit(given, epochs, **changes)


@pytest.mark.parametrize("seed", [0, 7, -1, 2**31, 2**40, -(2**63), np.int64(5), np.uint32(2**32 - 1)])
@pytest.mark.parametrize(
    "told",
    [{}, {"jax_enable_x64": True}, {"jax_default_prng_impl": "rbg"}, {"jax_random_seed_offset": 3}],
    ids=lambda told: next(iter(told), "defaults"),
)
def test_the_key_of_a_run_is_that_of_its_seed(told, seed) -> None:
    before = {name: getattr(jax.config, name) for name in told}
    try:
        for name, value in told.items():
            jax.config.update(name, value)
        key = begun(setup(), small.model(), seed=seed).loop.key
        expected = jax.random.key(seed)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert key.dtype == expected.dtype
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))


@pytest.mark.parametrize("seed", [1.5, "7", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed) -> None:
    with pytest.raises(TypeError, match=r"seed: it must be a whole number, got"):
        begun(setup(), small.model(), seed=seed)


class Centred(linen.Module):
    """A layer after the mean of the input with which it was initialized."""

    @linen.compact
    def __call__(self, input):
        mean = self.variable("data", "mean", lambda: input.mean(axis=0))
        return linen.Dense(3)(input - mean.value)


def widened(batch):
    images, labels = batch
    return jnp.concatenate([images, images**2], axis=-1), labels


@pytest.mark.parametrize("batch_size", [2, 4], ids=["batch of 2", "batch of as many as features"])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "travelling"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "as it is"])
def test_a_linen_model_is_initialized_from_the_input_that_it_sees(batch_size, resident, mapped) -> None:
    samples = small.samples(8)
    plain = jl.TrainingEpochs(samples, batch_size)
    training = jl.TrainingEpochs(samples, batch_size, resident=resident)
    input = plain[0][0][0]
    if mapped:
        training, input = training.map(widened, compiled=True), widened(plain[0][0])[0]
    loop = begun(setup(training=training, validation=None), Centred(), seed=3).loop
    expected = jax.jit(Centred().init)(jax.random.key(3), input)
    np.testing.assert_allclose(loop.model.state["data"]["mean"], expected["data"]["mean"], rtol=1e-6)
    small.assert_trees_equal(loop.model.params, expected["params"])


def test_a_linen_model_is_initialized_so_for_an_evaluation_too() -> None:
    batches = jl.in_batches(small.samples(8), 4).map(widened, compiled=True)
    measured = small.training_loop().evaluate(Centred(), batches)
    variables = Centred().init(jax.random.key(0), widened(jl.in_batches(small.samples(8), 4)[0])[0])
    expected = small.training_loop().evaluate(jl.Model.from_linen(Centred(), variables), batches)
    assert measured == pytest.approx(expected, rel=1e-5)
