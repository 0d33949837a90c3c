"""Checks of data, each by itself."""

from typing import Any

import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.feeding.checks import check_batches, check_epoch, check_numbers, check_targets
from jaxloop.losses import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from jaxloop.metrics import F1, Accuracy, MatthewsCorrelationCoefficient, Mean, TopKAccuracy
from tests import small

OUTPUT = np.zeros((4, 3), np.float32)


def test_good_data_pass() -> None:
    check_epoch([(np.zeros((4, 2)), np.zeros(4))])
    check_numbers((np.ones((4, 2)), np.array([1, 2, 3, 4]), None), softmax_cross_entropy, "training: the first batch's")
    check_targets(
        (None, np.array([0, 1, 2, 0]), None), OUTPUT, softmax_cross_entropy, (), "training: the first batch's"
    )


def test_labels_are_known_to_be_labels_only_under_the_cross_entropy_and_of_its_shape() -> None:
    check_targets(
        (None, np.array([0, 1, 9, 0]), None), OUTPUT, lambda output, target: output, (), "training: the first batch's"
    )
    check_targets(
        (None, np.array([0.0, 1.0, 9.0, 0.0]), None), OUTPUT, softmax_cross_entropy, (), "training: the first batch's"
    )
    check_targets((None, np.array([[9]]), None), OUTPUT, softmax_cross_entropy, (), "training: the first batch's")


def test_a_label_of_a_token_is_told_with_its_place() -> None:
    target = np.zeros((4, 5), np.int64)
    target[2, 3] = 7
    with pytest.raises(ValueError, match=r"validation: .*target is 7 at \(2, 3\); with an output of 6 classes"):
        check_targets(
            (None, target, None), np.zeros((4, 5, 6)), softmax_cross_entropy, (), "validation: the first batch's"
        )


def test_a_nan_deep_in_the_input_is_told_with_its_path() -> None:
    batch = ({"image": np.array([[0.0, np.nan]])}, np.zeros(1), None)
    with pytest.raises(ValueError, match=r"input\['image'\] is NaN at \(0, 1\)"):
        check_numbers(batch, softmax_cross_entropy, "training: the first batch's")


def test_a_nan_that_weighs_nothing_is_padding() -> None:
    input = np.array([[1.0], [np.nan], [np.nan]])
    check_numbers((input, np.zeros(3), np.array([1.0, 0.0, 0.0])), softmax_cross_entropy, "training: the first batch's")
    with pytest.raises(ValueError, match=r"input is NaN at \(2, 0\)"):
        check_numbers(
            (input, np.zeros(3), np.array([1.0, 0.0, 0.5])), softmax_cross_entropy, "training: the first batch's"
        )


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_an_integer_beyond_int32_is_told(value: int) -> None:
    with pytest.raises(ValueError, match=rf"target holds {value}, which does not fit int32"):
        check_numbers((np.zeros(1), np.array([value]), None), softmax_cross_entropy, "training: the first batch's")


def test_a_batch_in_place_of_an_epoch_is_told() -> None:
    with pytest.raises(TypeError, match=r"expected epochs of batches.*repeat\(batches\)"):
        check_epoch((np.zeros((4, 2)), np.zeros(4)))


@pytest.mark.parametrize("where", ["training", "validation", "evaluate", "predict"])
@pytest.mark.parametrize(
    ("samples", "what"),
    [
        ((np.zeros((4, 2)), np.zeros(4)), "a tuple of arrays"),
        (({"image": np.zeros((4, 2))}, np.zeros(4)), "a tuple of arrays"),
        (np.zeros((4, 2, 3)), "an array"),
        ({"image": np.zeros((4, 2)), "label": np.zeros(4)}, "a dict of arrays"),
        ([np.zeros((4, 2)), np.zeros(4)], "a list of arrays"),
    ],
    ids=["pair", "tree", "array", "mapping", "list"],
)
def test_samples_in_place_of_batches_are_told_with_the_line_to_write(where: str, samples: Any, what: str) -> None:
    line = r"in_batches\(\(inputs" if where == "predict" else r"\(inputs, targets\)"
    with pytest.raises(TypeError, match=rf"^{where}: expected .*batches, got {what}. Write {where}.*{line}"):
        check_batches(samples, where)


def test_batches_are_no_samples() -> None:
    pair = (np.zeros((4, 2)), np.zeros(4))
    for batches in ([pair, pair], (pair, pair), [{"image": pair[0]}], {"first": [pair]}, None, iter([pair])):
        check_batches(batches, "validation")
    check_batches([pair[0], pair[0]], "predict", inputs_alone=True)


@pytest.mark.parametrize("arguments", ["training", "validation"])
def test_a_training_loop_and_an_evaluation_take_no_samples_for_batches(arguments: str) -> None:
    with pytest.raises(TypeError, match=rf"^{arguments}: expected .*batches, got a list of arrays"):
        small.training_loop(**{arguments: list(small.samples(12))})
    with pytest.raises(TypeError, match=r"^evaluate: expected batches, got a list of arrays"):
        small.training_loop().evaluate(small.model(), list(small.samples(12)))


