"""The first wild number of an array, and where it is, found fast."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_AT_ONCE = 2**20  # numbers that are looked at together: what is computed from them stays in the processor's caches


def on_host(leaf: Any) -> np.ndarray | None:
    """An array of numbers in NumPy; None for anything else."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    array = np.asarray(leaf) if isinstance(leaf, (np.ndarray, jax.Array)) else None
    return array if array is not None and array.ndim and array.size else None


def first(
    leaf: np.ndarray,
    suspicious: Callable[[np.ndarray], Any],
    wild: Callable[[np.ndarray], np.ndarray],
    weight: np.ndarray | None,
) -> tuple[int, ...] | None:
    """The index of the first place that is wild and weighs something; None if there is none.

    Args:
      leaf: [examples, ...].
      suspicious: says fast whether a part of `leaf` may hold such a place.
      wild: gives a bool for each place of a part, or for each index along fewer of its axes.
      weight: [examples, ...] or None.
    """
    for start, rows in _parts(leaf):
        if not suspicious(rows):
            continue
        found = wild(rows)
        if weight is not None:
            found = found & _counts(weight[start : start + len(rows)], found.shape)
        if found.any():
            place = np.unravel_index(int(np.argmax(found)), found.shape)
            return (start + int(place[0]), *map(int, place[1:]))
    return None


def beyond(leaf: np.ndarray, least: int, most: int, weight: np.ndarray | None) -> tuple[int, ...] | None:
    """The index of the first integer that is below `least` or above `most` and weighs something."""
    return first(
        leaf,
        lambda rows: rows.min() < least or rows.max() > most,
        lambda rows: (rows < least) | (rows > most),
        weight,
    )


def _parts(leaf: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of an array, some at once, with the index of the first of them."""
    at_once = max(1, _AT_ONCE * len(leaf) // leaf.size)
    return ((start, leaf[start : start + at_once]) for start in range(0, len(leaf), at_once))


def _counts(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which places of an array of `shape` weigh something, to be broadcast; as in `masks`."""
    if shape[: weight.ndim] == weight.shape:
        counts = weight != 0
    elif shape[:1] == weight.shape[:1]:
        counts = np.any(weight != 0, axis=tuple(range(1, weight.ndim)))
    else:
        return np.ones((1,) * len(shape), bool)
    return counts.reshape(*counts.shape, *(1,) * (len(shape) - counts.ndim))


def has_nan(rows: np.ndarray) -> Any:
    """Whether there is a NaN. The minimum is NaN if any number is, and it is found faster."""
    if rows.dtype.name not in ("float32", "float64"):
        return is_nan(rows).any()
    with np.errstate(invalid="ignore"):
        return np.isnan(rows.min())


def is_nan(rows: np.ndarray) -> np.ndarray:
    infinity = {"float16": 0x7C00, "bfloat16": 0x7F80}.get(rows.dtype.name)
    if infinity is None:
        return np.isnan(rows)
    return (rows.view(np.uint16) & np.uint16(0x7FFF)) > infinity  # many times faster than `np.isnan`
