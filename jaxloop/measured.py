"""Statistics: in which dtype they are kept, and what distinguishes one that was not measured from a diverged one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "UNMEASURED",
    "is_measured",
    "unmeasured",
]


def __dir__() -> list[str]:
    return sorted(__all__)


_FLOAT_BITS = 0x7FC04A4C  # a quiet NaN that no computation gives; R distinguishes its NA from NaN in the same way
UNMEASURED = np.uint32(_FLOAT_BITS).view(np.float32)
"""float32[], what `loop.stats` holds until a statistic is measured: one particular NaN. Any other NaN was measured."""

_DOUBLE_BITS = int(np.float64(UNMEASURED).view(np.int64))
_LEAST = np.finfo(np.float32).min  # replaces it under `jax_debug_nans`, which ends a program that gives any NaN
_INTEGERS = {np.dtype("int32"): np.int32(np.iinfo(np.int32).min), np.dtype("uint32"): np.uint32(0xFFFFFFFF)}
_RANKS = {dtype: rank for rank, dtype in enumerate((*_INTEGERS, np.dtype("float32")))}  # each may become a later one


def looks_into_values() -> bool:
    """Whether JAX is told to run Python line by line, or to find what gives NaN: no program is rewritten then."""
    config: Any = jax.config
    return bool(config.jax_disable_jit or config.jax_debug_nans)


def unmeasured(dtype: Any) -> Any:
    """The NumPy scalar that means "not measured" in a statistic of this dtype.

    For float32 it is one particular NaN. Integers have no NaN: it is the least int32 and the largest uint32. Under
    `jax_debug_nans` it is the least float32 instead of the NaN, since that option shall find only the user's NaNs.

    Example:
      >>> bool(is_measured(unmeasured("float32")))
      False
    """
    return _INTEGERS.get(np.dtype(dtype), _LEAST if _no_nan() else UNMEASURED)


def without_nan(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics as a program may take and give them: under `jax_debug_nans`, unmeasured ones are not NaN."""
    if not _no_nan():
        return stats
    return {name: jnp.where(is_measured(value), value, unmeasured(value.dtype)) for name, value in stats.items()}


