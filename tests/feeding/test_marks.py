"""Marks: another process goes on with the very batch at which a run was, whatever the data are."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from jaxloop.data import NonuniformTrainingEpochs, TrainingEpochs, in_batches, repeat
from jaxloop.errors import StateMismatchError
from jaxloop.feeding.reading import Position, check_ended
from jaxloop.feeding.source import EpochSource


def pairs(count: int) -> Any:
    """Input float32[count, 2] and target int32[count], numbered."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1), np.arange(count, dtype=np.int32)


class Shuffling:
    """A loader whose random state moves on from epoch to epoch."""

    def __init__(self, count: int = 5, seed: int | None = 0):
        self.count, self.random = count, np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        order = self.random.permutation(2 * self.count)
        inputs, targets = pairs(2 * self.count)
        return iter([(inputs[rows], targets[rows]) for rows in order.reshape(self.count, 2)])


def made(training: Any, limit: int | None = None) -> EpochSource:
    """A source as a fit sets it up: the first batch of the first epoch was seen."""
    source = EpochSource(training, limit)
    source.at(0).peek()
    source.watched()
    return source


def taken(source: EpochSource, index: int, start: int = 0, until: int | None = None) -> list[Any]:
    """The targets of an epoch's batches; asked for their end, unless they are read only in part."""
    epoch = source.at(index, start)
    rest, total = epoch.begun_at(start), len(epoch)
    found = [batch[1].tolist() for batch in itertools.islice(rest, (total if until is None else until) - start)]
    if until is None:
        check_ended(epoch, rest, "training", Position(total))
    return found


KINDS: dict[str, Any] = {
    "epochs": lambda: TrainingEpochs(pairs(11), 2),
    "nonuniform": lambda: NonuniformTrainingEpochs(pairs(11), 2, size=lambda pair: float(pair[0][0])),
    "mapped": lambda: TrainingEpochs(pairs(11), 2).map(lambda batch: batch),
    "compiled": lambda: TrainingEpochs(pairs(11), 2).map(lambda batch: batch, compiled=True),
    "resident": lambda: TrainingEpochs(pairs(11), 2, resident=True),
    "list": lambda: repeat(list(in_batches(pairs(10), 2))),
    "list of lists": lambda: [list(in_batches(pairs(count), 2)) for count in (10, 6, 8)],
    "part of a list": lambda: repeat(list(in_batches(pairs(10), 2)), batch_count=3),
    "loader": lambda: repeat(Shuffling()),
    "list of loaders": lambda: [Shuffling()] * 3,
    "stream": lambda: repeat(Shuffling(), batch_count=3),
    "generator": lambda: repeat((batch for _ in range(9) for batch in in_batches(pairs(6), 2)), batch_count=4),
    "iterator of lists": lambda: iter([list(in_batches(pairs(count), 2)) for count in (10, 6, 8)]),
    "iterator of batches": lambda: iter([in_batches(pairs(count), 2) for count in (10, 6, 8)]),
    "iterator of loaders": lambda: iter([Shuffling(3, 1), Shuffling(4, 2), Shuffling(5, 3)]),
}


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_every_place_is_found_again(kind: str, limit: int | None) -> None:
    live = made(KINDS[kind](), limit)
    expected = [taken(live, index) for index in range(3)]
    for index, position in [(each, place) for each in range(3) for place in range(len(expected[each]) + 1)]:
        before = made(KINDS[kind](), limit)
        for earlier in range(index):
            taken(before, earlier)
        if position:
            taken(before, index, 0, position)
        mark = json.loads(json.dumps(before.mark(index, position)))
        after = made(KINDS[kind](), limit)
        after.put_back(index, position, mark, lambda text: None)
        assert after.mark(index, position) == mark  # the next save says the same
        again = [taken(after, index, position), *(taken(after, later) for later in range(index + 1, 3))]
        assert again == [expected[index][position:], *expected[index + 1 :]], (index, position, mark)


def test_another_order_is_refused_with_the_fix() -> None:
    before = made(repeat(Shuffling(seed=None)))
    taken(before, 0)
    with pytest.raises(StateMismatchError, match=r"training: the first 1 batches differ .*manual_seed\(0\).*restore"):
        made(repeat(Shuffling(seed=None))).put_back(1, 0, before.mark(1, 0), lambda text: None)
