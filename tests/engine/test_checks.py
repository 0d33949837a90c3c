"""Checks of data, each by itself."""

import numpy as np
import pytest

from jaxloop.engine.checks import check_epoch, check_first_batch, check_labels
from jaxloop.losses import softmax_cross_entropy

OUTPUT = np.zeros((4, 3), np.float32)


def test_good_data_pass() -> None:
    check_epoch([(np.zeros((4, 2)), np.zeros(4))])
    check_first_batch((np.ones((4, 2)), np.array([1, 2, 3, 4]), None), "training")
    check_labels(np.array([0, 1, 2, 0]), OUTPUT, softmax_cross_entropy, "training")


def test_labels_are_known_to_be_labels_only_under_the_cross_entropy_and_of_its_shape() -> None:
    check_labels(np.array([0, 1, 9, 0]), OUTPUT, lambda output, target: output, "training")
    check_labels(np.array([0.0, 1.0, 9.0, 0.0]), OUTPUT, softmax_cross_entropy, "training")
    check_labels(np.array([[9]]), OUTPUT, softmax_cross_entropy, "training")


def test_a_label_of_a_token_is_told_with_its_place() -> None:
    target = np.zeros((4, 5), np.int64)
    target[2, 3] = 7
    with pytest.raises(ValueError, match=r"validation: .*target is 7 at \(2, 3\); with an output of 6 classes"):
        check_labels(target, np.zeros((4, 5, 6)), softmax_cross_entropy, "validation")


def test_a_nan_deep_in_the_input_is_told_with_its_path() -> None:
    batch = ({"image": np.array([[0.0, np.nan]])}, np.zeros(1), None)
    with pytest.raises(ValueError, match=r"input\['image'\] is NaN at \(0, 1\)"):
        check_first_batch(batch, "training")


def test_a_nan_that_weighs_nothing_is_padding() -> None:
    input = np.array([[1.0], [np.nan], [np.nan]])
    check_first_batch((input, np.zeros(3), np.array([1.0, 0.0, 0.0])), "training")
    with pytest.raises(ValueError, match=r"input is NaN at \(2, 0\)"):
        check_first_batch((input, np.zeros(3), np.array([1.0, 0.0, 0.5])), "training")


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_an_integer_beyond_int32_is_told(value: int) -> None:
    with pytest.raises(ValueError, match=rf"target holds {value}, which does not fit int32"):
        check_first_batch((np.zeros(1), np.array([value]), None), "training")


def test_a_batch_in_place_of_an_epoch_is_told() -> None:
    with pytest.raises(TypeError, match=r"expected epochs of batches.*repeat\(batches\)"):
        check_epoch((np.zeros((4, 2)), np.zeros(4)))