def with_nan(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics on the host, or columns of them, as users see them: NaN until measured, in any configuration."""
    if not _no_nan():
        return stats
    return {
        name: np.where(is_measured(value), value, UNMEASURED)[()] if value.dtype == np.float32 else value
        for name, value in stats.items()
    }


def is_measured(value: Any) -> Any:
    """Whether a statistic was measured: False for the value that `loop.stats` holds until then, True for any other NaN.

    On a backend that does not keep the bits of a NaN, a statistic that was not measured counts as measured.

    Args:
      value: a number, an array or a tracer, from `loop.stats`, from rows, or from a `History`.

    Returns:
      bool of the same shape.

    Example:
      >>> [bool(is_measured(value)) for value in (UNMEASURED, float(UNMEASURED), float("nan"), 0.5)]
      [False, False, True, True]
      >>> is_measured(np.array([3, -(2**31)], np.int32))
      array([ True, False])
    """
    if isinstance(value, Tracer):
        bits = jax.lax.bitcast_convert_type
        return _differs(value, lambda: bits(value, jnp.int32), lambda: bits(value, jnp.int64), jnp.ones_like)
    array = np.asarray(value)
    return _differs(array, lambda: array.view(np.int32), lambda: array.view(np.int64), np.ones_like)[()]


def as_floats(column: Any) -> np.ndarray:
    """Statistics as float64 of the same shape, to draw or to compare them: NaN where they were not measured."""
    column = np.asarray(column)
    floats = column.astype(np.float64)
    return floats if column.dtype.kind == "f" else np.where(is_measured(column), floats, np.nan)


def as_number(value: Any) -> float:
    """A statistic as a Python number: an integer as an int, and NaN if it was not measured."""
    if not is_measured(value):
        return float(UNMEASURED)
    return np.asarray(value).item()


def as_statistic(where: str, name: str, value: Any, known: Any = None) -> Any:
    """`value` as the scalar that `loop.stats` keeps: integers as int32 or uint32, all else as float32.

    Args:
      where: who gives it, for messages.
      name: the name of the statistic.
      value: a real number, a NumPy scalar or an array, traced or not.
      known: the dtype that the statistic has already. A Python or NumPy number takes this dtype.

    Raises:
      ValueError: it is not a scalar, not a real number, or an integer that int32 and uint32 cannot hold.
    """
    if (
        isinstance(value, (int, np.integer, np.ndarray))
        and np.ndim(value) == 0
        and np.asarray(value).dtype.kind in "iuO"
    ):
        return _whole(where, name, value, known)  # JAX would cut it to 32 bits without a warning
    array = jnp.asarray(value)
    if array.shape != ():
        raise ValueError(f"{where}: {name!r} must be a scalar, got shape {array.shape}. Reduce it, as by jnp.mean.")
    if array.dtype == bool:
        dtype = np.dtype(known or np.float32)
    elif jnp.issubdtype(array.dtype, np.integer):
        dtype = _settled(where, name, _dtype_of_integers(where, name, array), known, array.weak_type)
    elif jnp.issubdtype(array.dtype, np.floating):
        dtype = np.dtype(np.float32)
    else:
        raise ValueError(f"{where}: {name!r} must be a real number, got {array.dtype}. Record its real part or abs.")
    return jax.lax.convert_element_type(array, dtype)


def is_wider(value: Any, than: Any) -> bool:
    """Whether the dtype of `value` is wider than that of `than`, where both are dtypes that statistics are kept in."""
    ranks = [_RANKS.get(getattr(number, "dtype", None), -1) for number in (than, value)]
    return 0 <= ranks[0] < ranks[1]


def _whole(where: str, name: str, value: Any, known: Any) -> Any:
    """`as_statistic` for a whole number of Python or NumPy: its value is known, and can be checked."""
    strong = np.dtype(np.uint32 if getattr(value, "dtype", None) == np.uint32 else np.int32)
    dtype, number = _settled(where, name, strong, known, weak=True), int(value)
    if dtype == np.float32:
        held = abs(number) < 2**127 and int(np.float32(number)) == number
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        held = least <= number <= most and number != int(unmeasured(dtype))
    if not held:
        raise ValueError(
            f"{where}: {name!r} is {number}, which {dtype.name} does not hold. Record it in parts, in a larger unit, "
            "or as a float, which rounds it."
        )
    return jnp.asarray(dtype.type(number))


def _dtype_of_integers(where: str, name: str, array: Any) -> np.dtype:
    """The integer dtype in which an array of integers is kept."""
    if array.dtype == np.uint32 and not array.weak_type:
        return np.dtype(np.uint32)
    if array.weak_type or np.can_cast(array.dtype, np.int32):
        return np.dtype(np.int32)
    raise ValueError(
        f"{where}: {name!r} is {array.dtype.name}, and integers are kept in 32 bits. Write `.astype(jnp.int32)` if "
        "that can hold it, or `.astype(jnp.float32)`, which rounds it."
    )


def _settled(where: str, name: str, dtype: np.dtype, known: Any, weak: bool) -> np.dtype:
    """The dtype of a statistic that has the dtype `known` already. A weakly typed number takes `known`."""
    if known is None or _RANKS[dtype] >= _RANKS.get(np.dtype(known), len(_RANKS) - 1):
        return dtype
    if weak:
        return np.dtype(known)
    raise ValueError(
        f"{where}: {name!r} is {np.dtype(known).name} elsewhere and {dtype.name} here, and the former cannot hold all "
        f"of the latter. Give it one dtype everywhere, as by `.astype(jnp.{np.dtype(known).name})`."
    )


def _no_nan() -> bool:
    config: Any = jax.config
    return config.jax_debug_nans


def _differs(array: Any, bits: Any, double_bits: Any, ones_like: Any) -> Any:
    """Whether each element differs from every value that means "not measured"."""
    dtype = array.dtype
    if dtype == np.float32:
        measured = bits() != _FLOAT_BITS
        return measured & (array != _LEAST) if _no_nan() else measured
    if dtype == np.float64:
        measured = double_bits() != _DOUBLE_BITS
        return measured & (array != float(_LEAST)) if _no_nan() else measured
    if dtype in _INTEGERS:
        return array != _INTEGERS[dtype]
    if dtype == np.int64:  # NumPy's dtype for Python's integers
        return array != int(_INTEGERS[np.dtype("int32")])
    return ones_like(array, dtype=bool)
