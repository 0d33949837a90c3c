"""Padding of the last batch of an evaluation."""

import numpy as np

from jaxloop.feeding.padding import padded

INPUT = np.arange(6, dtype=np.float32).reshape(3, 2)
TARGET = np.arange(3, dtype=np.int32)


def test_a_short_batch_is_filled_by_its_last_example_which_then_weighs_nothing():
    input, target, weight = padded((INPUT, TARGET, None), 5)
    assert input.tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert (target.tolist(), weight.tolist()) == ([0, 1, 2, 2, 2], [1, 1, 1, 0, 0])
    assert (input.dtype, target.dtype, weight.dtype) == (np.float32, np.int32, np.float32)


def test_weights_are_kept_in_their_own_shape_and_dtype():
    weight = np.full((3, 4), 2, np.float16)
    _, _, filled = padded((INPUT, TARGET, weight), 4)
    assert filled.dtype == np.float16
    assert filled.tolist() == [[2] * 4] * 3 + [[0] * 4]


def test_a_full_batch_is_left_as_it_is():
    weight = np.ones(3, np.float32)
    input, target, same = padded((INPUT, TARGET, weight), 3)
    assert (input is INPUT, target is TARGET, same is weight) == (True, True, True)


def test_stacked_batches_weigh_one_each():
    _, _, weight = padded((INPUT[np.newaxis], TARGET[np.newaxis], None), 3, axes=2)
    assert weight.tolist() == [[1, 1, 1]]


def test_several_graphs_in_a_batch_are_left_as_they_are():
    batch = ({"nodes": INPUT, "edges": np.zeros((7, 2))}, TARGET[:2], None)
    assert padded(batch, 5) is batch
