"""The confusion matrix: that of scikit-learn, in counts and shares, with NaN to be seen."""

import doctest

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from jaxloop.metrics import ConfusionMatrix, confusion
from tests.metrics.measuring import measured

TARGET, PREDICTED = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 2, 1, 2, 2, 0])
OUTPUT = np.eye(4, dtype=np.float32)[PREDICTED]


@pytest.mark.parametrize("normalize", [None, "true", "predicted", "all"])
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_it_is_that_of_scikit_learn(normalize):
    found = measured(ConfusionMatrix(4, normalize), {"output": OUTPUT, "target": TARGET})
    theirs = {"predicted": "pred"}.get(normalize, normalize)
    np.testing.assert_array_equal(found, confusion_matrix(TARGET, PREDICTED, labels=range(4), normalize=theirs))
    assert found.dtype == np.float64


def test_of_one_logit_it_is_two_by_two():
    batch = {"output": np.array([[1.0], [-1.0], [2.0]]), "target": np.array([1, 1, 0])}
    assert measured(ConfusionMatrix(), batch).tolist() == [[0, 1], [1, 1]]


def test_the_row_of_a_class_with_a_nan_is_nan():
    output = OUTPUT.copy()
    output[2, 3] = np.nan
    found = measured(ConfusionMatrix(4), {"output": output, "target": TARGET})
    assert np.isnan(found[1]).all()
    assert found[0].tolist() == [1, 0, 1, 0]
    weight = (np.arange(6) != 2).astype(np.float32)
    found = measured(ConfusionMatrix(4), {"output": output, "target": TARGET, "weight": weight})
    assert found[1].tolist() == [0, 0, 0, 0]


def test_counts_beyond_those_of_float32_are_exact():
    state = ConfusionMatrix().init()
    state["weight"][1, 1] = 2**24
    for _ in range(3):
        batch = {"output": np.array([1.0], np.float32), "target": np.array([1]), "loss": None, "weight": None}
        state = ConfusionMatrix().update(state, **batch)
    assert ConfusionMatrix().compute(state)[1, 1] == 2**24 + 3


@pytest.mark.parametrize("classes", [2, 3])
def test_a_batch_of_many_fractions_loses_no_digits(classes):
    random = np.random.default_rng(0)
    target, predicted = random.integers(0, classes, (2, 300, 701))
    weight = np.full((300, 701), 0.1, np.float32)
    output = np.eye(classes, dtype=np.float32)[predicted]
    found = measured(ConfusionMatrix(classes), {"output": output, "target": target, "weight": weight})
    expected = np.float64(np.float32(0.1)) * confusion_matrix(target.ravel(), predicted.ravel())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_wrong_normalization_is_refused():
    with pytest.raises(ValueError, match="`normalize` must be 'true', 'predicted', 'all' or None, got 'pred'"):
        ConfusionMatrix(normalize="pred")


def test_a_matrix_of_a_vocabulary_is_refused_unless_it_is_meant():
    shapes = np.broadcast_to(np.float32(0), (2, 50_000)), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"confusion_matrix: .*has 50000, .*20.0 GB.*ConfusionMatrix\(classes=50000\)"):
        ConfusionMatrix().bind(*shapes)
    assert ConfusionMatrix(classes=50_000).bind(*shapes).classes == 50_000


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(confusion)
    assert result.attempted > 0
    assert result.failed == 0
