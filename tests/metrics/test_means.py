"""Means: exact over ragged, weighted and padded batches, however long the phase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop import losses
from jaxloop.metrics.means import Loss, Mean, Perplexity, add_to_mean, empty_mean, mean_of
from tests.metrics.measuring import measured


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_the_loss_over_ragged_weighted_batches_is_that_of_numpy(sizes, seed):
    random = np.random.default_rng(seed)
    values = [random.normal(5, 3, size).astype(np.float32) for size in sizes]
    weights = [random.uniform(0.1, 2, size).astype(np.float32) for size in sizes]
    batches = [{"loss": jnp.asarray(a), "weight": jnp.asarray(b)} for a, b in zip(values, weights, strict=True)]
    expected = np.average(np.concatenate(values).astype(np.float64), weights=np.concatenate(weights))
    assert measured(Loss(), *batches) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_short_last_batch_counts_by_its_examples():
    assert measured(Loss(), {"loss": jnp.array([1.0, 1.0, 1.0])}, {"loss": jnp.array([5.0])}) == 2.0


def test_a_scalar_loss_counts_as_often_as_its_batch_has_examples():
    batches = [{"loss": jnp.float32(1.0), "target": jnp.zeros(3)}, {"loss": jnp.float32(5.0), "target": jnp.zeros(1)}]
    assert measured(Loss(), *batches) == 2.0


def test_a_scalar_loss_counts_by_weight_where_there_are_weights():
    batches = [
        {"loss": jnp.float32(1.0), "target": jnp.zeros(3), "weight": jnp.array([1.0, 0.0, 0.0])},
        {"loss": jnp.float32(5.0), "target": jnp.zeros(3), "weight": jnp.array([1.0, 1.0, 1.0])},
    ]
    assert measured(Loss(), *batches) == 4.0


def test_a_scalar_loss_without_target_counts_by_its_output():
    batches = [
        {"loss": jnp.float32(1.0), "output": jnp.zeros((3, 2))},
        {"loss": jnp.float32(5.0), "output": jnp.zeros((1, 2))},
    ]
    assert measured(Loss(), *batches) == 2.0


def test_a_loss_per_token_counts_tokens():
    batch = {"loss": jnp.array([[1.0, 3.0], [7.0, 9.0]]), "weight": jnp.array([[1, 1], [1, 0]])}
    assert measured(Loss(), batch) == pytest.approx(11 / 3, rel=1e-6)


def test_a_nan_under_weight_zero_does_not_count():
    assert measured(Loss(), {"loss": jnp.array([2.0, jnp.nan]), "weight": jnp.array([1.0, 0.0])}) == 2.0


def test_a_nan_that_counts_shows():
    assert np.isnan(measured(Loss(), {"loss": jnp.array([2.0, jnp.nan])}))


def test_an_infinite_loss_shows_as_infinite():
    assert measured(Loss(), {"loss": jnp.array([2.0, jnp.inf])}) == np.inf


def test_nothing_measured_is_nan():
    assert np.isnan(mean_of(empty_mean()))


def test_nothing_that_weighs_is_nan():
    assert np.isnan(measured(Loss(), {"loss": jnp.array([2.0]), "weight": jnp.zeros(1)}))


def test_a_mean_of_a_million_losses_in_a_scan_is_right_to_a_millionth():
    losses = np.random.default_rng(0).uniform(0.05, 0.15, 1_000_000).astype(np.float32)

    @jax.jit
    def mean(losses):
        def add(state, loss):
            return add_to_mean(state, loss, jnp.float32(1)), None

        return mean_of(jax.lax.scan(add, empty_mean(), losses)[0])

    assert mean(losses) == pytest.approx(losses.astype(np.float64).mean(), rel=1e-6)


def test_a_mean_of_a_million_losses_in_one_batch_is_right_to_a_millionth():
    values = np.random.default_rng(0).uniform(0.05, 0.15, 1_000_000).astype(np.float32)
    expected = values.astype(np.float64).mean()
    assert measured(Loss(), {"loss": values}) == pytest.approx(expected, rel=1e-6)
    assert measured(Perplexity(), {"loss": values}) == pytest.approx(np.exp(expected), rel=1e-6)


def test_a_count_goes_on_past_what_float32_holds():
    state = empty_mean() | {"weight": np.float32(2**24)}
    for _ in range(3):
        state = add_to_mean(state, jnp.float32(0), jnp.float32(1))
    assert int(state["weight"]) + int(state["weight_error"]) == 2**24 + 3


def test_an_accumulator_keeps_its_kind():
    state = empty_mean()
    after = add_to_mean(state, jnp.ones(3), jnp.ones(3))
    assert {name: leaf.dtype for name, leaf in after.items()} == {name: leaf.dtype for name, leaf in state.items()}


def test_even_logits_have_as_much_perplexity_as_classes():
    loss = losses.softmax_cross_entropy(jnp.zeros((3, 4, 7)), jnp.zeros((3, 4), jnp.int32))
    assert measured(Perplexity(), {"loss": loss}) == pytest.approx(7.0, rel=1e-6)


def test_perplexity_is_of_the_mean_over_tokens_not_the_mean_over_batches():
    batches = [{"loss": jnp.log(jnp.array([[2.0, 2.0, 2.0]]))}, {"loss": jnp.log(jnp.array([[32.0]]))}]
    assert measured(Perplexity(), *batches) == pytest.approx(4.0, rel=1e-6)


def test_several_graphs_in_a_batch_count_by_the_weight_or_the_loss():
    graphs = {"output": np.array([1.0, 3.0]), "target": {"graph": np.zeros(2), "a node": np.zeros(5)}}
    mean = Mean(lambda output, target: output - target["graph"], "gap")
    assert measured(mean, graphs | {"loss": jnp.zeros(2)}) == 2.0
    assert measured(mean, graphs | {"weight": np.array([1, 0])}) == 1.0


def test_a_mean_counts_tokens():
    batch = {"output": np.array([[1.0, 3.0], [7.0, 9.0]]), "target": np.zeros((2, 2)), "weight": np.array([1, 0])}
    assert measured(Mean(lambda output, target: output - target, "gap"), batch) == 2.0


def test_a_mean_may_measure_what_is_no_array():
    mean = Mean(lambda output, target: output["head"] * target["head"], "product")
    batch = {"output": {"head": np.array([1.0, 2.0])}, "target": {"head": np.array([3.0, 5.0])}}
    assert measured(mean, batch) == 6.5


@pytest.mark.parametrize("reduce", [np.mean, lambda values: values[:1], lambda values: values.T])
def test_a_mean_refuses_what_is_not_one_value_per_example(reduce):
    with pytest.raises(ValueError, match=r"^gap: `fn` must give one value per example, of shape \(2,\)"):
        measured(Mean(lambda output, target: reduce(output), "gap"), {"output": np.ones((2, 3)), "target": np.ones(2)})


@pytest.mark.parametrize("arguments", [(3, "gap"), (max, 3)])
def test_a_mean_of_no_function_or_without_a_name_is_refused(arguments):
    with pytest.raises(TypeError, match=r"expected a function of \(output, target\) and a name"):
        Mean(*arguments)
