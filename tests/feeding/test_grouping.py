"""Grouping: batches of one kind go together once no more come, or one by one."""

import numpy as np

from jaxloop.feeding.grouping import Group
from jaxloop.feeding.slots import ChunkSpec, HostSlots
from jaxloop.feeding.specification import specification


def group(held: int, places: int = 3) -> Group:
    spec = specification((np.zeros((2, 1), np.float32), np.zeros(2, np.int32), None))
    slots = HostSlots(spec, places)
    for place in range(held):
        slots.write(place, [np.full((2, 1), place, np.float32), np.full(2, place, np.int32)])
    return Group(slots, spec, ChunkSpec(1, spec), places, held)


def given(group: Group, *, mixes: bool) -> list[tuple[int, list[int]]]:
    return [(spec.steps, batch[1].tolist()) for spec, batch in group.given(3, mixes=mixes)]


def test_a_full_group_goes_together():
    assert given(group(3), mixes=False) == [(3, [[0, 0], [1, 1], [2, 2]])]


def test_the_last_group_is_smaller_where_all_batches_are_of_one_kind():
    assert given(group(2), mixes=True) == [(2, [[0, 0], [1, 1]])]


def test_too_few_go_one_by_one_where_others_may_be_of_another_kind():
    assert given(group(2), mixes=False) == [(1, [0, 0]), (1, [1, 1])]


def test_a_single_batch_goes_by_itself():
    assert given(group(1), mixes=True) == [(1, [0, 0])]
