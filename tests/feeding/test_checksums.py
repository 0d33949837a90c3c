"""Checksums of batches, whole and of a sample."""

import zlib
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding import checksums
from jaxloop.feeding.checksums import first_batch_mark, sampled

LARGE = np.arange(60_000, dtype=np.float32).reshape(100, 600)


def test_each_byte_of_a_batch_counts() -> None:
    batch = np.zeros((4, 1000), np.float32), np.arange(4)
    changed = batch[0].copy(), batch[1]
    changed[0][3, 998] = 1e-30
    assert first_batch_mark(batch) == first_batch_mark((batch[0].copy(), batch[1].copy()))
    assert first_batch_mark(batch) != first_batch_mark(changed)


def test_it_is_the_crc_of_header_and_bytes() -> None:
    array = np.arange(3, dtype=np.int32)
    assert first_batch_mark(array) == zlib.crc32(array.tobytes(), zlib.crc32(b"int32(3,)"))


@pytest.mark.parametrize("checksum", [first_batch_mark, sampled])
def test_structure_shape_and_dtype_count(checksum: Any) -> None:
    zeros = np.zeros(4, np.float32)
    batches = [zeros, (zeros,), (zeros, zeros), {"a": zeros}, {"b": zeros}, zeros.reshape(2, 2), zeros.view(np.int32)]
    batches += [None, 0, 0.0, False, "0", b"0", [], {}, np.array(["a", "b"], object), np.array(["a", "c"], object)]
    assert len({checksum(batch) for batch in batches}) == len(batches)


@pytest.mark.parametrize("checksum", [first_batch_mark, sampled])
def test_how_an_array_lies_in_memory_makes_no_difference(checksum: Any) -> None:
    for array in (LARGE, LARGE[:2, :3]):
        expected = checksum(array)
        assert checksum(np.asfortranarray(array)) == checksum(jnp.asarray(array)) == expected
        assert checksum(array.view(type("Mapped", (np.ndarray,), {}))) == expected
    assert checksum({"a": 1, "b": 2}) == checksum(OrderedDict(b=2, a=1))


def test_a_sample_goes_on_from_the_batch_before() -> None:
    assert len({sampled(LARGE), sampled(LARGE, 1), sampled(LARGE + 1), sampled(LARGE[::-1])}) == 4


def test_a_sample_that_is_fetched_from_a_device_is_that_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampled((LARGE, LARGE[0, :4]))

    class Elsewhere:
        platform = "other"

    array = jnp.asarray(LARGE)
    monkeypatch.setattr(type(array), "devices", lambda self: {Elsewhere()})
    assert sampled((array, LARGE[0, :4])) == expected


def test_keys_bfloat16_and_numbers_of_numpy_have_checksums() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    assert sampled(keys) == first_batch_mark(jax.random.split(jax.random.key(0), 3)) != sampled(keys[::-1])
    assert sampled(jnp.ones(3, jnp.bfloat16)) != sampled(jnp.zeros(3, jnp.bfloat16))
    assert sampled(np.float32(1)) != sampled(np.float32(2))


def test_nodes_of_other_trees_are_looked_into() -> None:
    node = jax.tree_util.Partial(len, np.zeros(3))
    assert sampled(node) != sampled(jax.tree_util.Partial(len, np.ones(3)))
    assert sampled(object()) == sampled(object())


def test_tensors_of_torch_are_as_arrays() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch did not install", exc_type=ImportError)
    tensor = torch.tensor(LARGE, requires_grad=True)
    assert sampled(tensor) == sampled(LARGE)
    assert first_batch_mark(tensor.T) == first_batch_mark(LARGE.T)
    assert sampled(torch.ones(3, dtype=torch.bfloat16)) != sampled(torch.zeros(3, dtype=torch.bfloat16))


def test_a_sample_is_spread_over_all_columns() -> None:
    places = checksums._places((128, 28, 28), 512)
    assert 500 <= len(places[0]) <= 520
    assert all(len(np.unique(axis)) == size for axis, size in zip(places, (128, 28, 28), strict=True))
