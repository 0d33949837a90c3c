"""A fingerprint changes with any bit, and with nothing else."""

import threading

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.checkpoint.fingerprint import compile_snapshot, fingerprints, snapshot
from tests.compiling import counted_compiles
from tests.devices import run_on_devices

DTYPES = (
    *("bool", "int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
    *("float16", "bfloat16", "float32", "complex64", "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e8m0fnu"),
    *("float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
PLAIN = ("int8", "uint16", "int32", "uint32", "float16", "bfloat16", "float32", "complex64", "float8_e4m3fn")


def marks(*leaves) -> list[list[int]]:
    return np.asarray(fingerprints([jnp.asarray(leaf) for leaf in leaves])).tolist()


def by_hand(array: np.ndarray) -> list[int]:
    """The formula again, in Python's integers."""
    size = {1: "u1", 2: "u2"}.get(array.dtype.itemsize, "u4")
    sums = []
    for seed in (0x9E3779B9, 0x85EBCA6B):
        total = 0
        for place, word in enumerate(np.ascontiguousarray(array).reshape(-1).view(size).tolist()):
            mixed = (place + seed) % 2**32
            mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B % 2**32
            mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 % 2**32
            total += word * ((mixed ^ (mixed >> 16)) | 1)
        sums.append(total % 2**32)
    return sums


@pytest.mark.parametrize("dtype", PLAIN)
def test_the_sums_are_those_of_the_formula(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(jnp.dtype(dtype))
    assert marks(array) == [by_hand(array)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_snapshot_takes_every_dtype(dtype: str) -> None:
    leaf = jnp.ones((3, 5), dtype)
    (copy,), found = snapshot([leaf])
    assert (copy.dtype, copy.shape) == (leaf.dtype, leaf.shape)
    assert np.asarray(copy).tobytes() == np.asarray(leaf).tobytes()
    assert found.shape == (1, 2)
    assert np.asarray(found).tolist() == marks(leaf) != marks(jnp.zeros((3, 5), dtype))


@hypothesis.given(st.sampled_from(PLAIN), st.integers(0, 12 * 64 - 1), st.integers(0, 2**32 - 1))
def test_any_single_changed_bit_is_seen(dtype: str, bit: int, seed: int) -> None:
    content = bytearray(np.random.default_rng(seed).bytes(12 * jnp.dtype(dtype).itemsize))
    before = jnp.asarray(np.frombuffer(bytes(content), jnp.dtype(dtype)).reshape(3, 4))
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    after = jnp.asarray(np.frombuffer(bytes(content), jnp.dtype(dtype)).reshape(3, 4))
    old, new = marks(before)[0], marks(after)[0]
    assert old[0] != new[0]
    assert old[1] != new[1]


@pytest.mark.parametrize("dtype", ["bool", "int2", "uint2", "int4", "uint4", "float4_e2m1fn"])
def test_every_value_of_a_small_dtype_is_told_from_the_others(dtype: str) -> None:
    bits = {"bool": 1, "int2": 2, "uint2": 2}.get(dtype, 4)
    values = np.arange(2**bits, dtype=np.uint8)
    if dtype == "float4_e2m1fn":
        all_values = jax.lax.bitcast_convert_type(jnp.asarray(values).astype(jnp.uint4), jnp.dtype(dtype))
    else:
        all_values = jnp.asarray(values.astype(jnp.dtype(dtype)))
    assert len({tuple(marks(all_values[i : i + 1])[0]) for i in range(2**bits)}) == 2**bits


def test_two_words_that_change_places_are_seen() -> None:
    assert marks(np.array([1, 2, 3])) != marks(np.array([2, 1, 3]))


def test_zero_leaves_and_empty_and_single_elements() -> None:
    copies, found = snapshot([])
    assert copies == []
    assert found.shape == (0, 2)
    assert marks(np.zeros((0, 3), np.float32), np.uint32(0)) == [[0, 0], [0, 0]]
    assert marks(np.float32(1)) == [by_hand(np.float32([1]))]


def test_nan_payloads_and_minus_zero_are_kept_and_told_apart() -> None:
    bits = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0, 0x80000000], np.uint32)
    (copy,), _ = snapshot([jnp.asarray(bits.view(np.float32))])
    assert np.asarray(copy).view(np.uint32).tolist() == bits.tolist()
    assert len({tuple(marks(np.float32([value]))[0]) for value in [0.0, -0.0]}) == 2
    single = [tuple(marks(bits[i : i + 1].view(np.float32))[0]) for i in range(6)]
    assert len(set(single)) == 6


def test_a_snapshot_has_buffers_of_its_own() -> None:
    leaf = jnp.arange(1000.0)
    (copy,), _ = snapshot([leaf])
    assert copy.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    leaf.delete()
    assert float(copy[999]) == 999


def test_a_snapshot_of_the_same_shapes_compiles_once() -> None:
    leaves = [jnp.ones((7, 3)), jnp.ones(2)]
    snapshot(leaves)
    again = [leaf + 1 for leaf in leaves]
    with counted_compiles() as counts:
        snapshot(again)
    assert not counts


def test_what_was_compiled_ahead_in_another_thread_is_not_compiled_again() -> None:
    leaves = jax.device_put([np.ones((9, 5), np.float32), np.ones(3, np.int8)], jax.devices()[0])
    kinds = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in leaves]
    with counted_compiles() as ahead:
        thread = threading.Thread(target=compile_snapshot, args=[kinds])
        thread.start()
        thread.join()
    with counted_compiles() as counts:
        copies, found = snapshot(leaves)
    assert dict(ahead) == {"jit(snapshot)": 1}
    assert not counts
    assert np.asarray(found).tolist() == marks(*leaves)
    assert [copy.sharding for copy in copies] == [leaf.sharding for leaf in leaves]


def test_a_nan_is_no_fault_where_jax_looks_for_them() -> None:
    leaf = jnp.full(3, jnp.nan)
    with jax.debug_nans(True):
        snapshot([leaf])


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxloop.checkpoint.fingerprint import fingerprints, snapshot

mesh = jax.make_mesh((4, 2), ("x", "y"))
for dtype in ("float32", "bfloat16", "int8", "bool", "complex64", "int4"):
    whole = jnp.asarray(np.random.default_rng(0).integers(0, 2, (8, 6)).astype(jnp.dtype(dtype)))
    expected = np.asarray(fingerprints([whole])).tolist()
    for spec in (PartitionSpec(), PartitionSpec("x"), PartitionSpec(None, "y"), PartitionSpec(("x", "y")),
                 PartitionSpec("y", None)):
        leaf = jax.device_put(whole, NamedSharding(mesh, spec))
        (copy,), found = snapshot([leaf])
        assert np.asarray(found).tolist() == expected, (dtype, spec)
        assert copy.sharding == leaf.sharding, (copy.sharding, leaf.sharding)
        pointers = lambda a: {s.data.unsafe_buffer_pointer() for s in a.addressable_shards}
        assert not pointers(copy) & pointers(leaf)
"""


@pytest.mark.slow
def test_it_does_not_depend_on_how_an_array_is_divided() -> None:
    run_on_devices(SHARDED, 8)


WIDE = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxloop.checkpoint.fingerprint import fingerprints, snapshot
from tests.checkpoint.test_fingerprint import by_hand

for dtype in ("int64", "uint64", "float64", "complex128", "float32"):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    (copy,), found = snapshot([jnp.asarray(array)])
    assert copy.dtype == dtype and found.dtype == "uint32", (copy.dtype, found.dtype)
    assert np.asarray(found).tolist() == [by_hand(array)], dtype
    for bit in range(8 * array.itemsize):
        other = array.copy()
        other.view("u1").reshape(-1)[array.itemsize + bit // 8] ^= 1 << bit % 8
        assert (np.asarray(fingerprints([jnp.asarray(other)]))[0] != np.asarray(found)[0]).all(), (dtype, bit)
"""


def test_numbers_of_64_bits_are_two_words() -> None:
    run_on_devices(WIDE, 1)
