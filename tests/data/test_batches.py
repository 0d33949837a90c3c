"""Batches over arrays: in order, sliced, stacked, mapped."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.data import TrainingEpochs, in_batches

bounds = st.one_of(st.none(), st.integers(-12, 12))


@st.composite
def sized(draw):
    """How many samples, and a batch size that they fill."""
    count = draw(st.integers(1, 40))
    return count, draw(st.integers(1, count))


def numbered(count):
    return np.arange(count)


def lists(batches):
    return [batch.tolist() for batch in batches]


@given(sized(), bounds, bounds, st.one_of(st.none(), st.integers(-3, 3).filter(bool)))
def test_a_slice_holds_the_batches_that_a_list_would(sizes, start, stop, step):
    batches = in_batches(numbered(sizes[0]), sizes[1])
    chosen = batches[start:stop:step]
    assert lists(chosen) == lists(list(batches)[start:stop:step])
    assert len(chosen) == len(lists(chosen))


@given(st.integers(1, 40), st.integers(1, 50))
def test_in_batches_concatenates_to_the_samples(count, batch_size):
    batches = in_batches(numbered(count), batch_size)
    assert np.concatenate(list(batches)).tolist() == list(range(count))
    assert [len(batch) for batch in batches][:-1] == [batch_size] * (len(batches) - 1)


@given(sized(), st.integers(0, 40), st.integers(1, 6))
def test_stacked_batches_are_those_stacked_one_by_one(sizes, start, count):
    batches = TrainingEpochs(numbered(sizes[0]), sizes[1])[1]
    if start + count <= len(batches):
        expected = np.stack([batches[index] for index in range(start, start + count)])
        np.testing.assert_array_equal(batches.stacked(start, count), expected)


def test_batches_with_a_short_one_among_them_cannot_be_stacked():
    assert in_batches(numbered(7), 3).stacked(1, 2) is None


def test_batches_before_a_short_one_can_be_stacked():
    assert in_batches(numbered(7), 3).stacked(0, 2).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("batches", [in_batches(numbered(8), 2).map(abs), in_batches(numbered(8), 2)[::2]])
def test_batches_that_are_mapped_or_no_neighbours_cannot_be_stacked(batches):
    assert batches.stacked(0, 2) is None


@given(sized(), bounds, bounds, st.booleans())
def test_rows_say_where_the_samples_of_each_batch_are(sizes, start, stop, shuffled):
    samples = numbered(sizes[0])
    batches = TrainingEpochs(samples, sizes[1])[3] if shuffled else in_batches(samples, sizes[1])
    chosen = batches[start:stop]
    assert [samples[rows].tolist() for rows in chosen.rows()] == lists(chosen)


@given(sized(), bounds, bounds, st.sampled_from([1, -1, 2]))
def test_batches_are_full_if_all_of_them_have_as_many_examples(sizes, start, stop, step):
    chosen = in_batches(numbered(sizes[0]), sizes[1])[start:stop:step]
    assert chosen.full == all(len(batch) == sizes[1] for batch in chosen)


def test_a_batch_can_be_had_from_the_end():
    batches = in_batches(numbered(7), 3)
    assert batches[-1].tolist() == [6]


@pytest.mark.parametrize("index", [3, -4])
def test_a_batch_that_is_not_there_raises(index):
    with pytest.raises(IndexError):
        in_batches(numbered(7), 3)[index]


def test_map_passes_each_batch_through_in_order():
    batches = in_batches(numbered(4), 2).map(lambda batch: batch + 1).map(lambda batch: batch * 10)
    assert lists(batches) == [[10, 20], [30, 40]]


def test_map_leaves_the_batches_it_was_called_on():
    batches = in_batches(numbered(4), 2)
    batches.map(lambda batch: batch + 1)
    assert lists(batches) == [[0, 1], [2, 3]]


def test_map_is_not_called_until_a_batch_is_read():
    read = []
    batches = in_batches(numbered(6), 2).map(lambda batch: read.append(batch[0].item()))
    batches[1:][0]
    assert read == [2]


def test_the_repr_of_batches_tells_sizes_and_no_samples():
    assert repr(in_batches(list(range(1000)), 300)) == "Batches(4 batches of 300)"


def halved(batch):
    return batch[0] / 2, batch[1]


def test_a_compiled_map_is_applied_to_a_batch_that_is_read():
    batches = in_batches((np.arange(4, dtype=np.uint8), np.arange(4)), 2).map(halved, compiled=True)
    assert [images.tolist() for images, _ in batches] == [[0.0, 0.5], [1.0, 1.5]]
    assert batches[1][0].tolist() == [1.0, 1.5]


def test_what_travels_is_the_batch_before_what_is_compiled():
    batches = in_batches((np.arange(4, dtype=np.uint8), np.arange(4)), 2).map(halved, compiled=True)
    assert batches.uncompiled()[1][0].dtype == np.uint8
    assert batches.uncompiled()[1][0].tolist() == [2, 3]


def test_of_resident_samples_indices_travel_in_the_order_of_the_epoch():
    samples = np.arange(10) * 10
    epoch = TrainingEpochs(samples, 3, resident=True)[4]
    indices = epoch.uncompiled()
    assert indices[0].dtype == np.int32
    assert [samples[batch].tolist() for batch in indices] == lists(epoch)
    assert samples[indices.stacked(0, 3)].tolist() == lists(epoch)
    assert samples[indices[1:][0]].tolist() == epoch[1].tolist()


def test_a_map_in_python_after_one_that_is_compiled_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"comes after one that is compiled.*compiled=True"):
        in_batches(numbered(4), 2).map(jnp.abs, compiled=True).map(abs)


def test_a_map_in_python_of_resident_samples_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"samples that are on the device.*compiled=True"):
        TrainingEpochs(numbered(4), 2, resident=True)[0].map(abs)


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "shuffled"])
def test_some_rows_of_batches_are_those_of_the_whole_batches(ordered):
    samples = np.arange(40).reshape(20, 2), np.arange(20)
    batches = in_batches(samples, 4) if ordered else TrainingEpochs(samples, 4, seed=1)[0]
    for rows in (slice(1, 3), slice(2, None), np.array([0, 3])):
        assert batches.part(1, 1, rows)[1].tolist() == batches[1][1][rows].tolist()
        stacked = batches.part(1, 3, rows)
        assert [leaf.shape[:2] for leaf in stacked] == [(3, 2), (3, 2)]
        for index in range(3):
            assert stacked[1][index].tolist() == batches[1 + index][1][rows].tolist()
            assert stacked[0][index].tolist() == batches[1 + index][0][rows].tolist()


def test_some_rows_of_a_part_of_the_batches_are_counted_from_its_first():
    batches = in_batches(np.arange(20), 4)[2:]
    assert batches.part(0, 2, slice(0, 2)).tolist() == [[8, 9], [12, 13]]


def test_some_rows_of_resident_samples_are_their_indices():
    batches = TrainingEpochs(np.arange(20.0), 4, resident=True)[0].uncompiled()
    assert batches.part(1, 1, slice(0, 2)).tolist() == batches[1][:2].tolist()
