"""Errors of regression and R2: those of scikit-learn, also where the mean of the targets is far from 0."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_squared_error, r2_score

from jaxloop.measured import is_measured
from jaxloop.metrics import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError, regression
from tests.metrics.measuring import measured

ERRORS = [MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError, R2]


def cut(output, target, sizes, weight=None):
    """The samples in batches of these sizes."""
    ends = np.cumsum(sizes)
    for size, end in zip(sizes, ends, strict=True):
        rows = slice(end - size, end)
        yield {"output": output[rows], "target": target[rows], "weight": None if weight is None else weight[rows]}


@pytest.mark.parametrize(("mean", "order"), [(0, "shuffled"), (1e6, "shuffled"), (1e6, "sorted"), (-1e6, "reversed")])
def test_r2_is_exact_far_from_zero_in_any_order(mean, order):
    random = np.random.default_rng(0)
    target = (mean + random.normal(size=1000)).astype(np.float32)
    output = (target + 0.5 * random.normal(size=1000)).astype(np.float32)
    weight = random.uniform(0, 2, 1000).astype(np.float32)
    rows = {"shuffled": np.arange(1000), "sorted": np.argsort(target), "reversed": np.argsort(-target)}[order]
    output, target, weight = output[rows], target[rows], weight[rows]
    found = measured(R2(), *cut(output, target, [7, 500, 1, 492], weight))
    expected = r2_score(target.astype(np.float64), output.astype(np.float64), sample_weight=weight)
    assert found == pytest.approx(expected, abs=1e-6)


def test_r2_is_exact_after_a_first_batch_that_is_far_from_the_rest():
    random = np.random.default_rng(0)
    target = np.concatenate([np.zeros(4), 1e6 + random.normal(size=4000)]).astype(np.float32)
    output = (target + random.normal(size=4004)).astype(np.float32)
    found = measured(R2(), *cut(output, target, [4, 2000, 2000]))
    assert found == pytest.approx(r2_score(target, output.astype(np.float64)), abs=1e-6)
    late = float(measured(R2(), *cut(output[::-1], target[::-1], [2000, 2000, 4])))
    assert late == pytest.approx(float(found), abs=1e-6)


def padded(batch):
    """The batch filled up to 9 rows of NaN that weigh nothing."""
    gap = 9 - len(batch["weight"])
    fill = {"output": np.nan, "target": np.nan, "weight": 0}
    widths = {name: ((0, gap), *((0, 0),) * (value.ndim - 1)) for name, value in batch.items()}
    return {name: np.pad(value, widths[name], constant_values=fill[name]) for name, value in batch.items()}


STEP = jax.jit(lambda state, batch: R2(3).update(state, loss=None, **batch))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.booleans())
def test_r2_of_several_outputs_is_that_of_scikit_learn_in_any_cut(sizes, seed, weighted):
    random = np.random.default_rng(seed)
    count = sum(sizes) + 1
    target = random.normal(100, 1, (count, 3)).astype(np.float32)
    output = target + random.normal(size=(count, 3)).astype(np.float32)
    weight = random.uniform(0.5, 2, count).astype(np.float32) if weighted else None
    state = R2(3).init()
    for batch in cut(output, target, [*sizes, 1], np.ones(count, np.float32) if weight is None else weight):
        state = STEP(state, padded(batch))
    found = float(R2(3).compute(state))
    expected = r2_score(target, output, sample_weight=weight)
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-5)  # of two samples it may be a thousand below 0


@pytest.mark.parametrize("value", [0.1, 1e6, 3.0])
def test_without_variance_r2_is_one_or_zero_as_in_scikit_learn(value):
    target = np.full(10, value, np.float32)
    for output, expected in ((target, 1.0), (target + 1, 0.0)):
        assert measured(R2(), *cut(output, target, [3, 7])) == expected
        assert r2_score(np.full(10, 3.0), np.full(10, 3.0) + (1 - expected)) == expected


@pytest.mark.parametrize("kind", ERRORS)
def test_a_nan_that_counts_is_seen_and_one_that_weighs_nothing_is_not(kind):
    batch = {"output": np.array([1.0, 2.0, np.nan]), "target": np.array([1.0, 2.5, 3.0])}
    value = measured(kind(), batch)
    assert np.isnan(value)
    assert is_measured(value)
    assert np.isfinite(measured(kind(), batch | {"weight": np.array([1, 1, 0])}))
    batch = {"output": np.array([1.0, 2.0, 3.0]), "target": np.array([1.0, 2.5, np.nan])}
    assert np.isnan(measured(kind(), batch))
    assert np.isfinite(measured(kind(), batch | {"weight": np.array([True, True, False])}))


@pytest.mark.parametrize("kind", ERRORS)
def test_nothing_that_counts_is_not_measured(kind):
    batch = {"output": np.array([1.0, np.nan]), "target": np.array([np.nan, 2.5]), "weight": np.zeros(2)}
    assert not is_measured(measured(kind(), batch))
    after = {"output": np.array([1.0, 2.0]), "target": np.array([2.0, 4.0])}
    assert np.isfinite(measured(kind(), batch, after, batch))


@pytest.mark.parametrize("kind", ERRORS)
def test_shapes_that_would_broadcast_are_refused(kind):
    with pytest.raises(ValueError, match=r"output and target must be of one shape, got \(4, 1\) and \(4,\)"):
        measured(kind(), {"output": np.zeros((4, 1)), "target": np.zeros(4)})


def test_tokens_are_weighed_one_by_one():
    output, target = np.arange(6.0).reshape(2, 3), np.array([[0.0, 2, 2], [3, 3, np.nan]])
    batch = {"output": output, "target": target, "weight": np.array([[1, 1, 1], [1, 1, 0]])}
    assert measured(MeanSquaredError(), batch) == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match=r"r2: it is of 3 outputs .* weights of shape \(2, 3\).*output\[..., None\]"):
        measured(R2(3), batch)
    alone = {"output": output[..., None], "target": target[..., None], "weight": batch["weight"]}
    assert measured(R2(1), alone) == pytest.approx(r2_score([0, 2, 2, 3, 3], [0, 1, 2, 3, 4]))


def test_narrow_outputs_are_subtracted_in_float32():
    output, target = jnp.array([257.0, 300.0], jnp.bfloat16), jnp.array([256.25, 299.5], jnp.float32)
    expected = mean_squared_error(np.asarray(output, np.float64), target)
    assert measured(MeanSquaredError(), {"output": output, "target": target}) == pytest.approx(expected)


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(regression)
    assert result.attempted > 0
    assert result.failed == 0
