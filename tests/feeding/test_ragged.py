"""Batches of unequal sizes, of several libraries, and with weights only here and there: against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop import Model, TrainingLoop, repeat
from jaxloop.data import in_batches

COUNT, SIZE = 11, 4
RANDOM = np.random.default_rng(0)
INPUT = RANDOM.normal(size=(COUNT, 3)).astype(np.float32)
TARGET = RANDOM.normal(size=(COUNT, 2)).astype(np.float32)
WEIGHT = RANDOM.uniform(0.5, 2, size=COUNT).astype(np.float32)
KERNEL = RANDOM.normal(size=(3, 2)).astype(np.float32)


def squared(output, target):
    return jnp.mean((output - target) ** 2, axis=-1)


def model():
    def apply(params, state, input, *, training, key):
        return input @ params, state

    return Model(apply, jnp.asarray(KERNEL), {})


def training_loop(training, **options):
    return TrainingLoop(training, optimizer=optax.sgd(0.1), loss_fn=squared, progress=False, **options)


def mean_loss(batches):
    """The weighted mean of the loss, by a loop in float64."""
    total = weights = 0.0
    for input, target, *weight in batches:
        losses = np.mean((np.float64(input) @ KERNEL - np.float64(target)) ** 2, axis=-1)
        weight = np.asarray(weight[0], np.float64) if weight else np.ones(len(losses))
        total, weights = total + np.sum(losses * weight), weights + np.sum(weight)
    return total / weights


LAZY = in_batches((INPUT, TARGET), SIZE)
LISTED = list(LAZY)
WEIGHTED = list(in_batches((INPUT, TARGET, WEIGHT), SIZE))
ON_DEVICE = [jax.tree.map(jnp.asarray, batch) for batch in LISTED]
CASES = {
    "lazy": LAZY,
    "a list": LISTED,
    "without the first": LAZY[1:],
    "every other": LAZY[::2],
    "backwards": LAZY[::-1],
    "larger than the samples": in_batches((INPUT, TARGET), 64),
    "the short one first": [LISTED[-1], *LISTED[:-1]],
    "one without examples": [LISTED[0], (INPUT[:0], TARGET[:0]), *LISTED[1:]],
    "the first weighted": [WEIGHTED[0], *LISTED[1:]],
    "the last weighted": [*LISTED[:-1], WEIGHTED[-1]],
    "on the device": ON_DEVICE,
    "NumPy first": [LISTED[0], *ON_DEVICE[1:]],
    "JAX first": [ON_DEVICE[0], *LISTED[1:]],
    "inputs on the device": [(jnp.asarray(input), target) for input, target in LISTED],
}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_an_evaluation_counts_each_example_once(case, steps):
    loop = training_loop(repeat(LISTED[:2]), steps_per_dispatch=steps)
    batches = CASES[case]
    assert loop.evaluate(model(), batches)["loss"] == pytest.approx(mean_loss(batches), rel=1e-5)


@pytest.mark.parametrize("make", [lambda leaf: leaf, np.asfortranarray], ids=["C", "Fortran"])
@pytest.mark.parametrize("steps", [1, 3])
def test_packed_batches_may_be_followed_by_batches_on_the_device(make, steps):
    # More batches than share a piece of memory, so that a piece begins with one of JAX's.
    host = [(make(INPUT[row : row + 2]), TARGET[row : row + 2]) for row in range(9)] * 4
    mixed = host[:32] + [jax.tree.map(jnp.asarray, batch) for batch in host[32:]]
    expected = np.float64(KERNEL)
    for input, target in host:
        expected = expected - 0.1 * input.T.astype(np.float64) @ (input @ expected - target) / len(input)
    fitted, _ = training_loop(repeat(mixed), steps_per_dispatch=steps).fit(model(), epochs=1)
    np.testing.assert_allclose(fitted.model.params, expected, rtol=1e-4, atol=1e-5)


def test_an_epoch_may_begin_on_the_device_after_one_of_numpy():
    batches = [LISTED[0], ON_DEVICE[1]]
    epochs = [batches, batches[::-1]]
    fitted, _ = training_loop(epochs, steps_per_dispatch=1).fit(model(), epochs=2)
    plain, _ = training_loop([LISTED[:2], LISTED[1::-1]], steps_per_dispatch=1).fit(model(), epochs=2)
    np.testing.assert_array_equal(fitted.model.params, plain.model.params)


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [(">f4", "as array"), (object, "as array"), ("U1", "return_inverse=True"), ("M8[s]", "numpy.timedelta64")],
)
def test_a_dtype_that_jax_does_not_compute_with_is_named(dtype, fix):
    target = np.zeros((COUNT, 2)).astype(dtype)
    with pytest.raises(ValueError, match=f"batches: target has the dtype .*{fix}"):
        training_loop(repeat(LISTED[:2])).evaluate(model(), in_batches((INPUT, target), SIZE))
