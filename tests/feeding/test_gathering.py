"""Gathering: neighbouring batches are drawn from arrays at once, whole or only some rows of each."""

from typing import Any

import numpy as np
import pytest

from jaxloop.data import TrainingEpochs, in_batches
from jaxloop.feeding.contract import Contract
from jaxloop.feeding.gathering import Gathering, can_gather, gathered_kind
from jaxloop.feeding.reading import Reader

READER = Reader("training")


def pairs(count: int) -> Any:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2), np.arange(count, dtype=np.int32)


def gathering(batches: Any, rows: Any = None, watch: Any = None, **options: Any) -> Gathering:
    contract = Contract("training", gathered_kind(batches, READER), True, **options)
    return Gathering(batches, READER, contract, None, watch, rows)


def targets(gathering: Gathering, steps: int, start: int = 0) -> list[Any]:
    end = gathering.until(start, steps)
    return [(spec.steps, batch[1].tolist()) for spec, batch in gathering.chunks(steps, start, end)]


def test_batches_drawn_from_arrays_can_be_gathered_and_mapped_ones_cannot():
    batches = in_batches(pairs(6), 2)
    assert can_gather(batches)
    assert not can_gather(batches.map(lambda batch: batch))
    assert not can_gather(list(batches))


def test_the_kind_is_known_though_no_batch_was_read():
    kind = gathered_kind(in_batches(pairs(6), 4), READER)
    assert [shape for shape, _ in kind.kinds] == [(4, 2), (4,)]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_some_rows_of_each_batch_are_those_of_the_whole(steps):
    batches = TrainingEpochs(pairs(30), 6)[2]
    whole = np.concatenate([np.reshape(target, (-1, 6)) for _, target in targets(gathering(batches), steps)])
    for rows in (slice(0, 3), slice(3, 6), np.array([0, 2, 5])):
        some = np.concatenate([np.atleast_2d(target) for _, target in targets(gathering(batches, rows), steps)])
        np.testing.assert_array_equal(some, whole[:, rows])


def test_the_specification_is_that_of_the_whole_batch_though_some_rows_are_gathered():
    one = gathering(in_batches(pairs(12), 6), slice(0, 2))
    ((spec, (input, target, _)),) = one.chunks(2, 0, 2)
    assert (spec.batch.batch_size, input.shape, target.shape) == (6, (2, 2, 2), (2, 2))


def test_weights_are_added_for_just_these_rows():
    one = gathering(in_batches(pairs(12), 6), np.array([0, 5]), short="filled")
    ((_, batch),) = one.chunks(2, 0, 2)
    assert batch[2].tolist() == [[1, 1], [1, 1]]


def test_what_watches_sees_the_rows_that_were_gathered():
    seen = []
    one = gathering(in_batches(pairs(8), 4), slice(2, 4), lambda index, count, batch: seen.append((index, batch[1])))
    list(one.chunks(1, 0, 2))
    assert [(index, target.tolist()) for index, target in seen] == [(0, [2, 3]), (1, [6, 7])]


def test_nothing_is_gathered_where_each_batch_is_filled_up():
    assert gathering(in_batches(pairs(8), 4), short="filled", parts=8).until(0, 1) == 0
    assert gathering(in_batches(pairs(8), 4), short="filled", parts=2).until(0, 1) == 2
