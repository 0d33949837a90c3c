"""Checksums of batches: of all their bytes, or of a sample that costs little."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
import math
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

#: Numbers of an array that a sample takes.
_SAMPLED = 512
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def first_batch_mark(batch: Any) -> int:
    """CRC-32 of a whole batch: its structure, and the dtype, shape and bytes of each array.

    Args:
      batch: arrays of NumPy, JAX, torch or another library, nested in tuples, lists, mappings and other pytrees.
    """
    return _of(batch, 0, None)


def sampled(batch: Any, before: int = 0) -> int:
    """CRC-32 of a batch that goes on from the one `before`. Of a large array it takes some numbers, evenly spread."""
    return _of(batch, before, _SAMPLED)


def _of(node: Any, before: int, most: int | None) -> int:
    kind = type(node)
    if kind is np.ndarray:
        return _of_array(node, before, most)
    if kind is tuple or kind is list:
        before = crc32(b"(%d" % len(node), before)
        for part in node:
            before = _of(part, before, most)
        return before
    if isinstance(node, jax.Array):
        return _of_jax(node, before, most)
    if isinstance(node, Mapping):
        before = crc32(b"{%d" % len(node), before)
        for key in sorted(node, key=repr):
            before = _of(node[key], crc32(repr(key).encode(), before), most)
        return before
    if isinstance(node, _PLAIN):
        return crc32(f"{kind.__name__} {node!r}".encode(), before)
    return _of_other(node, before, most)


def _of_other(node: Any, before: int, most: int | None) -> int:
    """Arrays of other libraries, and nodes of pytrees. Of anything else only the type is known."""
    array = _as_numpy(node)
    if array is not None:
        return _of_array(array, before, most)
    before = crc32(type(node).__qualname__.encode(), before)
    parts = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
    for part in () if len(parts) == 1 and parts[0] is node else parts:
        before = _of(part, before, most)
    return before


def _of_array(array: np.ndarray, before: int, most: int | None) -> int:
    if array.dtype.hasobject:
        parts = array.reshape(-1)[:: _step(array.size, most)].tolist()
        return _of(parts, crc32(repr(array.shape).encode(), before), most)
    before = crc32(_header(array.dtype, array.shape), before)
    if most is None:
        return crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, before)
    if array.size <= most:
        return crc32(array.tobytes(), before)
    if array.flags.c_contiguous:
        return crc32(array.reshape(-1)[:: _step(array.size, most)].tobytes(), before)
    return crc32(array[_places(array.shape, most)].tobytes(), before)


@functools.lru_cache(256)
def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    return f"{dtype}{shape}".encode()


@functools.lru_cache(64)
def _places(shape: tuple[int, ...], most: int) -> tuple[np.ndarray, ...]:
    """The same places that a contiguous array gives, so that how an array lies in memory makes no difference."""
    size = math.prod(shape)
    return np.unravel_index(np.arange(0, size, _step(size, most)), shape)


def _step(size: int, most: int | None) -> int:
    """Odd: it runs through the columns of rows whose length is even, as most are."""
    return 1 if most is None or size <= most else (size // most) | 1


def _of_jax(array: jax.Array, before: int, most: int | None) -> int:
    """As of the same numbers in NumPy. From another device than a CPU only the sample is fetched."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if not array.is_fully_addressable:
        return _of_array(np.asarray(array.addressable_data(0)), before, most)
    if most is None or array.size <= most or all(device.platform == "cpu" for device in array.devices()):
        return _of_array(np.asarray(array), before, most)
    return crc32(
        np.asarray(_some(array, _step(array.size, most))).tobytes(), crc32(_header(array.dtype, array.shape), before)
    )


@functools.partial(jax.jit, static_argnums=1)
def _some(array: jax.Array, step: int) -> jax.Array:
    return array.reshape(-1)[::step]


def _as_numpy(node: Any) -> np.ndarray | None:
    """An array of another library in NumPy; None if it is none."""
    if hasattr(node, "detach"):  # torch: a gradient, a device or a dtype that NumPy lacks would be in the way
        node = node.detach().cpu()
        try:
            return node.numpy()
        except (TypeError, RuntimeError):
            return node.contiguous().reshape(-1).view(_bytes_of(node)).numpy()
    if hasattr(node, "__array__") or isinstance(node, np.generic):
        return np.asarray(node)
    return None


def _bytes_of(tensor: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]  # the tensor has imported it

    return torch.uint8