ONE_CLASS = [Accuracy(), TopKAccuracy(2), MatthewsCorrelationCoefficient(3)]
SEVERAL = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("metric", ONE_CLASS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
@pytest.mark.parametrize("loss_fn", [sigmoid_cross_entropy, softmax_cross_entropy, lambda output, target: output])
def test_several_classes_at_once_are_refused_where_a_metric_takes_one(metric: Any, dtype: Any, loss_fn: Any) -> None:
    message = rf"batch 3's target at \(1,\) adds up to 2: it is not of one class, but '{metric.name}' takes"
    with pytest.raises(ValueError, match=message + r".*Accuracy\(multilabel=True\)"):
        check_targets((None, SEVERAL.astype(dtype), None), OUTPUT, loss_fn, [metric], "training: batch 3's")


def test_no_class_at_all_is_refused_and_soft_labels_that_do_not_add_up_to_one() -> None:
    for row in ([0, 0, 0], [0.9, 0.9, 0.1]):
        target = np.array([[1, 0, 0], row])
        with pytest.raises(ValueError, match=r"target at \(1,\) adds up to"):
            check_targets((None, target, None), OUTPUT, sigmoid_cross_entropy, [Accuracy()], "training:")


@pytest.mark.parametrize(
    ("target", "metrics", "weight"),
    [
        (SEVERAL, [Accuracy(multilabel=True), Mean(softmax_cross_entropy, "mean")], None),
        (SEVERAL, [Accuracy(multilabel=False)], None),
        (SEVERAL, ONE_CLASS, np.array([1, 0, 1, 1])),
        (np.eye(3)[[0, 1, 2, 0]], ONE_CLASS, None),
        (0.9 * np.eye(3)[[0, 1, 2, 0]] + 0.1 / 3, ONE_CLASS, None),
        (5 * np.eye(3)[[0, 1, 2, 0]] - 1, ONE_CLASS, None),
        (np.full((4, 3), np.nan), ONE_CLASS, None),
    ],
    ids=["multilabel", "largest", "weight 0", "one-hot", "smoothed", "logits", "NaN"],
)
def test_what_is_of_one_class_or_said_not_to_be_passes(target: Any, metrics: Any, weight: Any) -> None:
    check_targets((None, target, weight), OUTPUT, mean_squared_error, metrics, "training:")


def test_answers_from_no_to_yes_are_from_0_to_1() -> None:
    for good in (np.array([0, 1, 0.5, 1]), np.array([True, False]), np.array([np.nan, 1.0])):
        check_targets((None, good, None), np.zeros(4), sigmoid_cross_entropy, (), "training:")
    with pytest.raises(ValueError, match=r"target is -1 at \(1,\), but sigmoid_cross_entropy .* \(target \+ 1\) / 2"):
        check_targets((None, np.array([1, -1]), None), np.zeros(2), sigmoid_cross_entropy, (), "training:")
    check_targets((None, np.array([1, -1]), np.array([1, 0])), np.zeros(2), sigmoid_cross_entropy, (), "training:")
    with pytest.raises(ValueError, match=r"target is 3.5 at \(0,\), but 'accuracy' takes answers"):
        check_targets((None, np.array([3.5]), None), np.zeros((1, 1)), mean_squared_error, [Accuracy()], "training:")


@pytest.mark.parametrize(
    ("output", "target"),
    [((4,), (4,)), ((4, 1), (4, 1)), ((4, 1), (7,)), ((4, 2, 3, 1), (4, 2, 3)), ((4, 5, 1), (4, 5, 1))],
)
def test_a_metric_of_one_logit_in_any_shape_takes_answers(output: Any, target: Any) -> None:
    labels = np.ones(target, np.uint8)
    labels[3] = 255  # what is to be ignored, as many segmentations mark it
    for loss_fn in (mean_squared_error, lambda output, target: output):
        with pytest.raises(ValueError, match=r"target is 255 at \(3,.*'f1' takes answers from 0 \(no\) to 1"):
            check_targets((None, labels, None), np.zeros(output), loss_fn, [F1()], "training:")
        weight = np.arange(len(labels)) != 3
        check_targets((None, labels, weight), np.zeros(output), loss_fn, [F1()], "training:")


def test_probabilities_are_of_several_classes_not_negative_and_add_up_to_1() -> None:
    def check(target: Any, output: Any = OUTPUT) -> None:
        check_targets((None, np.array(target, np.float32), None), output, softmax_cross_entropy, (), "training:")

    check([[0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match=r"one class, \[4, 1\], for which softmax_cross_entropy is always 0"):
        check([[1.0]], np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"target is -1.0 at \(0, 1\), but softmax_cross_entropy takes probabilities"):
        check([[1.0, -1.0, 1.0]])
    with pytest.warns(UserWarning, match=r"target at \(0,\) adds up to 2, .*sigmoid_cross_entropy"):
        check([[1.0, 0.0, 1.0]])


def test_labels_of_optax_loss_are_checked_too_and_those_that_begin_at_1_are_told() -> None:
    loss_fn = optax.softmax_cross_entropy_with_integer_labels
    with pytest.raises(ValueError, match="They begin at 1, so subtract 1"):
        check_targets((None, np.array([1, 2, 3, 1]), None), OUTPUT, loss_fn, (), "training:")


def test_lists_of_numbers_are_no_arrays() -> None:
    with pytest.raises(TypeError, match=r"training: expected arrays, got lists of numbers.*numpy\.asarray"):
        check_batches(([[1.0, 2.0]], [0]), "training")


def test_labels_that_are_each_yes_or_no_are_trained_on_and_measured() -> None:
    inputs = small.samples(12)[0]
    labels = (inputs[:, :3] > 0).astype(np.float32)
    data = {"training": jl.TrainingEpochs((inputs, labels), 4), "validation": jl.in_batches((inputs, labels), 5)}
    data["loss_fn"] = sigmoid_cross_entropy
    with pytest.raises(ValueError, match=r"training: the samples' target at .*'accuracy' takes the largest"):
        small.training_loop(**data).fit(small.model(), 1)
    training_loop = small.training_loop(**data, metrics=[Accuracy(multilabel=True)])
    loop, history = training_loop.fit(small.model(), 1)
    expected = np.mean((np.asarray(loop.model(inputs)) > 0) == labels)
    assert history.epochs["validation_accuracy"][0] == pytest.approx(expected)
