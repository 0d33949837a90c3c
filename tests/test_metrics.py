"""Metrics: exact over ragged, weighted and padded batches, however long the phase."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from jaxloop.metrics import Accuracy, Loss, Metric, add_to_mean, empty_mean, mean_of, resolve


def measured(metric, *batches):
    """The statistic over batches given as keywords of `update`."""
    state = metric.init()
    for batch in batches:
        state = metric.update(state, **({"output": None, "target": None, "loss": None, "weight": None} | batch))
    return metric.compute(state)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_the_loss_over_ragged_weighted_batches_is_that_of_numpy(sizes, seed):
    random = np.random.default_rng(seed)
    losses = [random.normal(5, 3, size).astype(np.float32) for size in sizes]
    weights = [random.uniform(0.1, 2, size).astype(np.float32) for size in sizes]
    batches = [{"loss": jnp.asarray(a), "weight": jnp.asarray(b)} for a, b in zip(losses, weights, strict=True)]
    expected = np.average(np.concatenate(losses).astype(np.float64), weights=np.concatenate(weights))
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


def test_a_count_goes_on_past_what_float32_holds():
    state = empty_mean() | {"weight": np.float32(2**24)}
    for _ in range(3):
        state = add_to_mean(state, jnp.float32(0), jnp.float32(1))
    assert int(state["weight"]) + int(state["weight_error"]) == 2**24 + 3


def test_an_accumulator_keeps_its_kind():
    state = empty_mean()
    after = add_to_mean(state, jnp.ones(3), jnp.ones(3))
    assert {name: leaf.dtype for name, leaf in after.items()} == {name: leaf.dtype for name, leaf in state.items()}


OUTPUT = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
TARGET = np.array([1, 1, 1, 0])


def test_accuracy_is_that_of_scikit_learn():
    expected = accuracy_score(TARGET, OUTPUT.argmax(axis=1))
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET}) == expected == 0.75


def test_weighted_accuracy_is_that_of_scikit_learn():
    weight = np.array([0.5, 1.0, 2.0, 0.25], np.float32)
    expected = accuracy_score(TARGET, OUTPUT.argmax(axis=1), sample_weight=weight)
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET, "weight": weight}) == pytest.approx(expected)


def test_padding_does_not_count_in_accuracy():
    weight = np.array([1, 0, 1, 1], np.float32)
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET, "weight": weight}) == 1.0


def test_accuracy_counts_tokens_one_by_one():
    batch = {"output": OUTPUT.reshape(2, 2, 2), "target": TARGET.reshape(2, 2)}
    assert measured(Accuracy(), batch) == 0.75


def test_accuracy_takes_probabilities_as_targets():
    assert measured(Accuracy(), {"output": OUTPUT, "target": np.eye(2, dtype=np.float32)[TARGET]}) == 0.75


def test_accuracy_takes_as_many_examples_as_classes():
    assert measured(Accuracy(), {"output": OUTPUT[:2], "target": TARGET[:2]}) == 0.5


def test_accuracy_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"needs integer targets of shape \(4,\).*got \(4, 1\)"):
        measured(Accuracy(), {"output": OUTPUT, "target": TARGET[:, np.newaxis]})


def test_the_loss_is_always_measured_and_first():
    assert resolve(["accuracy"]) == (Loss(), Accuracy())


def test_naming_the_loss_changes_nothing():
    assert resolve(["accuracy", "loss"]) == (Loss(), Accuracy())


def test_a_metric_may_be_given_as_an_object():
    assert resolve([Accuracy("top"), "accuracy"]) == (Loss(), Accuracy("top"), Accuracy())


def test_any_object_of_the_right_form_is_a_metric():
    @dataclass(frozen=True)
    class Count:
        name: str = "count"

        def init(self):
            return jnp.int32(0)

        def update(self, state, **step):
            return state + 1

        def compute(self, state):
            return state.astype(jnp.float32)

    assert isinstance(Count(), Metric)
    assert resolve([Count()])[1] == Count()


def test_a_name_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"'acuracy' is not known. Known by name: .*accuracy.*loss"):
        resolve(["acuracy"])


def test_a_name_in_place_of_a_list_is_refused_with_the_fix():
    with pytest.raises((TypeError, ValueError), match=r"\['accuracy'\]|list|brackets"):
        resolve("accuracy")


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two metrics are named 'accuracy'"):
        resolve(["accuracy", Accuracy()])


def test_a_class_that_was_not_called_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"Call it: Accuracy\(\)"):
        resolve([Accuracy])


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="each must be a name or have `name`, `init`, `update` and `compute`, got 3"):
        resolve([3])
