"""Slots: each batch is written once, filled up where it is short, and travels by itself or with others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.contract import contract_of
from jaxloop.feeding.slots import ChunkSpec, DeviceSlots, HostSlots, slots_for
from jaxloop.placement import resolve

INPUT = np.arange(6, dtype=np.float32).reshape(3, 2)
TARGET = np.arange(3, dtype=np.int32)
PLACEMENT = resolve(None)


def place(size, weight=None):
    """What a filled place of `size` examples is like."""
    tile = np.resize(INPUT, (size, 2)), np.resize(TARGET, size), weight
    return contract_of(tile, "validation", short="filled").ready


def slots(kind, spec, count):
    return HostSlots(spec, count) if kind == "host" else DeviceSlots(spec, PLACEMENT)


def leaves_of(kind, *leaves):
    return [np.asarray(leaf) if kind == "host" else jnp.asarray(leaf) for leaf in leaves]


KINDS = pytest.mark.parametrize("kind", ["host", "device"])


@KINDS
def test_a_short_batch_is_filled_by_its_last_example_which_then_weighs_nothing(kind):
    made = slots(kind, place(5), 1)
    made.write(0, leaves_of(kind, INPUT, TARGET))
    input, target, weight = made.batch(0)
    assert input.tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert (target.tolist(), weight.tolist()) == ([0, 1, 2, 2, 2], [1, 1, 1, 0, 0])
    assert (input.dtype, target.dtype, weight.dtype) == (np.float32, np.int32, np.float32)


@KINDS
def test_weights_are_kept_in_their_own_shape_and_dtype(kind):
    made = slots(kind, place(4, np.ones((4, 4), np.float16)), 1)
    made.write(0, leaves_of(kind, INPUT, TARGET, np.full((3, 4), 2, np.float16)))
    _, _, filled = made.batch(0)
    assert filled.dtype == np.float16
    assert filled.tolist() == [[2] * 4] * 3 + [[0] * 4]


@KINDS
def test_a_batch_without_an_example_is_filled_by_zeros(kind):
    made = slots(kind, place(2), 1)
    made.write(0, leaves_of(kind, INPUT[:0], TARGET[:0]))
    input, target, weight = made.batch(0)
    assert (input.tolist(), target.tolist(), weight.tolist()) == ([[0, 0]] * 2, [0, 0], [0, 0])


@KINDS
def test_batches_together_have_a_leading_axis_and_weigh_one_each(kind):
    made = slots(kind, place(3), 4)
    for number in range(3):
        made.write(number, leaves_of(kind, INPUT + number, TARGET + number))
    input, target, weight = made.together(3)
    assert (input.shape, weight.tolist()) == ((3, 3, 2), [[1, 1, 1]] * 3)
    assert target.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert isinstance(input, jax.Array) == (kind == "device")


@KINDS
def test_each_is_copied_as_it_is_written_from_memory_that_is_used_again(kind):
    made, memory = slots(kind, place(3), 2), TARGET.copy()
    for number in range(2):
        memory[:] = number
        made.write(number, [INPUT, memory])
    assert made.together(2)[1].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_several_graphs_in_a_batch_are_left_as_they_are():
    graphs = {"edges": np.zeros((7, 2)), "nodes": INPUT}, TARGET[:2], None
    contract = contract_of(graphs, "validation", short="filled")
    made = HostSlots(contract.ready, 1)
    made.write(0, contract.fitted(graphs)[0])
    input, target, weight = made.batch(0)
    assert (input["edges"].shape, input["nodes"].tolist(), target.tolist()) == ((7, 2), INPUT.tolist(), [0, 1])
    assert weight is None


def test_arrays_on_the_device_pass_as_the_very_same():
    contract = contract_of((jnp.asarray(INPUT), jnp.asarray(TARGET), None), "training")
    leaves = [jnp.asarray(INPUT), jnp.asarray(TARGET)]
    made = slots_for(contract.ready, leaves, 1, PLACEMENT, None)
    made.write(0, leaves)
    assert (made.alone(0)[0] is leaves[0], made.alone(0)[1] is leaves[1]) == (True, True)


def test_a_chunk_of_one_kind_is_known_by_its_signature_whatever_its_arrays_are_called():
    one = contract_of((INPUT, TARGET.astype(np.int64), None), "training").ready
    other = contract_of((INPUT, TARGET, None), "training").ready
    assert ChunkSpec(1, one).signature == ChunkSpec(1, other).signature  # JAX takes both as int32
    assert ChunkSpec(1, one).signature != ChunkSpec(2, one).signature
    assert ChunkSpec(2, one).abstract[0].shape == (2, 3, 2)
