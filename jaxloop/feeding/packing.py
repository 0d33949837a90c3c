"""The arrays of a batch in one array: a small step takes several of them slower than one that it takes apart."""

import functools
import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.feeding.specification import Specification

_WORDS = frozenset(np.dtype(name) for name in ("int32", "uint32", "float32"))
_HALVED = frozenset(np.dtype(name) for name in ("int64", "uint64", "float64"))  # 4 bytes in JAX, by default
_ALIGNMENT = 64  # bytes: XLA's CPU backend copies an array, unless it begins at a multiple of these
_MOST_BYTES = 100_000  # in larger batches, taking them apart costs more than several arrays do


@dataclass(frozen=True)
class Packing:
    """How the arrays of a batch follow each other in an int32 array. Equal for batches of one kind.

    Attributes:
      tree: the structure of the batch, (input, target, weight).
      shapes: the shapes of its arrays.
      dtypes: the dtypes of its arrays in a program, each of 4 bytes.
    """

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @functools.cached_property
    def size(self) -> int:
        """Length of the int32 array."""
        return sum(map(math.prod, self.shapes))

    @property
    def abstract(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the array."""
        return jax.ShapeDtypeStruct((self.size,), np.int32)

    def places(self, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """New memory for `count` packed batches.

        Returns:
          words: int32[count, size]; each batch begins where XLA takes it in place.
          columns: for each array of a batch, its place in all of them: [count, ...] over the same memory.
        """
        stride = -(-self.size * 4 // _ALIGNMENT) * _ALIGNMENT
        memory = np.empty(count * stride + _ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % _ALIGNMENT

        def at(start: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            inner = itertools.accumulate(reversed(shape[1:]), operator.mul, initial=4)
            strides = (stride, *reversed(list(inner))) if shape else (stride,)
            return np.ndarray((count, *shape), dtype, memory, begin + start * 4, strides)

        return at(0, (self.size,), np.int32), [at(start, shape, dtype) for shape, dtype, start in self._places]

    def unpack(self, words: jax.Array) -> Any:
        """The batch in a traced int32[size]."""
        parts = (
            jax.lax.bitcast_convert_type(words[start : start + math.prod(shape)], dtype).reshape(shape)
            for shape, dtype, start in self._places
        )
        return self.tree.unflatten(parts)

    def split(self, words: np.ndarray) -> Any:
        """The batch in an int32[size] of NumPy, over the same memory."""
        parts = (
            words[start : start + math.prod(shape)].view(dtype).reshape(shape) for shape, dtype, start in self._places
        )
        return self.tree.unflatten(parts)

    @functools.cached_property
    def _places(self) -> list[tuple[tuple[int, ...], np.dtype, int]]:
        starts = itertools.accumulate(map(math.prod, self.shapes), initial=0)
        return list(zip(self.shapes, self.dtypes, starts, strict=False))


def packing_of(batches: Specification) -> Packing | None:
    """How such batches are packed; None if that saves nothing, or if their numbers do not have 4 bytes in a program."""
    if len(batches.leaves) < 2:
        return None
    _, shapes, dtypes = zip(*batches.leaves, strict=True)
    if not (_WORDS | _HALVED).issuperset(dtypes):
        return None
    words = tuple(np.dtype(jax.dtypes.canonicalize_dtype(dtype)) for dtype in dtypes)
    packing = Packing(batches.tree, shapes, words)
    return packing if _WORDS.issuperset(words) and packing.size * 4 <= _MOST_BYTES else None
