"""Packing: the arrays of a batch in one, and back."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxloop.feeding import packing as module
from jaxloop.feeding.specification import specification
from tests import small

DTYPES = ["int32", "uint32", "float32", "int64", "float64"]


@st.composite
def samples(draw):
    """Six samples of two to four arrays each, of any shape, structure and bits."""
    leaves = [
        draw(arrays.arrays(draw(st.sampled_from(DTYPES)), (6, *draw(arrays.array_shapes(min_dims=0, max_side=3)))))
        for _ in range(draw(st.integers(2, 4)))
    ]
    return draw(st.sampled_from([(leaves, None, None), ({"a": leaves[0], "b": leaves[1]}, leaves[2:], None)]))


def packing_of(samples, batch_size):
    """The packing of batches of that size, each as input and target."""
    return module.packing_of(specification(jax.tree.map(lambda leaf: leaf[:batch_size], samples)))


def packed(packing, samples, chosen):
    """Batches of the rows that are chosen for each, packed."""
    words, columns = packing.places(len(chosen))
    for place, rows in enumerate(chosen):
        for column, leaf in zip(columns, jax.tree.leaves(samples), strict=True):
            column[place] = leaf[rows]
    return list(words)


def as_jax_has_it(leaf):
    return leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype))


def gathered(samples, rows):
    return jax.tree.map(lambda leaf: leaf[rows], samples)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(samples(), st.sampled_from([slice(2, 5), np.array([4, 0, 4])]))
def test_what_is_packed_is_unpacked_in_a_program_as_jax_would_have_taken_it(samples, rows):
    packing = packing_of(samples, 3)
    (words,) = packed(packing, samples, [rows])
    small.assert_trees_equal(packing.split(words), jax.tree.map(as_jax_has_it, gathered(samples, rows)))
    assert (words.shape, words.dtype) == (packing.abstract.shape, packing.abstract.dtype)
    small.assert_trees_equal(jax.jit(packing.unpack)(words), jax.jit(lambda batch: batch)(gathered(samples, rows)))


def test_each_batch_has_memory_of_its_own_that_xla_takes_in_place():
    samples = np.arange(5, dtype=np.float32), np.arange(5, dtype=np.int32)
    packing = packing_of(samples, 1)
    batches = [
        *packed(packing, samples, [np.array([row]) for row in range(3)]),
        *packed(packing, samples, [slice(3, 4)] * 2),
    ]
    assert [words.ctypes.data % 64 for words in batches] == [0] * 5
    assert not any(np.shares_memory(one, other) for one in batches for other in batches if one is not other)


def test_packings_of_batches_of_one_kind_are_equal():
    one, other = (packing_of((np.full((4, 2), value, np.float32), np.arange(4)), 2) for value in (0, 1))
    assert (one, hash(one)) == (other, hash(other))
    assert one != packing_of((np.zeros((4, 3), np.float32), np.arange(4)), 2)


@pytest.mark.parametrize(
    "samples",
    [
        (np.zeros((4, 2), np.float32), None),
        (np.zeros((4, 2), np.uint8), np.arange(4, dtype=np.int32)),
        (np.zeros((4, 2), np.float32), np.array(["a", "b", "c", "d"])),
        (np.zeros((4, 2), np.float32), np.array([None] * 4)),
        (np.zeros((4, 20_000), np.float32), np.arange(4, dtype=np.int32)),
    ],
    ids=["one array", "bytes", "texts", "objects", "large"],
)
def test_what_gains_nothing_is_not_packed(samples):
    assert packing_of(samples, 2) is None


def test_where_jax_has_64_bits_they_are_kept():
    samples = np.zeros(4, np.float32), np.arange(4, dtype=np.int64)
    with jax.enable_x64(True):
        assert packing_of(samples, 2) is None
    assert packing_of(samples, 2) is not None
