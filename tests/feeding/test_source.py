"""Where epochs come from, and phases cut short."""

import itertools

import jax
import numpy as np
import pytest

from jaxloop.data import TrainingEpochs, in_batches, repeat
from jaxloop.feeding.source import EpochSource, close, first_of, length_at, limited, peekable


def pairs(count):
    """Input float32[count, 2] and target int32[count], numbered."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1), np.arange(count, dtype=np.int32)


class Loader:
    """A sized iterable that cannot be indexed, and counts how often it is begun."""

    def __init__(self, count):
        self.count = count
        self.begun = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        self.begun += 1
        return iter([pairs(2)] * self.count)


def test_epochs_are_looked_up_where_they_can_be():
    assert EpochSource([["first"], ["second"], ["third"]]).at(2) == ["third"]


def test_epochs_that_cannot_be_looked_up_are_taken_one_by_one():
    source = EpochSource(iter([["first"], ["second"]]))
    assert [source.at(7), source.at(7), source.at(8)] == [["first"], ["first"], ["second"]]


@pytest.mark.parametrize("training", [["first"], iter([])])
def test_an_epoch_that_is_not_there_is_refused_with_the_fix(training):
    with pytest.raises(ValueError, match=r"training: it has no epoch 1 \(counted from 0\); give more epochs"):
        EpochSource(training).at(1)


@pytest.mark.parametrize("limit", [None, 2])
def test_a_loader_goes_on_from_the_batch_that_was_looked_at(limit):
    loader = Loader(3)
    batches = limited(peekable(loader), limit)
    first = first_of(batches)
    assert first_of(batches) is first
    assert loader.begun == 1
    read = list(batches)
    assert read[0] is first
    assert (len(read), len(batches), loader.begun) == (limit or 3, limit or 3, 1)
    assert len(list(batches)) == (limit or 3)
    assert loader.begun == 2


@pytest.mark.parametrize("limit", [None, 2])
def test_a_loader_that_was_let_go_is_begun_anew(limit):
    loader = Loader(3)
    batches = limited(peekable(loader), limit)
    first_of(batches)
    close(batches)
    assert len(list(batches)) == (limit or 3)
    assert loader.begun == 2
    close([1, 2])


def test_an_epoch_s_loader_is_the_same_when_asked_for_again():
    loader = Loader(3)
    source = EpochSource([loader])
    assert first_of(source.at(0)) is next(iter(source.at(0)))
    assert loader.begun == 1


@pytest.mark.parametrize(
    "batches", [in_batches(pairs(6), 2), [1, 2], (1, 2), iter([1])], ids=lambda one: str(type(one))
)
def test_what_costs_nothing_to_look_at_is_left_as_it_is(batches):
    assert peekable(batches) is batches


def test_no_limit_leaves_the_batches():
    batches = in_batches(pairs(6), 2)
    assert limited(batches, None) is batches
    assert limited(batches, 3) is batches


@pytest.mark.parametrize("batches", [in_batches(pairs(6), 2), list(in_batches(pairs(6), 2)), Loader(3)])
def test_a_limit_takes_the_first_batches(batches):
    first = limited(batches, 2)
    assert len(first) == len(list(first)) == len(list(first)) == 2


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ([[1], [1, 2], [1, 2, 3]], [2, 3]),
        ({0: [1], 1: [1, 2], 2: [1, 2, 3]}, [2, 3]),
        (itertools.repeat([1, 2, 3]), [3, 3]),
        (TrainingEpochs(pairs(10), 2), [5, 5]),
        (TrainingEpochs(pairs(10), 2).map(lambda batch: batch), [5, 5]),
        (repeat(Loader(4)), [4, 4]),
        (repeat(Loader(4), batch_count=3), [3, 3]),
        (repeat([1, 2, 3, 4], batch_count=3), [3, 3]),
        (iter([[1], [1, 2], [1, 2, 3]]), None),
        ([[1], [1, 2]], None),
    ],
    ids=lambda given: type(given).__name__,
)
def test_lengths_of_epochs_are_known_ahead_where_no_batch_is_read_for_them(training, expected):
    source = EpochSource(training)
    source.at(1)
    lengths = source.lengths(1, 2)
    assert (lengths if lengths is None else list(lengths)) == expected


def test_the_length_of_an_epoch_that_is_not_there_is_that_of_the_first():
    epochs = [[1], [1, 2]]
    assert [length_at(epochs, np.int32(1)), length_at(epochs, 2), length_at({0: [1, 2, 3]}, 5)] == [2, 1, 3]
    assert jax.jit(lambda index: length_at(epochs, index))(1) == 1


def test_the_length_of_one_epoch_is_always_known():
    assert list(EpochSource(iter([[1, 2]])).lengths(0, 1) or ()) == [2]
