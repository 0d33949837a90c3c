"""Where epochs come from, and phases cut short."""

import itertools

import jax
import numpy as np
import pytest

from jaxloop.data import TrainingEpochs, in_batches, repeat
from jaxloop.feeding.source import EpochSource, Peekable, length_at


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
    assert EpochSource([["first"], ["second"], ["third"]]).at(2).batches == ["third"]


def test_epochs_that_cannot_be_looked_up_are_taken_one_by_one():
    source = EpochSource(iter([["first"], ["second"]]))
    assert [source.at(index).batches for index in (7, 7, 8)] == [["first"], ["first"], ["second"]]


@pytest.mark.parametrize("training", [["first"], iter([]), {0: "first"}])
def test_an_epoch_that_is_not_there_is_refused_with_the_fix(training):
    with pytest.raises(ValueError, match=r"training: it has no epoch 2 \(counted from 1\); give more epochs"):
        EpochSource(training).at(1)


@pytest.mark.parametrize("limit", [None, 2])
def test_a_loader_goes_on_from_the_batch_that_was_seen(limit):
    loader = Loader(3)
    batches = Peekable(loader, limit)
    first = batches.peek()
    assert batches.peek() is first
    assert loader.begun == 1
    read = list(itertools.islice(batches.begun_at(0), len(batches)))
    assert read[0] is first
    assert (len(read), len(batches), loader.begun) == (limit or 3, limit or 3, 1)
    assert len(list(itertools.islice(batches.begun_at(0), len(batches)))) == (limit or 3)
    assert loader.begun == 2


@pytest.mark.parametrize("limit", [None, 2])
def test_a_loader_that_was_closed_is_begun_again(limit):
    loader = Loader(3)
    batches = Peekable(loader, limit)
    batches.peek()
    batches.close()
    assert len(list(itertools.islice(batches.begun_at(0), len(batches)))) == (limit or 3)
    assert loader.begun == 2
    Peekable([1, 2]).close()


def test_an_epoch_s_loader_is_the_same_when_asked_for_again():
    loader = Loader(3)
    source = EpochSource([loader])
    assert source.at(0).peek() is next(source.at(0).begun_at(0))
    assert loader.begun == 1


@pytest.mark.parametrize(
    "batches", [in_batches(pairs(6), 2), [1, 2], (1, 2), Loader(2)], ids=lambda one: type(one).__name__
)
def test_what_is_peeked_into_is_left_as_it_is(batches):
    assert Peekable(batches).batches is batches


def test_no_limit_leaves_the_batches():
    batches = in_batches(pairs(6), 2)
    assert Peekable(batches, None).batches is batches
    assert Peekable(batches, 3).batches is batches


@pytest.mark.parametrize("batches", [in_batches(pairs(6), 2), list(in_batches(pairs(6), 2)), Loader(3)])
def test_a_limit_takes_the_first_batches(batches):
    first = Peekable(batches, 2)
    for _ in range(2):
        assert len(first) == len(list(itertools.islice(first.begun_at(0), len(first)))) == 2
    assert first.ends_by_itself


# --- an epoch that is entered in its middle


@pytest.mark.parametrize("kind", [lambda batches: batches, list, tuple], ids=["batches", "list", "tuple"])
@pytest.mark.parametrize("limit", [None, 4])
def test_an_epoch_that_can_be_looked_up_goes_on_from_any_batch(kind, limit):
    batches = list(in_batches(pairs(10), 2))
    epoch = EpochSource([kind(in_batches(pairs(10), 2))], limit).at(0, 3)
    rest = list(itertools.islice(epoch.begun_at(3), len(epoch) - 3))
    assert len(epoch) == (limit or 5)
    assert [target.tolist() for _, target in rest] == [target.tolist() for _, target in batches[3:limit]]


@pytest.mark.parametrize(
    ("training", "why"),
    [
        (iter([list(in_batches(pairs(6), 2))]), "its epochs come one by one"),
        (repeat(Loader(3)), "its epochs come one by one"),
        ([Loader(3)], "it is read in turn"),
    ],
    ids=["iterator", "repeated loader", "loader"],
)
def test_an_epoch_of_a_loader_cannot_be_entered_in_its_middle_and_says_so(training, why):
    source = EpochSource(training)
    assert len(source.at(0)) == 3
    with pytest.raises(ValueError, match=rf"training: epoch 1 cannot be entered at batch 3 .*{why}.*TrainingEpochs"):
        source.at(0, 2)


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


BATCHES = [np.full(2, index) for index in range(5)]
UNEVEN = [BATCHES[:3], BATCHES[:2], BATCHES[:4]]


@pytest.mark.parametrize(
    ("training", "limit", "steps", "lengths"),
    [
        (repeat(BATCHES), None, 12, [5, 5, 2]),
        (repeat(BATCHES), None, 10, [5, 5]),
        (repeat(BATCHES), None, 3, [3]),
        (repeat(BATCHES), 2, 3, [2, 1]),
        (repeat(iter(BATCHES * 3), batch_count=5), None, 7, [5, 2]),
        (itertools.repeat(BATCHES), None, 6, [5, 1]),
        (UNEVEN, None, 9, [3, 2, 4]),
        (UNEVEN, None, 4, [3, 1]),
        (UNEVEN, 2, 5, [2, 2, 1]),
        (TrainingEpochs(np.arange(11), 2), None, 13, [5, 5, 3]),
        (TrainingEpochs(np.arange(11), 2), 4, 9, [4, 4, 1]),
        (TrainingEpochs(np.arange(11), 2).every(3), None, 7, [3, 3, 1]),
    ],
)
def test_epochs_are_cut_to_a_number_of_steps(training, limit, steps, lengths):
    source = EpochSource(training, limit)
    assert source.cut_to(0, steps) == len(lengths)
    assert list(source.lengths(0, len(lengths))) == lengths
    read = [list(source.at(index).begun_at(0)) for index in range(len(lengths))]
    assert [min(len(epoch), len(source.at(index))) for index, epoch in enumerate(read)][-1] == lengths[-1]
    assert [len(source.at(index)) for index in range(len(lengths))][-1] == lengths[-1]


def test_steps_that_cannot_be_counted_ahead_are_refused():
    with pytest.raises(ValueError, match=r"those of `training` come one by one. Give `epochs`"):
        EpochSource(iter(UNEVEN)).cut_to(0, 4)
    with pytest.raises(ValueError, match=r"has only 9 batches from here on, since it ends after epoch 3"):
        EpochSource(UNEVEN).cut_to(0, 10)
