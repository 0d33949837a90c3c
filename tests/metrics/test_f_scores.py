"""Precision, recall and F1: those of scikit-learn where a class is absent, where logits are NaN, in all shapes."""

import doctest

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from jaxloop.measured import is_measured
from jaxloop.metrics import F1, Precision, Recall, f_scores
from tests.metrics.measuring import measured

SCORES = {Precision: precision_score, Recall: recall_score, F1: f1_score}
AVERAGES = ("macro", "micro", "weighted")


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("average", AVERAGES)
def test_absent_classes_and_those_without_predictions_are_as_in_scikit_learn(kind, average):
    target = np.array([0, 0, 1, 1, 3, 3])
    predicted = np.array([0, 1, 1, 1, 4, 0])  # 2 is nowhere, 3 is never predicted, 4 never true
    batch = {"output": np.eye(5, dtype=np.float32)[predicted], "target": target}
    expected = SCORES[kind](target, predicted, average=average, zero_division=0)
    assert measured(kind(average, classes=5), batch) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("kind", SCORES)
def test_without_positives_it_is_zero_and_without_weight_not_measured(kind):
    batch = {"output": np.array([-1.0, -2.0], np.float32), "target": np.array([0, 0])}
    assert measured(kind(), batch) == 0
    assert not is_measured(measured(kind(), batch | {"weight": np.zeros(2)}))
    assert not is_measured(measured(kind("macro", multilabel=True, classes=2)))


@pytest.mark.parametrize("kind", SCORES)
def test_labels_that_never_occur_count_as_zero_as_in_scikit_learn(kind):
    target, predicted = np.array([[1, 0], [1, 0], [0, 0]]), np.array([[1, 0], [0, 0], [0, 0]])
    batch = {"output": predicted - 0.5, "target": target}
    expected = SCORES[kind](target, predicted, average="macro", zero_division=0)
    assert measured(kind("macro", classes=2, multilabel=True), batch) == pytest.approx(expected)


@pytest.mark.parametrize(("output", "target"), [((6,), (6,)), ((6, 1), (6,)), ((6, 1), (6, 1)), ((2, 3, 1), (2, 3))])
def test_one_logit_comes_in_several_shapes(output, target):
    logits, labels = np.array([1.0, -1, 2, -2, 3, 0]), np.array([1, 1, 0, 0, 1, 1])
    batch = {"output": logits.reshape(output), "target": labels.reshape(target)}
    assert measured(F1(), batch) == pytest.approx(f1_score(labels, logits > 0))


def test_tokens_are_counted_by_their_own_weights():
    labels = np.array([[0, 1, 2], [2, 1, -100]])
    logits = np.eye(3, dtype=np.float32)[[[0, 1, 1], [2, 2, 0]]]
    batch = {"output": logits, "target": labels, "weight": np.array([[1, 1, 1], [1, 1, 0]])}
    assert measured(F1("macro", classes=3), batch) == pytest.approx(
        f1_score([0, 1, 2, 2, 1], [0, 1, 1, 2, 2], average="macro")
    )


@pytest.mark.parametrize("kind", SCORES)
def test_what_is_of_no_class_is_left_out(kind):
    target, predicted = np.array([0, 1, 2, -100, 3]), np.array([0, 2, 2, 1, 1])
    expected = SCORES[kind](target[:3], predicted[:3], average="macro", zero_division=0)
    batch = {"output": np.eye(3, dtype=np.float32)[predicted], "target": target}
    assert measured(kind("macro", classes=3), batch) == pytest.approx(expected)


@pytest.mark.parametrize("kind", SCORES)
def test_a_nan_is_a_wrong_prediction_of_one_class_and_of_two(kind):
    target = np.array([0, 1, 1, 0])
    one = np.array([np.nan, np.nan, 2.0, -1.0], np.float32)
    wrong = SCORES[kind](target, [1, 0, 1, 0])
    assert measured(kind(), {"output": one, "target": target}) == pytest.approx(wrong)
    two = np.stack([-one, one], axis=1)
    assert measured(kind(), {"output": two, "target": target}) == pytest.approx(wrong)
    labels = {"output": np.stack([one, -one], axis=1), "target": np.stack([target, 1 - target], axis=1)}
    assert measured(kind("micro", classes=2, multilabel=True), labels) < 1


def test_a_nan_among_several_classes_is_a_prediction_of_none():
    target, output = np.array([0, 1, 2, 2]), np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    output[2, 0] = np.nan
    expected = recall_score(target, [0, 1, -1, 2], labels=[0, 1, 2], average="macro")
    assert measured(Recall("macro", classes=3), {"output": output, "target": target}) == pytest.approx(expected)


def test_counts_beyond_those_of_float32_are_exact():
    state = F1().init()
    state["sums"][:] = 2**24
    state["weight"] = np.float32(2**25)
    for _ in range(5):
        batch = {"output": np.array([1.0], np.float32), "target": np.array([1]), "loss": None, "weight": None}
        state = F1().update(state, **batch)
    counts = np.float64(state["sums"]) + np.float64(state["sums_error"])
    assert counts[:, 1].tolist() == [2**24 + 5] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F1("mean"), r"F1: `average` must be 'binary' or 'macro' or 'micro' or 'weighted', got 'mean'"),
        (lambda: F1(multilabel=True), r'several labels must be averaged. Write F1\("macro", multilabel=True\)'),
        (lambda: Recall(classes=1), r"Recall: `classes` must be at least 2"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_than_two_classes_need_an_average():
    with pytest.raises(ValueError, match=r"f1: it is of 2 classes, got an output of shape \(2, 3\).*'macro_f1'"):
        measured(F1(), {"output": np.zeros((2, 3)), "target": np.array([0, 1])})


def test_names_tell_average_and_output():
    assert [F1().name, F1("macro").name, F1(output="a").name, Recall("micro", output=1).name, F1(name="x").name] == [
        *("f1", "macro_f1", "a_f1", "output1_micro_recall", "x")
    ]


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(f_scores)
    assert result.attempted > 0
    assert result.failed == 0
