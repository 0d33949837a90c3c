"""The rate that `find_learning_rate` suggests, and where it suggests none."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop.learning_rate_finder import LearningRateTest, _judged
from tests.finding import STEPS, batches_of, find, samples, training_loop


@pytest.mark.filterwarnings("ignore:loss_fn. the gradient")
def test_where_the_loss_never_falls_the_curve_is_left_with_the_exception():
    def loss_fn(output, target):
        return -jl.losses.softmax_cross_entropy(output, target) * 0.0 + target.astype(jnp.float32)

    with pytest.raises(ValueError, match=r"never fell by more than it scatters.*error\.test") as caught:
        find(training_loop(loss_fn=loss_fn))
    test = caught.value.test
    assert isinstance(test, LearningRateTest)
    assert (len(test.losses), np.isnan(test.suggestion)) == (STEPS, True)


def test_a_loss_that_is_never_finite_is_called_so():
    with pytest.raises(ValueError, match=r"the loss was never finite\.") as caught:
        find(training_loop(loss_fn=lambda output, target: jl.losses.softmax_cross_entropy(output, target) * jnp.nan))
    assert repr(caught.value.test).endswith("smoothed loss nan at first, never finite)")


def weighted(silent):
    """Batches of which those in `silent` have no weight."""
    batches = batches_of(jl.TrainingEpochs(samples(), batch_size=8), 7)[:STEPS]
    return [[(*batch, np.full(8, float(index not in silent), np.float32)) for index, batch in enumerate(batches)]]


def test_a_batch_without_a_weight_has_no_loss_that_could_be_the_lowest():
    silent = {3, 20, 21}
    test = find(training_loop(training=weighted(silent)))
    steps = len(test.rates)
    assert test.losses.min() > 0
    expected = np.delete(np.geomspace(1e-3, 1e3, STEPS), sorted(silent))[:steps]
    np.testing.assert_allclose(test.rates, expected, rtol=1e-5)


def test_batches_that_all_are_without_a_weight_are_refused():
    with pytest.raises(ValueError, match="no batch has an example of a weight above 0"):
        find(training_loop(training=weighted(range(STEPS))))


def ramp_losses(noise, seed):
    """Losses that fall from 2 to 1 between the rates 1e-3 and 1e-1, in a straight line, and climb from 1 on."""
    rates = np.geomspace(1e-6, 10.0, 200)
    fall = np.clip(np.log10(rates) + 3, 0, 2) / 2
    climb = np.clip(np.log10(rates), 0, None) * 5
    return rates, 2 - fall + climb + noise * np.random.default_rng(seed).normal(size=200)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_suggestion_is_where_nine_tenths_of_the_descent_are_done(noise, seed):
    suggestion = _judged(*ramp_losses(noise, seed), 200).suggestion
    assert np.log10(suggestion) == pytest.approx(-3 + 0.9 * 2, abs=0.2)


def test_losses_that_only_scatter_give_no_suggestion():
    for seed in range(20):
        losses = 1 + 0.2 * np.random.default_rng(seed).normal(size=200)
        assert np.isnan(_judged(np.geomspace(1e-6, 10.0, 200), losses, 200).suggestion)


def test_smoothing_keeps_a_constant_and_weighs_by_a_gaussian():
    losses = np.full(100, 2.0)
    losses[50] = 1.0
    test = _judged(np.geomspace(1e-6, 10.0, 100), losses, 100)
    weight = np.exp(-0.5 * (np.arange(-50, 50) / 3) ** 2)
    np.testing.assert_allclose(test.smoothed[[0, 50, 53]], [2, 2 - 1 / weight.sum(), 2 - weight[53] / weight.sum()])


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.second = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        return self.second(nnx.relu(self.first(images)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (optax.sgd, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
        (optax.adam, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]),
    ],
    ids=["sgd", "adam"],
)
def test_on_the_digits_it_suggests_a_rate_near_the_best_of_a_grid(make, grid, seed):
    pytest.importorskip("sklearn")
    from examples.datasets.digits import load_digits

    (images, labels), (held_out, held_out_labels) = load_digits()
    given = jl.TrainingLoop(
        jl.TrainingEpochs((images.reshape(-1, 64), labels), batch_size=64, seed=seed),
        jl.in_batches((held_out.reshape(-1, 64), held_out_labels), 64),
        optimizer=optax.inject_hyperparams(make)(learning_rate=0.1),
        loss_fn=jl.losses.softmax_cross_entropy,
        progress=False,
    )
    test = jl.find_learning_rate(given, MLP(nnx.Rngs(seed)), seed=seed)
    reached = []
    for rate in grid:
        loop = given.start(MLP(nnx.Rngs(seed)), epochs=5, seed=seed).with_hyperparameter("learning_rate", rate)
        reached.append(given.fit(loop, epochs=5)[1].epochs["validation_loss"][-1])
    best = grid[int(np.argmin(reached))]
    assert best / 3 <= test.suggestion <= best * 3
