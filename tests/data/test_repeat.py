"""Epochs of a plain loader."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxloop as jl
from jaxloop.data import TrainingEpochs, in_batches, one_epoch, repeat
from tests import small


class Loader:
    """Re-iterable, and not to be had by position; `tells` is its length."""

    def __init__(self, count, tells=None):
        self.count, self.tells, self.begun = count, tells, 0

    def __len__(self):
        if self.tells is None:
            raise TypeError("no length")
        return self.tells

    def __iter__(self):
        self.begun += 1
        return iter(range(self.count))


def first(epochs, count):
    return [list(epoch) for epoch in itertools.islice(epochs, count)]


def test_each_epoch_is_all_of_the_loader_anew():
    loader = Loader(3, tells=3)
    epochs = repeat(loader)
    assert first(epochs, 2) == [[0, 1, 2], [0, 1, 2]]
    assert loader.begun == 2
    assert len(next(iter(epochs))) == 3


def test_an_epoch_of_a_loader_can_be_begun_again():
    epoch = next(iter(repeat(Loader(3, tells=3))))
    assert next(iter(epoch)) == 0
    assert list(epoch) == [0, 1, 2]


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_stream_is_cut_into_epochs_that_continue(batch_count, epoch_count):
    epochs = repeat(itertools.count(), batch_count)
    expected = np.arange(batch_count * epoch_count).reshape(epoch_count, batch_count)
    assert first(epochs, epoch_count) == expected.tolist()


@given(st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_what_can_be_iterated_anew_goes_around(count, batch_count, is_list):
    epochs = repeat(list(range(count)) if is_list else Loader(count), batch_count)
    flat = [index % count for index in range(3 * batch_count)]
    assert list(itertools.chain(*first(epochs, 3))) == flat


def test_one_can_look_at_the_first_batch_of_a_stream_without_losing_it():
    epochs = iter(repeat(itertools.count(), 3))
    epoch = next(epochs)
    assert next(iter(epoch)) == 0
    assert list(epoch) == [0, 1, 2]
    assert list(next(epochs)) == [3, 4, 5]


def test_an_epoch_that_was_left_early_is_followed_by_the_next_batch():
    epochs = iter(repeat(itertools.count(), 3))
    batches = iter(next(epochs))
    assert [next(batches), next(batches)] == [0, 1]
    assert list(next(epochs)) == [2, 3, 4]


def test_a_stream_never_gives_a_batch_again_once_the_next_was_read():
    epoch = next(iter(repeat(itertools.count(), 3)))
    assert list(itertools.islice(epoch, 2)) == [0, 1]
    assert next(iter(epoch)) == 2


def test_a_generator_goes_on_in_the_next_fit():
    epochs = repeat(itertools.count(), 2)
    assert first(epochs, 1) == [[0, 1]]
    assert first(epochs, 1) == [[2, 3]]


def test_epochs_of_a_list_are_had_by_position():
    epochs = repeat([0, 1, 2, 3, 4], 3)
    assert list(epochs[0]) == [0, 1, 2]
    assert list(epochs[10**6]) == [0, 1, 2]
    assert list(epochs[10**6 + 1]) == [3, 4, 0]
    assert len(epochs[1]) == 3


def test_epochs_of_batches_are_those_batches():
    batches = in_batches(np.arange(6), 2)
    assert repeat(batches)[7] is batches


def test_epochs_of_a_loader_are_not_had_by_position():
    assert not hasattr(repeat(Loader(3, tells=3)), "__getitem__")


def test_a_length_beyond_bounds_is_none():
    with pytest.raises(ValueError, match="has no length"):
        repeat(range(10**12))


@pytest.mark.parametrize("batches", [iter([1]), (index for index in range(3)), Loader(3)])
def test_no_length_and_no_batch_count_is_refused_with_the_fix(batches):
    with pytest.raises(ValueError, match=r"repeat: \w+ has no length.*batch_count=100"):
        repeat(batches)


@pytest.mark.parametrize("batch_count", [0, -1, 2.5])
def test_a_batch_count_below_one_is_refused(batch_count):
    with pytest.raises(ValueError, match=f"repeat: `batch_count` must be a whole number .*got {batch_count}"):
        repeat([1], batch_count)


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="repeat: there is no batch"):
        repeat([])


def test_a_generator_that_ends_early_is_refused_with_epoch_and_batch():
    epochs = iter(repeat((index for index in range(5)), 3))
    assert list(next(epochs)) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"ended before batch 3 of epoch 2 \(both counted from 1\).*an epoch has 3"):
        list(next(epochs))


def test_a_loader_that_begins_empty_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match="ended before batch 1 of epoch 1"):
        list(next(iter(repeat(Loader(0), 2))))


def test_a_loader_with_fewer_batches_than_it_told_is_refused():
    with pytest.raises(ValueError, match="ended before batch 4 of epoch 1"):
        first(repeat(Loader(3, tells=4)), 1)


def test_a_loader_with_more_batches_than_it_told_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"length is 3, but it went on .*epoch 1.*batch_count=3"):
        first(repeat(Loader(4, tells=3)), 1)


def batches():
    return [(images, labels) for images, labels in jl.in_batches(small.samples(12), 4)]


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(lambda: repeat(batches()), id="list"),
        pytest.param(lambda: repeat(batches(), 3), id="list cut"),
        pytest.param(lambda: repeat(itertools.cycle(batches()), 3), id="endless"),
        pytest.param(lambda: repeat((batch for batch in batches() + batches()), 3), id="generator of just enough"),
        pytest.param(lambda: repeat(jl.in_batches(small.samples(12), 4)), id="our own"),
    ],
)
def test_training_on_it_equals_training_on_the_same_batches(training):
    expected, _ = small.training_loop(training=[batches()] * 2).fit(small.model(), epochs=2)
    loop, history = small.training_loop(training=training()).fit(small.model(), epochs=2)
    small.assert_trees_equal(loop.model.params, expected.model.params)
    assert history.batches["loss"].shape == (6,)


def test_training_stops_where_a_generator_ends():
    training_loop = small.training_loop(training=repeat((batch for batch in batches()), 2))
    with pytest.raises(ValueError, match="ended before batch 2 of epoch 2"):
        training_loop.fit(small.model(), epochs=2)


class Unsized:
    """A loader that does not know its length, or says so by raising, as torch's over a stream does."""

    def __init__(self, count):
        self.count, self.begun = count, 0

    def __iter__(self):
        self.begun += 1
        return iter(range(self.count))


