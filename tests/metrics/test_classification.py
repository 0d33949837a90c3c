"""Metrics of classification: those of scikit-learn, over all shapes that logits and targets come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, hamming_loss, matthews_corrcoef

from jaxloop.metrics import Accuracy, MatthewsCorrelationCoefficient, TopKAccuracy
from tests.metrics.measuring import measured

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


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, np.bool_])
@pytest.mark.parametrize(("output", "target"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1))])
def test_accuracy_takes_one_logit(output, target, dtype):
    batch = {"output": np.array([2.0, -1.0, 0.0, -3.0]).reshape(output)}
    batch["target"] = np.array([1, 0, 1, 1]).astype(dtype).reshape(target)
    assert measured(Accuracy(), batch) == 0.5


@pytest.mark.parametrize(("weight", "expected"), [([1, 0], 0.5), ([[1, 0], [1, 0]], 1.0), (None, 0.5)])
def test_accuracy_counts_tokens_of_one_logit_by_either_weight(weight, expected):
    batch = {"output": np.array([[[2.0], [2.0]], [[-1.0], [-1.0]]]), "target": np.array([[1, 0], [0, 1]])}
    weight = None if weight is None else np.array(weight)
    assert measured(Accuracy(), batch | {"weight": weight}) == expected


def test_accuracy_of_one_logit_refuses_targets_that_would_broadcast():
    with pytest.raises(ValueError, match=r"^accuracy: .*shape \(4,\), one logit per example.*got \(4, 1\)"):
        measured(Accuracy(), {"output": np.zeros(4), "target": np.zeros((4, 1))})


@pytest.mark.parametrize("metric", [Accuracy(), TopKAccuracy(2), MatthewsCorrelationCoefficient(2)], ids=repr)
def test_an_output_of_several_arrays_is_refused_with_the_fix(metric):
    with pytest.raises(TypeError, match=rf"^{metric.name}: the output must be one array.*\(4, 2\).*Give Mean\("):
        measured(metric, {"output": {"head": OUTPUT}, "target": TARGET})


def test_accuracy_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"needs integer targets of shape \(4,\).*got \(4, 1\)"):
        measured(Accuracy(), {"output": OUTPUT, "target": TARGET[:, np.newaxis]})


def test_ties_with_the_target_are_not_above_it():
    output = np.array([[1.0, 1.0, 1.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    batch = {"output": output, "target": np.array([2, 2])}
    assert [float(measured(TopKAccuracy(k), batch)) for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_as_many_guesses_as_classes_are_always_right():
    assert measured(TopKAccuracy(2), {"output": OUTPUT, "target": TARGET}) == 1.0


def test_a_class_that_is_masked_by_infinity_ranks_last():
    output = np.array([[-np.inf, 1.0, 2.0]])
    assert measured(TopKAccuracy(2), {"output": output, "target": np.array([0])}) == 0.0
    assert measured(TopKAccuracy(2), {"output": output, "target": np.array([1])}) == 1.0


def test_a_model_that_gives_nan_is_not_among_the_top():
    assert measured(TopKAccuracy(2), {"output": np.full((4, 3), np.nan), "target": TARGET}) == 0.0


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_does_not_exist_is_not_among_the_top(target):
    assert measured(TopKAccuracy(3), {"output": np.ones((1, 3)), "target": np.array([target])}) == 0.0


def test_the_top_takes_probabilities_as_targets_and_tokens():
    batch = {"output": OUTPUT.reshape(2, 2, 2), "target": np.eye(2)[TARGET].reshape(2, 2, 2)}
    assert measured(TopKAccuracy(1), batch) == 0.75


@pytest.mark.parametrize(("k", "shape"), [(3, (4, 2)), (1, (4, 1)), (1, (4,)), (2, ())])
def test_more_guesses_than_classes_are_refused(k, shape):
    with pytest.raises(ValueError, match=rf"^top{k}_accuracy: .*at least {max(k, 2)} classes, got .*in shape \("):
        measured(TopKAccuracy(k), {"output": np.zeros(shape), "target": TARGET})


def test_the_top_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"^top2_accuracy: .*needs integer targets of shape \(4,\).*got \(4, 1\)"):
        measured(TopKAccuracy(2), {"output": OUTPUT, "target": TARGET[:, np.newaxis]})


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "5"])
def test_guesses_that_cannot_be_counted_are_refused(k):
    with pytest.raises(ValueError, match="`k` must be a whole number of at least 1"):
        TopKAccuracy(k)


def test_the_top_is_named_by_its_guesses():
    assert (TopKAccuracy().name, TopKAccuracy(3).name, TopKAccuracy(3, "good").name) == (
        "top5_accuracy",
        "top3_accuracy",
        "good",
    )


BINARY = MatthewsCorrelationCoefficient()


def test_the_correlation_of_two_classes_by_hand():
    # TP 2, TN 1, FP 1, FN 0: (2 - 0) / sqrt(3 * 2 * 2 * 1)
    batch = {"output": np.array([1.0, 2.0, -1.0, 3.0]), "target": np.array([1, 1, 0, 0])}
    assert measured(BINARY, batch) == pytest.approx(2 / np.sqrt(12), rel=1e-6)


@pytest.mark.parametrize(("output", "target"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1))])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_the_correlation_takes_one_logit(output, target, dtype):
    batch = {"output": np.array([2.0, -1.0, 0.5, -3.0]).reshape(output)}
    batch["target"] = np.array([1, 0, 1, 0], dtype).reshape(target)
    assert measured(BINARY, batch) == pytest.approx(1.0, rel=1e-6)


def test_two_logits_correlate_as_the_one_that_is_their_difference():
    output = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    target = np.random.default_rng(1).integers(0, 2, 50)
    one = measured(BINARY, {"output": output[:, 1] - output[:, 0], "target": target})
    assert measured(MatthewsCorrelationCoefficient(2), {"output": output, "target": target}) == one


@pytest.mark.parametrize(
    ("output", "target"), [([1.0, 2.0], [0, 1]), ([1.0, -2.0], [1, 1]), ([1.0, 1.0], [1, 1]), ([-1.0, -1.0], [1, 1])]
)
def test_the_correlation_with_one_class_alone_is_zero(output, target):
    assert measured(BINARY, {"output": np.array(output), "target": np.array(target)}) == 0.0


def test_the_correlation_of_nothing_is_nan():
    batch = {"output": np.ones(2), "target": np.ones(2), "weight": np.zeros(2)}
    assert np.isnan(measured(BINARY, batch))
    assert np.isnan(BINARY.compute(BINARY.init()))


@given(st.lists(st.integers(0, 2**31), min_size=9, max_size=9), st.lists(st.sampled_from([0, 0.25, 1]), min_size=9))
def test_the_correlation_of_any_counts_is_that_of_scikit_learn(counts, shares):
    matrix = np.array([count * share for count, share in zip(counts, shares, strict=False)], np.float32).reshape(3, 3)
    true, predicted = np.divmod(np.arange(9), 3)
    expected = matthews_corrcoef(true, predicted, sample_weight=matrix.reshape(-1)) if matrix.any() else np.nan
    counted = np.pad(matrix, ((0, 0), (0, 1)))
    found = MatthewsCorrelationCoefficient(3).compute({"weight": counted, "weight_error": np.zeros_like(counted)})
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_class_of_one_in_a_hundred_million_still_correlates():
    matrix = np.array([[10**8, 1], [1, 3]])
    (tn, fp), (fn, tp) = matrix.tolist()
    expected = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    state = {"weight": np.pad(matrix, ((0, 0), (0, 1))).astype(np.float32)}
    found = BINARY.compute(state | {"weight_error": np.zeros((2, 3), np.float32)})
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_count_of_a_cell_goes_on_past_what_float32_holds():
    state = BINARY.init() | {"weight": np.full((2, 3), 2**24, np.float32)}
    for _ in range(3):
        state = BINARY.update(state, output=np.ones(1), target=np.ones(1), loss=None, weight=None)
    assert int(state["weight"][1, 1]) + int(state["weight_error"][1, 1]) == 2**24 + 3


def test_several_logits_without_classes_are_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"expects one logit.*\(4, 2\).*MatthewsCorrelationCoefficient\(classes=2\)"):
        measured(BINARY, {"output": OUTPUT, "target": TARGET})


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4,)])
def test_logits_other_than_the_classes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expects 3 logits, got an output of shape \(4.*Make `classes` the size"):
        measured(MatthewsCorrelationCoefficient(3), {"output": np.zeros(shape), "target": TARGET})


def test_the_correlation_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"^matthews_.*needs integer targets of shape \(4,\).*got \(3,\)"):
        measured(MatthewsCorrelationCoefficient(2), {"output": OUTPUT, "target": TARGET[:3]})
    with pytest.raises(ValueError, match=r"^matthews_.*needs targets of 0 or 1 of its shape, got \(4, 1\)"):
        measured(BINARY, {"output": np.zeros(4), "target": TARGET[:, np.newaxis]})


@pytest.mark.parametrize("classes", [1, 0, 2.0, True])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(ValueError, match="`classes` must be at least 2, or None for one logit"):
        MatthewsCorrelationCoefficient(classes)


NONE = -1  # the class that scikit-learn is told was predicted where there is a NaN


def with_nan(seed, classes):
    """Logits and labels of 40 examples, a NaN in each fourth; weights, some of them 0; what is predicted."""
    random = np.random.default_rng(seed)
    shape = (40,) if classes == 1 else (40, classes)
    output = random.normal(size=shape).astype(np.float32)
    target, weight = random.integers(0, max(classes, 2), 40), random.integers(0, 3, 40).astype(np.float32)
    bad = np.arange(40) % 4 == 0
    if classes == 1:
        output[bad] = np.nan
    else:
        output[bad, random.integers(0, classes, bad.sum())] = np.nan
    predicted = (output > 0).astype(int) if classes == 1 else np.nan_to_num(output).argmax(axis=1)
    return output, target, weight, np.where(bad, NONE, predicted)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_nan_logit_is_wrong_in_accuracy_and_in_the_correlation(classes):
    output, target, weight, predicted = with_nan(0, classes)
    batch = {"output": output, "target": target, "weight": weight}
    expected = accuracy_score(target, predicted, sample_weight=weight)
    assert measured(Accuracy(), batch) == pytest.approx(expected, rel=1e-6)
    metric = MatthewsCorrelationCoefficient(None if classes == 1 else classes)
    assert measured(metric, batch) == pytest.approx(
        matthews_corrcoef(target, predicted, sample_weight=weight), rel=1e-5
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_nan_among_the_logits_is_wrong_whatever_the_others_are(k):
    output, target, weight, predicted = with_nan(1, 5)
    known = predicted != NONE
    above = (np.where(known[:, np.newaxis], output, 0) > output[np.arange(40), target][:, np.newaxis]).sum(axis=1)
    expected = np.average(known & (above < k), weights=weight)
    found = measured(TopKAccuracy(k), {"output": output, "target": target, "weight": weight})
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("output", "target", "metrics"),
    [
        (np.full((6, 3), np.nan), np.zeros(6, int), [Accuracy(), TopKAccuracy(3), MatthewsCorrelationCoefficient(3)]),
        (np.full(6, np.nan), np.zeros(6), [Accuracy(), Accuracy(multilabel=True), MatthewsCorrelationCoefficient()]),
        (np.full((6, 1), np.nan), np.zeros(6, bool), [Accuracy(), MatthewsCorrelationCoefficient()]),
        (np.full((6, 2, 4), np.nan), np.zeros((6, 2), int), [Accuracy(), TopKAccuracy(2)]),
        (np.full((6, 4), np.nan), np.zeros((6, 4)), [Accuracy(multilabel=True)]),
    ],
)
def test_a_model_that_has_diverged_never_looks_good(output, target, metrics):
    assert [float(measured(metric, {"output": output, "target": target})) for metric in metrics] == [0.0] * len(metrics)


@pytest.mark.parametrize("metric", [Accuracy(), TopKAccuracy(2), MatthewsCorrelationCoefficient(2)])
def test_a_nan_in_a_target_is_wrong_for_its_example(metric):
    target = np.eye(2)[[0, 0, 1, 1]]
    target[3, 0] = np.nan
    found = measured(metric, {"output": 5 * np.eye(2)[[0, 0, 1, 1]], "target": target})
    correlation = matthews_corrcoef([0, 0, 1, 0], [0, 0, 1, NONE])
    assert found == pytest.approx(correlation if isinstance(metric, MatthewsCorrelationCoefficient) else 0.75)
    weight = np.array([1, 1, 1, 0])
    assert measured(metric, {"output": 5 * np.eye(2)[[0, 0, 1, 1]], "target": target, "weight": weight}) == 1.0


@pytest.mark.parametrize(("metric", "expected"), [(Accuracy(), 0.5), (MatthewsCorrelationCoefficient(), 0.0)])
def test_a_nan_as_target_of_one_logit_is_wrong(metric, expected):
    batch = {"output": np.array([-1.0, -1.0]), "target": np.array([0.0, np.nan])}
    assert measured(metric, batch) == expected


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.float32])
@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 0.0]])
def test_labels_that_are_each_yes_or_no_are_counted_one_by_one(dtype, weight):
    output = np.array([[2.0, -1.0, 3.0, -1.0], [-2.0, 0.0, 1.0, np.nan], [1.0, 1.0, 1.0, 1.0]], np.float32)
    target = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    predicted = np.where(np.isnan(output), 1, output > 0)  # the NaN is wrong: its label is 0
    weight = None if weight is None else np.array(weight)
    batch = {"output": output, "target": target.astype(dtype), "weight": weight}
    expected = 1 - hamming_loss(target, predicted, sample_weight=weight)
    assert measured(Accuracy(multilabel=True), batch) == pytest.approx(expected)


def test_targets_that_are_not_one_for_each_label_are_refused():
    with pytest.raises(ValueError, match=r"accuracy: with multilabel=True .*\(4, 2\), the target of \(4,\)"):
        measured(Accuracy(multilabel=True), {"output": OUTPUT, "target": TARGET})
