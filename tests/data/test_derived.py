"""Tests of epochs that are cut elsewhere: the batches are those of the true epochs, in their order."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.data.derived import CutEpochs, MappedEpochs
from jaxloop.feeding.identity import identity_of
from tests import small

SAMPLES = np.arange(11, dtype=np.float32), np.arange(11) * 10
TEXTS = [list(range(length)) for length in (3, 7, 2, 8, 6, 1, 4)]


def padded(samples: list[Any]) -> Any:
    return jl.pad_and_collate(samples, 0)


MAKERS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: jl.TrainingEpochs(SAMPLES, 3, seed=5),
    "source": lambda: jl.TrainingEpochs(list(zip(*SAMPLES, strict=True)), 3, seed=5),
    "mapped": lambda: jl.TrainingEpochs(SAMPLES, 3).map(lambda batch: (batch[0] + 1, batch[1])),
    "resident": lambda: jl.TrainingEpochs(SAMPLES, 3, resident=True).map(lambda batch: batch, compiled=True),
    "nonuniform": lambda: jl.NonuniformTrainingEpochs(TEXTS, 2, collate=padded),
    "list": lambda: jl.repeat([np.full(2, index) for index in range(3)]),
    "loader": lambda: jl.repeat(Loader()),
    "stream": lambda: jl.repeat(Loader(), batch_count=2),
}


class Loader:
    """Three batches, each time again."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return (np.full(2, index) for index in range(3))


def batches_of(epochs: Any, count: int) -> list[Any]:
    return list(itertools.islice(itertools.chain.from_iterable(epochs), count))


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_batches_are_those_of_the_true_epochs(kind: str, count: int) -> None:
    cut = MAKERS[kind]().every(count)
    assert_equal(batches_of(cut, 15), batches_of(MAKERS[kind](), 15))
    assert all(len(epoch) == count for epoch in itertools.islice(iter(cut), 3))


@pytest.mark.parametrize("kind", ["arrays", "source", "mapped", "resident", "nonuniform", "list"])
def test_any_epoch_can_be_looked_up(kind: str) -> None:
    cut = MAKERS[kind]().every(4)
    flat = batches_of(MAKERS[kind](), 24)
    for index in (5, 0, 3, 5):
        assert_equal(list(cut[index]), flat[4 * index : 4 * index + 4])


def test_neighbours_are_stacked_beyond_the_end_of_a_true_epoch() -> None:
    epoch = jl.TrainingEpochs(SAMPLES, 3).every(7)[1]
    assert epoch.can_be_gathered
    assert epoch.full
    assert_equal(epoch.stacked(1, 6), jax.tree.map(lambda *leaves: np.stack(leaves), *list(epoch)[1:7]))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda epochs: pickle.loads(pickle.dumps(epochs))])
def test_what_was_read_is_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    cut = jl.TrainingEpochs(SAMPLES, 3, seed=5).every(2)
    expected = list(cut[3])
    assert_equal(list(again(cut)[3]), expected)


def test_what_is_cut_is_cut_again_and_mapped() -> None:
    epochs = jl.TrainingEpochs(SAMPLES, 3)
    again = epochs.every(2).every(5)
    assert_equal(list(again[1]), list(epochs.every(5)[1]))
    assert isinstance(epochs.every(2).map(lambda batch: batch), MappedEpochs)
    assert [len(epoch) for epoch in epochs.every(2)[:3]] == [2, 2, 2]
    assert repr(again).endswith("seed=0).every(5)")


def test_steps_without_data_are_cut_too() -> None:
    assert [len(epoch) for epoch in itertools.islice(jl.steps(3).every(5), 2)] == [5, 5]


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
@pytest.mark.parametrize("kind", ["arrays", "list", "loader", "stream"])
def test_a_wrong_count_is_refused(kind: str, count: Any) -> None:
    with pytest.raises(ValueError, match="every: `batch_count` must be a whole number of at least 1"):
        MAKERS[kind]().every(count)


def test_an_epoch_before_the_first_is_refused() -> None:
    with pytest.raises(IndexError, match="every: epochs are counted from 0"):
        CutEpochs(jl.TrainingEpochs(SAMPLES, 3), 2)[-1]


def test_what_is_cut_otherwise_is_other_data() -> None:
    epochs = jl.TrainingEpochs(SAMPLES, 3)
    assert len({str(identity_of(data)) for data in (epochs, epochs.every(2), epochs.every(3))}) == 3


@pytest.mark.parametrize("steps_per_dispatch", [1, "auto"])
def test_a_fit_over_cut_epochs_equals_one_over_the_true_ones(steps_per_dispatch: Any) -> None:
    epochs = jl.TrainingEpochs(small.samples(12), 4)
    training_loop = small.training_loop(training=epochs, steps_per_dispatch=steps_per_dispatch)
    whole, _ = training_loop.fit(small.model(), 4)  # 12 steps
    training_loop = small.training_loop(training=epochs.every(2), steps_per_dispatch=steps_per_dispatch)
    cut, history = training_loop.fit(small.model(), 6)
    assert_equal(jax.device_get(cut.model.params), jax.device_get(whole.model.params))
    assert len(history.epochs["validation_loss"]) == 6
    assert list(history.batches["step"]) == list(range(1, 13))