class NoLength(Unsized):
    def __len__(self):
        raise TypeError("object of type 'IterableDataset' has no len()")


@pytest.mark.parametrize("kind", [Unsized, NoLength])
def test_validation_takes_the_first_batches_of_a_loader_each_time(kind):
    batches = one_epoch(repeat(kind(9), batch_count=3), "validation")
    assert len(batches) == 3
    assert [list(batches) for _ in range(3)] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("kind", [Unsized, lambda count: list(range(count))])
def test_validation_goes_around_a_loader_that_ends_before(kind):
    batches = one_epoch(repeat(kind(3), batch_count=7), "validation")
    assert [list(batches) for _ in range(2)] == [[0, 1, 2, 0, 1, 2, 0]] * 2


def test_validation_takes_the_next_batches_of_what_can_be_had_only_once():
    batches = one_epoch(repeat(iter(range(9)), batch_count=3), "validation")
    assert next(iter(batches)) == 0
    assert next(iter(batches)) == 0  # it was only looked at
    assert [list(batches) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="repeat: the batches ended before batch 1"):
        list(batches)


def test_validation_of_single_batches_goes_on_too():
    batches = one_epoch(repeat(iter(range(9)), batch_count=1), "validation")
    assert next(iter(batches)) == 0
    assert [list(batches) for _ in range(3)] == [[0], [1], [2]]


@pytest.mark.parametrize("count", [None, 2])
def test_validation_takes_an_epoch_of_a_list_or_a_sized_loader(count):
    sized = type("Sized", (Unsized,), {"__len__": lambda self: self.count})(3)
    for loader in ([0, 1, 2], sized):
        batches = one_epoch(repeat(loader, count), "validation")
        assert (len(batches), list(batches)) == (count or 3, [0, 1, 2][:count])
        assert list(batches) == [0, 1, 2][:count]


def test_what_has_a_length_is_validated_on_as_it_is():
    batches = [1, 2, 3]
    assert one_epoch(batches, "validation") is batches


@pytest.mark.parametrize("kind", [Unsized, NoLength])
def test_validation_without_a_length_is_refused_with_the_line_to_write(kind):
    with pytest.raises(TypeError, match=r"validation: .*has no length.*repeat\(batches, batch_count=20\)"):
        one_epoch(kind(9), "validation")


def test_epochs_in_place_of_batches_are_refused_with_the_line_to_write():
    epochs = TrainingEpochs((np.zeros((8, 2)), np.zeros(8)), 4)
    with pytest.raises(TypeError, match=r"validation: .*may be epochs: give one of them, as validation\[0\]"):
        one_epoch(epochs, "validation")
