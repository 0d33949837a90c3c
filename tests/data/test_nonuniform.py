"""Epochs of samples that differ in size. A sample here is `(size, identity)`, or its size alone."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.data import NonuniformTrainingEpochs, pad_and_collate

seeds = st.integers(0, 2**31 - 1)
indices = st.integers(0, 10_000)


@st.composite
def cases(draw):
    """Samples, a batch size that they fill, and how many batches are sorted together."""
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=40))
    samples = [(size, identity) for identity, size in enumerate(sizes)]
    return samples, draw(st.integers(1, len(samples))), draw(st.one_of(st.none(), st.integers(1, 5)))


def first_of(sample):
    return sample[0]


def epochs_of(case, seed=0):
    samples, batch_size, batches_per_sort = case
    return NonuniformTrainingEpochs(
        samples, batch_size, seed, size=first_of, batches_per_sort=batches_per_sort, collate=list
    )


@given(cases(), seeds, indices)
def test_the_batches_of_an_epoch_are_of_one_size_and_of_distinct_samples(case, seed, index):
    samples, batch_size, _ = case
    batches = list(epochs_of(case, seed)[index])
    seen = list(itertools.chain(*batches))
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(set(seen)) == len(seen) == len(samples) // batch_size * batch_size
    assert set(seen) <= set(samples)


@given(cases(), seeds, indices)
def test_the_order_is_a_function_of_seed_and_epoch(case, seed, index):
    first, second = epochs_of(case, seed), epochs_of(case, seed)
    list(first[0])
    assert list(first[index]) == list(second[index])


@given(cases(), seeds, indices)
def test_the_largest_sample_comes_first(case, seed, index):
    assert epochs_of(case, seed)[index][0][0][0] == max(size for size, _ in case[0])


@given(cases(), seeds, indices)
def test_each_group_of_batches_is_sorted_by_descending_size(case, seed, index):
    samples, batch_size, batches_per_sort = case
    group = (batches_per_sort or max(2, len(samples) // batch_size // 100)) * batch_size
    sizes = [size for size, _ in itertools.chain(*epochs_of(case, seed)[index])]
    for start in range(0, len(sizes), group):
        assert sizes[start : start + group] == sorted(sizes[start : start + group], reverse=True)


def test_a_group_is_a_hundredth_of_an_epoch_if_that_is_more_than_two_batches():
    sizes = np.random.default_rng(0).permutation(1000)
    batches = list(NonuniformTrainingEpochs(sizes, 2, size=int)[0])
    flat = np.concatenate(batches)
    rises = np.flatnonzero(np.diff(flat) > 0) + 1
    assert set(rises) <= set(range(10, 1000, 10))
    assert len(rises) > 50


def test_more_than_sorting_in_groups_is_left_to_chance():
    """As the ancestor: the samples of a group are those that `TrainingEpochs` would draw, save the largest."""
    epochs = NonuniformTrainingEpochs(list(range(40)), 4, size=lambda _: 0, batches_per_sort=2)
    groups = {frozenset(np.concatenate(list(epochs[index][:2])).tolist()) for index in range(10)}
    assert len(groups) == 10


def test_other_samples_are_dropped_in_each_epoch_but_never_the_largest():
    epochs = NonuniformTrainingEpochs(list(range(7)), 6, size=int)
    dropped = {(set(range(7)) - set(epochs[index][0].tolist())).pop() for index in range(60)}
    assert dropped == set(range(6))


@given(cases(), seeds)
def test_iterating_is_indexing(case, seed):
    batches = epochs_of(case, seed)[3]
    assert list(batches) == [batches[index] for index in range(len(batches))]


@given(cases(), st.integers(-9, 9), st.integers(-9, 9))
def test_a_slice_holds_the_batches_that_a_list_would(case, start, stop):
    batches = epochs_of(case)[1]
    assert list(batches[start:stop]) == list(batches)[start:stop]


class Counting:
    def __init__(self, count):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        return [0] * (1 + index % 3)


def test_sizes_are_read_once_and_samples_only_with_their_batch():
    source = Counting(9)
    epochs = NonuniformTrainingEpochs(source, 3, collate=len)
    first = epochs[0]
    assert source.reads == []
    first[1]
    assert len(source.reads) == 9 + 3
    epochs[1][0]
    assert len(source.reads) == 9 + 3 + 3


def test_the_order_of_an_epoch_is_made_once(monkeypatch):
    made = []
    order = NonuniformTrainingEpochs._order
    monkeypatch.setattr(NonuniformTrainingEpochs, "_order", lambda *inputs: made.append(inputs) or order(*inputs))
    batches = NonuniformTrainingEpochs([[1], [2], [3]], 1)[2]
    assert made == []
    list(batches[1:])
    list(batches[:1])
    assert len(made) == 1


def test_batches_of_like_size_are_padded_little_and_to_lengths():
    pad = functools.partial(pad_and_collate, pad_value=0, lengths=(4, 8))
    samples = [np.ones(length) for length in [1, 8, 3, 5, 2, 7, 4, 6]]
    epochs = NonuniformTrainingEpochs(samples, 4, collate=pad, lengths=(4, 8))
    assert [batch.shape for batch in epochs[5]] == [(4, 8), (4, 4)]
    assert epochs[5].shapes == (4, 8)


def test_epochs_are_had_by_slice_and_in_turn():
    epochs = epochs_of(([(size, size) for size in range(9)], 2, None))
    expected = [list(epochs[index]) for index in range(3)]
    assert [list(epoch) for epoch in epochs[:3]] == expected
    assert [list(epoch) for epoch in itertools.islice(epochs, 3)] == expected


def test_the_repr_tells_sizes_and_seed():
    expected = "NonuniformTrainingEpochs(3 samples, batch_size=2, 1 batches an epoch, seed=0)"
    assert repr(NonuniformTrainingEpochs([[1], [2], [3]], 2)) == expected


@pytest.mark.parametrize("batches_per_sort", [0, -1, 1.5])
def test_sorting_less_than_one_batch_is_refused(batches_per_sort):
    with pytest.raises(ValueError, match=f"`batches_per_sort` must be a whole number .*got {batches_per_sort}"):
        NonuniformTrainingEpochs([[1]], 1, batches_per_sort=batches_per_sort)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4}, "`batch_size` must be at most the number of samples, 3, got 4"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"batch_size": 1, "seed": -1}, "`seed` must be a whole number of at least 0"),
    ],
)
def test_bad_sizes_and_seeds_are_refused(options, message):
    with pytest.raises(ValueError, match=f"NonuniformTrainingEpochs: {message}"):
        NonuniformTrainingEpochs([[1], [2], [3]], **options)


def test_samples_of_several_parts_need_a_size():
    with pytest.raises(ValueError, match=r"NonuniformTrainingEpochs: `size` .*`len` would count the parts"):
        NonuniformTrainingEpochs([([1], 0)], 1)[0][0]


def test_epochs_have_neither_end_nor_a_one_before_the_first():
    epochs = NonuniformTrainingEpochs([[1]], 1)
    with pytest.raises(ValueError, match=r"NonuniformTrainingEpochs: epochs .* have no end"):
        epochs[1:]
    with pytest.raises(IndexError, match=r"NonuniformTrainingEpochs: epochs .* have no end, got -1"):
        epochs[-1]
