"""The short way of batches that are like the first."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.first import First
from jaxloop.feeding.specification import specification

INPUT = np.arange(6, dtype=np.float32).reshape(2, 3)
TARGET = np.arange(2, dtype=np.int64)
FIRST = First(specification((INPUT, TARGET, None)), on_host=True)


def test_the_arrays_of_a_batch_like_it_are_given_as_they_are():
    leaves = FIRST.leaves_of((INPUT, TARGET, None))
    assert leaves is not None
    assert (leaves[0] is INPUT, leaves[1] is TARGET) == (True, True)


@pytest.mark.parametrize(
    "batch",
    [
        (INPUT[:1], TARGET[:1], None),
        (INPUT, TARGET.astype(np.int32), None),
        (INPUT, TARGET, np.ones(2, np.float32)),
        ({"image": INPUT}, TARGET, None),
        (INPUT, 3, None),
    ],
    ids=["shape", "dtype", "weight", "structure", "no array"],
)
def test_a_batch_that_is_not_like_it_has_no_short_way(batch):
    assert FIRST.leaves_of(batch) is None


def test_batches_are_copied_one_by_one_from_memory_that_is_used_again():
    memory = INPUT.copy(), TARGET.copy()

    def batches():
        for number in range(3):
            memory[1][:] = number
            yield memory

    count, (input, target, weight) = FIRST.together(batches(), 4)
    assert (count, input.shape, target.tolist(), weight) == (3, (3, 2, 3), [[0, 0], [1, 1], [2, 2]], None)
    assert (input.dtype, target.dtype) == (np.float32, np.int64)


def test_where_none_comes_there_is_none():
    assert FIRST.together([], 2)[0] == 0


def test_what_lies_on_a_device_is_not_packed():
    first = specification((jnp.asarray(INPUT), jnp.asarray(TARGET), None))
    assert First(first, on_host=False).packing is None
    assert FIRST.packing is not None
