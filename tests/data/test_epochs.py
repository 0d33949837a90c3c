"""Epochs and batches over arrays."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.data import TrainingEpochs, in_batches

seeds = st.integers(0, 2**31 - 1)
indices = st.integers(0, 10_000)


@st.composite
def sized(draw):
    """How many samples, and a batch size that they fill."""
    count = draw(st.integers(1, 40))
    return count, draw(st.integers(1, count))


def numbered(count):
    return np.arange(count)


def lists(batches):
    return [batch.tolist() for batch in batches]


@given(sized(), seeds, indices)
def test_the_batches_of_an_epoch_are_of_one_size_and_of_distinct_samples(sizes, seed, index):
    count, batch_size = sizes
    batches = lists(TrainingEpochs(numbered(count), batch_size, seed)[index])
    seen = list(itertools.chain(*batches))
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(set(seen)) == len(seen) == count // batch_size * batch_size


@given(sized(), seeds, indices)
def test_the_order_is_a_function_of_seed_and_epoch(sizes, seed, index):
    first, second = (TrainingEpochs(numbered(sizes[0]), sizes[1], seed) for _ in range(2))
    list(first[0])
    assert lists(first[index]) == lists(second[index])


def test_epochs_differ_in_order():
    epochs = TrainingEpochs(numbered(100), 10)
    assert len({tuple(np.concatenate(list(epochs[index]))) for index in range(5)}) == 5


def test_seeds_differ_in_order():
    assert lists(TrainingEpochs(numbered(100), 10, seed=0)[0]) != lists(TrainingEpochs(numbered(100), 10, seed=1)[0])


def test_an_epoch_of_one_seed_is_not_that_of_another_shifted():
    assert lists(TrainingEpochs(numbered(100), 10, seed=0)[1]) != lists(TrainingEpochs(numbered(100), 10, seed=1)[0])


def test_other_samples_are_dropped_in_each_epoch():
    epochs = TrainingEpochs(numbered(7), 6)
    dropped = {(set(range(7)) - set(epochs[index][0].tolist())).pop() for index in range(50)}
    assert dropped == set(range(7))


@given(sized(), seeds)
def test_iterating_is_indexing(sizes, seed):
    batches = TrainingEpochs(numbered(sizes[0]), sizes[1], seed)[3]
    assert lists(batches) == [batches[index].tolist() for index in range(len(batches))]


bounds = st.one_of(st.none(), st.integers(-12, 12))


@given(sized(), st.integers(0, 12), st.integers(0, 12))
def test_a_slice_of_a_shuffled_epoch_keeps_its_order(sizes, start, stop):
    batches = TrainingEpochs(numbered(sizes[0]), sizes[1])[2]
    assert lists(batches[start:][:stop]) == lists(batches)[start:][:stop]


def test_samples_stay_together_across_the_leaves_of_a_tree():
    epochs = TrainingEpochs({"image": np.arange(20).reshape(10, 2), "label": 2 * np.arange(10)}, 5)
    batch = epochs[0][0]
    np.testing.assert_array_equal(batch["image"][:, 0], batch["label"])


def test_jax_arrays_are_samples_too():
    assert isinstance(TrainingEpochs(jnp.arange(10), 5)[0][0], np.ndarray)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.bool_])
def test_batches_keep_the_type_of_the_samples(dtype):
    assert TrainingEpochs(np.zeros(10, dtype), 5)[0][0].dtype == dtype


def test_a_training_batch_is_no_view_of_the_samples():
    samples = np.zeros(10)
    TrainingEpochs(samples, 5)[0][0][:] = 1
    assert not samples.any()


def test_a_far_epoch_is_reached_without_passing_those_before():
    assert len(TrainingEpochs(numbered(10), 5)[10**12]) == 2


def test_epochs_have_no_end():
    assert len(list(itertools.islice(TrainingEpochs(numbered(4), 2), 7))) == 7


def test_iterating_over_epochs_is_indexing_them():
    epochs = TrainingEpochs(numbered(9), 2)
    assert [lists(epoch) for epoch in itertools.islice(epochs, 3)] == [lists(epochs[index]) for index in range(3)]


def test_a_slice_of_epochs_is_a_list_of_them():
    epochs = TrainingEpochs(numbered(9), 2)
    assert [lists(epoch) for epoch in epochs[1:4:2]] == [lists(epochs[1]), lists(epochs[3])]


def test_epochs_know_their_size():
    epochs = TrainingEpochs(numbered(9), 2)
    assert (epochs.sample_count, epochs.batch_count, len(epochs[0])) == (9, 4, 4)


def test_the_repr_tells_sizes_and_seed():
    assert (
        repr(TrainingEpochs(numbered(9), 2, 3)) == "TrainingEpochs(9 samples, batch_size=2, 4 batches an epoch, seed=3)"
    )


def test_a_slice_of_epochs_without_end_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"counted from 0 and have no end.*epochs\[:10\]"):
        TrainingEpochs(numbered(4), 2)[1:]


def test_a_slice_of_epochs_from_the_end_is_refused():
    with pytest.raises((ValueError, IndexError), match="no end"):
        TrainingEpochs(numbered(4), 2)[:-1]


def test_an_epoch_before_the_first_is_refused():
    with pytest.raises(IndexError, match="counted from 0 and have no end, got -1"):
        TrainingEpochs(numbered(4), 2)[-1]


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches])
@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(make, batch_size):
    with pytest.raises(
        ValueError, match=f"{make.__name__}: `batch_size` must be a whole number of at least 1, got {batch_size}"
    ):
        make(numbered(4), batch_size)


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches])
def test_a_batch_size_that_is_no_whole_number_is_refused(make):
    with pytest.raises((TypeError, ValueError), match=r"`batch_size`.*2\.5"):
        make(numbered(4), 2.5)


def test_a_batch_larger_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="at most the number of samples, 4, got 5; an epoch would have no batch"):
        TrainingEpochs(numbered(4), 5)


def test_a_seed_below_zero_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`seed`.*-1"):
        TrainingEpochs(numbered(4), 2, seed=-1)


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches])
def test_leaves_of_unequal_length_are_refused_with_their_lengths(make):
    with pytest.raises(ValueError, match=rf"{make.__name__}: .*share one leading axis, got lengths \[0\]: 4, \[1\]: 3"):
        make((numbered(4), numbered(3)), 2)


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches])
@pytest.mark.parametrize(
    ("samples", "found"), [(np.float32(1), "samples: None"), ((), "no array"), ({"image": np.float32(1)}, "image")]
)
def test_samples_without_a_leading_axis_are_refused(make, samples, found):
    with pytest.raises(ValueError, match=f"share one leading axis, got lengths .*{found}"):
        make(samples, 1)


def test_long_lists_of_numbers_are_refused_in_a_short_message():
    with pytest.raises(ValueError, match="share one leading axis") as error:
        in_batches((np.zeros((1000, 3)), [0] * 1000), 10)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("make", [TrainingEpochs, in_batches])
def test_no_samples_are_refused(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: there are no samples"):
        make(np.zeros((0, 3)), 1)


def test_mapped_epochs_are_epochs_of_mapped_batches():
    epochs = TrainingEpochs(numbered(6), 2)
    mapped = epochs.map(lambda batch: batch * 10).map(lambda batch: batch + 1)
    expected = [[batch * 10 + 1 for batch in epoch] for epoch in epochs[:3]]
    np.testing.assert_array_equal([list(epoch) for epoch in mapped[:3]], expected)
    np.testing.assert_array_equal(list(mapped[2]), expected[2])
    np.testing.assert_array_equal(list(next(iter(mapped))), expected[0])


@pytest.mark.parametrize("arguments", [([1, 2, 3, 4],), (np.arange(4),)])
def test_only_arrays_that_are_stacked_can_be_resident(arguments):
    collate = {} if isinstance(arguments[0], list) else {"collate": np.stack}
    with pytest.raises(ValueError, match=r"TrainingEpochs: only arrays that are stacked can be `resident`, got "):
        TrainingEpochs(*arguments, 2, resident=True, **collate)
