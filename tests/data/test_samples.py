"""What samples may be, and how a source is read."""

import doctest
import functools
import importlib
import itertools
from collections import UserList
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.data import NonuniformTrainingEpochs, TrainingEpochs, collate, in_batches, pad_and_collate
from jaxloop.data.samples import is_source


class Pair(NamedTuple):
    image: np.ndarray
    label: np.ndarray


class Counting:
    """A source of numbers, `(index, 10 * index)`, that remembers what was read."""

    def __init__(self, count):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.reads.append(index)
        return np.float32(index), 10 * index


arrays = np.zeros(3)


@pytest.mark.parametrize("samples", [[1, 2], [(arrays, 1)], UserList([1]), range(3), Counting(2)])
def test_a_list_or_a_sequence_of_another_kind_is_a_source(samples):
    assert is_source(samples)


@pytest.mark.parametrize(
    "samples", [arrays, jnp.zeros(3), (arrays, arrays), {"x": arrays}, Pair(arrays, arrays), "text", 3, None]
)
def test_arrays_and_trees_of_them_are_no_source(samples):
    assert not is_source(samples)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_a_source_gives_the_batches_that_arrays_of_its_samples_would(count, batch_size, epoch):
    batch_size = min(batch_size, count)
    source, whole = Counting(count), (np.arange(count, dtype=np.float32), 10 * np.arange(count))
    for of_source, of_arrays in [
        (TrainingEpochs(source, batch_size)[epoch], TrainingEpochs(whole, batch_size)[epoch]),
        (in_batches(source, batch_size), in_batches(whole, batch_size)),
    ]:
        assert len(of_source) == len(of_arrays)
        for batch, expected in zip(of_source, of_arrays, strict=True):
            assert [leaf.tolist() for leaf in batch] == [leaf.tolist() for leaf in expected]
            assert batch[0].dtype == np.float32


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_a_sample_is_read_only_when_its_batch_is(count, batch_size, index):
    source = Counting(count)
    batches = in_batches(source, batch_size)
    assert source.reads == []
    if index < len(batches):
        batches[index]
        assert source.reads == list(range(count))[index * batch_size : (index + 1) * batch_size]


def test_an_epoch_of_a_source_is_read_batch_by_batch():
    source = Counting(10)
    batches = iter(TrainingEpochs(source, 2)[3])
    assert source.reads == []
    first = next(batches)
    assert first[0].tolist() == source.reads
    assert len(source.reads) == 2


def test_slices_and_negative_positions_of_a_source_are_as_those_of_a_list():
    batches = in_batches(list(range(7)), 3)
    assert [batch.tolist() for batch in batches[::-1]] == [[6], [3, 4, 5], [0, 1, 2]]
    assert batches[-1].tolist() == [6]


def test_batches_of_a_source_are_not_stacked():
    assert in_batches(Counting(8), 2).stacked(0, 2) is None


def test_map_comes_after_collate():
    assert list(in_batches([1, 2, 3, 4], 2).map(np.sum)) == [3, 7]


@pytest.mark.parametrize("make", [in_batches, lambda *arguments, **options: TrainingEpochs(*arguments, **options)[0]])
@pytest.mark.parametrize("samples", [np.arange(4), [0, 1, 2, 3]])
def test_collate_is_given_a_list_of_samples(make, samples):
    assert sorted(make(samples, 4, collate=lambda items: (type(items), sorted(items)))[0][1]) == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches, NonuniformTrainingEpochs])
def test_a_source_of_no_samples_is_refused(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: there are no samples"):
        make([], 1)


def test_a_list_that_was_meant_as_a_tuple_is_refused_with_a_hint():
    with pytest.raises(ValueError, match=r"number of samples, 2, .*A list is one sample an item; .*as a tuple"):
        TrainingEpochs([np.zeros(10), np.zeros(10)], 5)


def test_in_batches_sorts_by_descending_size_where_asked():
    batches = in_batches([[1], [2, 3], [4, 5], [6, 7, 8]], 1, size=len)
    assert [batch.tolist() for batch in batches] == [[[6, 7, 8]], [[2, 3]], [[4, 5]], [[1]]]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 8))
def test_in_batches_by_size_holds_every_sample_once_and_descends_throughout(sizes, batch_size):
    flat = np.concatenate(list(in_batches(sizes, batch_size, size=int)))
    assert flat.tolist() == sorted(sizes, reverse=True)


def test_sizes_are_asked_once_and_late():
    source = Counting(6)
    batches = in_batches(source, 2, size=lambda sample: sample[1])
    assert source.reads == []
    assert [batch[0].tolist() for batch in batches[:2]] == [[5, 4], [3, 2]]
    assert len(list(batches)) == 3
    assert len(source.reads) == 6 + 4 + 6


def test_arrays_can_be_sorted_by_size_too():
    samples = np.array([[1, 0], [1, 1], [0, 0]])
    assert in_batches(samples, 2, size=np.sum)[0].tolist() == [[1, 1], [1, 0]]


def test_in_batches_tells_the_lengths_that_it_pads_to():
    pad = functools.partial(pad_and_collate, pad_value=0, lengths=(4, 2))
    batches = in_batches([[1], [1, 2, 3]], 1, collate=pad, lengths=(4, 2))
    assert batches.shapes == batches[:1].shapes == batches.map(abs).shapes == (2, 4)
    assert [batch.shape for batch in batches] == [(1, 2), (1, 4)]
    assert in_batches([1], 1).shapes is None


@pytest.mark.parametrize(
    ("samples", "size", "found"),
    [
        ([([1], 0)], len, "for sample 0, of type tuple: `len` would count the parts"),
        ([3], len, "for sample 0, of type int: object of type 'int' has no len"),
        ([[1]], str, "for sample 0, of type list: could not convert"),
    ],
)
def test_a_size_that_is_no_number_is_refused_with_the_fix(samples, size, found):
    with pytest.raises(ValueError, match=rf"in_batches: `size` .*{found}.*size=lambda sample"):
        in_batches(samples, 1, size=size)[0]


@pytest.mark.parametrize("name", ["collate", "epochs", "nonuniform", "repeat"])
def test_the_examples_in_the_docstrings_run(name):
    given = {"np": np, "functools": functools, "itertools": itertools, "pad_and_collate": pad_and_collate}
    module = importlib.import_module(f"jaxloop.data.{name}")
    results = doctest.testmod(module, extraglobs=given)
    assert results.attempted > 0
    assert results.failed == 0


def test_collate_is_the_default():
    assert in_batches([1, 2], 2).transforms == (collate,)
