"""Areas under curves: the bound of their error, saturated scores, NaN, and what is not measured."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from jaxloop.measured import is_measured
from jaxloop.metrics import AUC, AveragePrecision, ranking
from tests.metrics.measuring import measured
from tests.metrics.sklearn_says import log_odds, said, samples

AREAS = {AUC: roc_auc_score, AveragePrecision: average_precision_score}


def added(metric, output, target, weight=None):
    return metric.update(metric.init(), output=output, target=target, loss=None, weight=weight)


@functools.cache
def jitted(kind, thresholds):
    """The area and the bound of its error."""

    def both(scores, target, weight):
        metric = kind(thresholds)
        state = added(metric, scores, target, weight)
        return metric.compute(state), metric.error_bound(state)

    return jax.jit(both)


@pytest.mark.parametrize("kind", AREAS)
@given(seed=st.integers(0, 2**32 - 1), thresholds=st.sampled_from([2, 67, 4096]), scale=st.sampled_from([0.1, 1, 9]))
def test_the_error_is_within_its_bound(kind, seed, thresholds, scale):
    random = np.random.default_rng(seed)
    target = random.integers(0, 2, 60)
    target[:2] = 0, 1
    scores = (scale * (random.normal(size=60) + target)).astype(np.float32)
    weight = random.uniform(0.1, 3, 60).astype(np.float32)
    area, bound = map(float, jitted(kind, thresholds)(scores, target, weight))
    exact = AREAS[kind](target, scores, sample_weight=weight)
    assert abs(area - exact) <= bound + 1e-6
    if thresholds == 4096 and scale > 0.5 and kind is AUC:
        assert bound < 5e-3


def test_the_error_over_many_scores_is_far_within_the_bound_of_the_docstring():
    output, target, weight = samples(20_000)
    state = added(AUC(), output["yes"], target["yes"], weight)
    assert float(AUC().error_bound(state)) < 2e-3
    exact = said(output, target, weight, exact=True)["yes_auc"]
    assert float(AUC().compute(state)) == pytest.approx(exact, abs=1e-5)


def test_confident_scores_are_told_apart():
    logits = np.array([40.0, 41.0, 60.0, 80.0, -50.0, -51.0, -70.0, -90.0], np.float32)  # whose sigmoids are 1 or 0
    target = np.array([0, 1, 1, 1, 1, 0, 0, 0])
    assert measured(AUC(), {"output": logits, "target": target}) == roc_auc_score(target, logits)


@pytest.mark.parametrize("kind", AREAS)
@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_of_one_logit_the_shape_does_not_matter(kind, shape):
    output, target, _ = samples(60)
    expected = measured(kind(), {"output": output["yes"], "target": target["yes"]})
    for target_shape in {(60,), shape}:
        batch = {"output": output["yes"].reshape(shape), "target": target["yes"].reshape(target_shape)}
        assert measured(kind(), batch) == expected


def test_a_softmax_near_one_keeps_its_digits():
    logits = np.array([[30.0, 0, 0], [35, 0, 0], [40, 10, 0], [0, 20, 0], [0, 0, 20], [3, 2, 1]], np.float32)
    np.testing.assert_allclose(ranking._log_odds(jnp.asarray(logits)), log_odds(logits), rtol=1e-5)


@pytest.mark.parametrize("kind", AREAS)
@pytest.mark.parametrize("where", ["output", "target"])
def test_a_nan_that_counts_is_seen_and_one_that_weighs_nothing_is_not(kind, where):
    batch = {"output": np.array([1.0, 2.0, 3.0], np.float32), "target": np.array([0.0, 1.0, 1.0], np.float32)}
    batch[where] = np.array([0.0, 1.0, np.nan], np.float32)
    value = measured(kind(64), batch)
    assert np.isnan(value)
    assert is_measured(value)
    assert measured(kind(64), batch | {"weight": np.array([1, 1, 0])}) == 1.0
    later = {"output": np.array([1.0, 2.0]), "target": np.array([0, 1])}
    assert np.isnan(measured(kind(64), batch, later))


@pytest.mark.slow
def test_an_area_is_not_measured_while_a_class_lacks_examples():
    only = {"output": np.array([1.0, 2.0], np.float32), "target": np.array([1, 1])}
    other = {"output": np.array([0.0], np.float32), "target": np.array([0])}
    assert not is_measured(measured(AUC(64), only))
    assert measured(AUC(64), only, other) == 1.0
    assert not is_measured(measured(AveragePrecision(64), other))
    assert measured(AveragePrecision(64), only) == 1.0
    three = {"output": np.eye(3, dtype=np.float32)[[0, 1]], "target": np.array([0, 1])}
    assert not is_measured(measured(AUC(64, classes=3), three))


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_is_of_no_class_is_left_out(classes):
    output, _, _ = samples(60)
    output = output["kind"][:, :classes]
    target = np.arange(60) % classes
    without = {"output": output[2:], "target": target[2:]}
    target[:2] = -100, classes
    metric = AUC(64, classes=1 if classes == 2 else 3)
    assert measured(metric, {"output": output, "target": target}) == measured(metric, without)


def test_one_example_of_one_label_is_no_axis_of_labels():
    batches = [{"output": np.array([score], np.float32), "target": np.array([yes])} for score, yes in ((1, 1), (0, 0))]
    for batch in batches:
        batch["weight"] = np.ones(1)
    assert measured(AUC(64, multilabel=True), *batches) == 1.0


def test_infinite_scores_are_the_first_and_the_last():
    output = np.array([-np.inf, -1e30, 0, 1e30, np.inf], np.float32)
    assert measured(AUC(), {"output": output, "target": np.array([0, 0, 1, 1, 1])}) == 1.0


def test_counts_beyond_those_of_float32_are_exact():
    state = AUC(2).init()
    batch = {"output": jnp.array([1.0, -1.0, -1.0]), "target": jnp.array([1, 1, 0]), "loss": None}
    state["weight"][:] = 2**25
    for _ in range(3):
        state = AUC(2).update(state, weight=jnp.ones(3), **batch)
    counts = np.float64(state["weight"]) + np.float64(state["weight_error"])
    assert counts.ravel().tolist() == [2**25 + 3, 2**25, 2**25 + 3, 2**25 + 3]


def test_an_output_of_another_number_of_curves_is_refused():
    with pytest.raises(ValueError, match=r"auc: it is of 1 curves, got an output of shape \(2, 3\).*leave it out"):
        measured(AUC(), {"output": np.zeros((2, 3)), "target": np.array([0, 1])})
    with pytest.raises(ValueError, match=r"AUC: `thresholds` must be at least 2"):
        AUC(1)


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(ranking)
    assert result.attempted > 0
    assert result.failed == 0
