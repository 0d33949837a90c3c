"""Making one batch of many samples."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.data import collate, pad_and_collate

texts = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)


def test_collate_stacks_each_leaf():
    batch = collate([{"image": np.ones((2, 3)), "label": 4}, {"image": np.zeros((2, 3)), "label": 5}])
    assert batch["image"].shape == (2, 2, 3)
    assert batch["label"].tolist() == [4, 5]


def test_collate_keeps_the_dtype():
    assert collate([np.zeros(2, np.float16)] * 2).dtype == np.float16


def test_collate_gives_numpy_arrays_of_jax_arrays():
    assert isinstance(collate([jnp.zeros(2)] * 2), np.ndarray)


def test_collate_takes_lists_of_numbers_for_arrays():
    assert collate([([1, 2], 0), ([3, 4], 1)])[0].tolist() == [[1, 2], [3, 4]]


def test_collate_refuses_samples_of_unlike_shape_with_the_fix():
    with pytest.raises(ValueError, match=r"collate: .*\['text'\] is \[3\], and \[2\] in sample 1 .*pad_and_collate"):
        collate([{"text": [1, 2, 3]}, {"text": [1, 2]}])


@pytest.mark.parametrize("make", [collate, lambda samples: pad_and_collate(samples, 0)])
def test_samples_of_unlike_structure_are_refused(make):
    with pytest.raises(ValueError, match=r"collate: all samples must be of one structure; .*sample 1 "):
        make([(1, 2), (1, 2, 3)])


@pytest.mark.parametrize("make", [collate, lambda samples: pad_and_collate(samples, 0)])
def test_a_batch_of_no_samples_is_refused(make):
    with pytest.raises(ValueError, match="must have at least one sample"):
        make([])


@given(texts, st.booleans())
def test_padding_fills_up_to_the_longest_of_the_batch(samples, at_start):
    batch = pad_and_collate(samples, -1, at_start)
    longest = max(map(len, samples))
    padded = [[-1] * (longest - len(text)) for text in samples]
    pairs = zip(samples, padded, strict=True)
    assert batch.tolist() == [pad + text if at_start else text + pad for text, pad in pairs]


@given(texts)
def test_lengths_pad_to_the_smallest_that_fits(samples):
    longest = max(map(len, samples))
    expected = next(length for length in (2, 4, 8, 16) if length >= longest)
    assert pad_and_collate(samples, 0, lengths=(16, 2, 8, 4)).shape == (len(samples), expected)


def test_lengths_are_one_for_all_leaves_so_that_shapes_are_no_more_than_lengths():
    batch = pad_and_collate([([1], [1, 2, 3])], 0, lengths=(2, 4))
    assert [leaf.shape for leaf in batch] == [(1, 4), (1, 4)]


def test_without_lengths_each_leaf_has_its_own():
    batch = pad_and_collate([([1], [1, 2, 3]), ([1, 2], [1])], 0)
    assert [leaf.shape for leaf in batch] == [(2, 2), (2, 3)]


def test_further_ragged_axes_are_padded_too():
    batch = pad_and_collate([np.ones((1, 3)), np.ones((2, 2))], 0)
    assert batch.tolist() == [[[1, 1, 1], [0, 0, 0]], [[1, 1, 0], [1, 1, 0]]]


def test_lengths_leave_further_axes_as_they_are():
    assert pad_and_collate([np.ones((3, 5)), np.ones((2, 5))], 0, lengths=(4,)).shape == (2, 4, 5)


def test_numbers_are_stacked():
    assert pad_and_collate([([1, 2], 7), ([3], 8)], 0)[1].tolist() == [7, 8]


def test_pad_values_may_differ_by_leaf():
    batch = pad_and_collate([{"x": [1, 2], "y": [1]}, {"x": [3], "y": [1, 1]}], {"x": 0, "y": -1})
    assert (batch["x"].tolist(), batch["y"].tolist()) == ([[1, 2], [3, 0]], [[1, -1], [1, 1]])


def test_one_pad_value_serves_all_below_it():
    batch = pad_and_collate([(([1], [2]), [3]), (([1, 1], [2, 2]), [3, 3])], (5, 6))
    assert [batch[0][0][0].tolist(), batch[0][1][0].tolist(), batch[1][0].tolist()] == [[1, 5], [2, 5], [3, 6]]


def test_a_leaf_without_pad_value_keeps_its_shape():
    batch = pad_and_collate([([1, 2], [0, 1, 0])], (0, None), lengths=(8,))
    assert [leaf.shape for leaf in batch] == [(1, 8), (1, 3)]


def test_an_empty_list_takes_the_dtype_of_the_others():
    batch = pad_and_collate([[], [1, 2]], 0)
    assert (batch.tolist(), batch.dtype) == ([[0, 0], [1, 2]], np.asarray([1]).dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, jnp.bfloat16])
def test_padding_keeps_the_dtype(dtype):
    assert pad_and_collate([np.zeros(1, dtype), np.zeros(2, dtype)], 1).dtype == dtype


def test_a_sample_that_fits_no_length_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r"one of `lengths` \(2, 4\), got one of size 5"):
        pad_and_collate([[1] * 5], 0, lengths=(2, 4))


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, -1), (np.int32, 0.5), (np.uint8, 300), (np.int32, [1, 2])])
def test_a_pad_value_that_the_dtype_cannot_hold_is_refused(dtype, value):
    with pytest.raises(ValueError, match=rf"cannot hold the pad value|`pad_value` must be.*{value!r}"):
        pad_and_collate([np.zeros(1, dtype), np.zeros(2, dtype)], value)


def test_a_pad_value_of_another_structure_is_refused():
    with pytest.raises(ValueError, match=r"`pad_value` must be a number or a tree .*got \{'z': 0\}"):
        pad_and_collate([{"x": [1]}], {"z": 0})


def test_samples_of_unlike_numbers_of_axes_are_refused():
    with pytest.raises(ValueError, match=r"same number of axes; the samples have shapes \[2\], \[2, 2\]"):
        pad_and_collate([np.zeros(2), np.zeros((2, 2))], 0)


def test_ragged_leaves_without_pad_value_are_refused():
    with pytest.raises(ValueError, match=r"one shape where `pad_value` is None; the samples have shapes \[1\], \[2\]"):
        pad_and_collate([[1], [1, 2]], None)
