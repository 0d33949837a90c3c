"""Statistics: which numbers they are kept as, and how one that was not measured is told from one that has diverged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_FLOAT_BITS = 0x7FC04A4C  # a quiet NaN that no computation gives, as R tells its NA from NaN
UNMEASURED = np.uint32(_FLOAT_BITS).view(np.float32)
"""float32[], what `loop.stats` holds until a statistic is measured: a NaN of its own. Any other NaN was measured."""

_DOUBLE_BITS = int(np.float64(UNMEASURED).view(np.int64))
_LEAST = np.finfo(np.float32).min  # stands for it under `jax_debug_nans`, which ends a program that gives any NaN
_INTEGERS = {np.dtype("int32"): np.int32(np.iinfo(np.int32).min), np.dtype("uint32"): np.uint32(0xFFFFFFFF)}
_RANKS = {dtype: rank for rank, dtype in enumerate((*_INTEGERS, np.dtype("float32")))}  # each may become a later one


def unmeasured(dtype: Any) -> Any:
    """What stands for "not measured" in a statistic of this dtype, a NumPy scalar.

    A NaN of its own for float32, and for integers, which have none, the least int32 and the largest uint32. Under
    `jax_debug_nans` it is the least float32 in place of the NaN: what that looks for are NaNs that are none of ours.
    """
    return _INTEGERS.get(np.dtype(dtype), _LEAST if _no_nan() else UNMEASURED)


def without_nan(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics as a program may take and give them: what was not measured is no NaN under `jax_debug_nans`."""
    if not _no_nan():
        return stats
    return {name: jnp.where(is_measured(value), value, unmeasured(value.dtype)) for name, value in stats.items()}


def with_nan(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics on the host, or columns of them, as users see them: NaN until measured, whatever stood for that."""
    if not _no_nan():
        return stats
    return {
        name: np.where(is_measured(value), value, UNMEASURED)[()] if value.dtype == np.float32 else value
        for name, value in stats.items()
    }


def is_measured(value: Any) -> Any:
    """Whether a statistic was measured: False for what `loop.stats` holds until then, True for any other NaN.

    A backend that does not keep the bits of a NaN makes "not measured" a NaN like others, which counts as measured.

    Args:
      value: a number, an array, or what is traced; of `loop.stats`, of rows, or of a `History`.

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
    """Statistics as float64 of the same shape, NaN where they were not measured: to be drawn, or judged."""
    column = np.asarray(column)
    floats = column.astype(np.float64)
    return floats if column.dtype.kind == "f" else np.where(is_measured(column), floats, np.nan)


def as_number(value: Any) -> float:
    """A statistic as a Python number: an int stays one, and what was not measured is a NaN."""
    if not is_measured(value):
        return float(UNMEASURED)
    return np.asarray(value).item()


def as_statistic(where: str, name: str, value: Any, known: Any = None) -> Any:
    """`value` as the scalar that `loop.stats` keeps: integers as int32 or uint32, all else as float32.

    Args:
      where: who gives it, for messages.
      name: of the statistic.
      value: a real number, a NumPy scalar or an array, traced or not.
      known: the dtype that the statistic has already. A number of Python's or NumPy's takes it on.

    Raises:
      ValueError: it is no scalar, no real number, or an integer that cannot be kept as it is.
    """
    if (
        isinstance(value, (int, np.integer, np.ndarray))
        and np.ndim(value) == 0
        and np.asarray(value).dtype.kind in "iuO"
    ):
        return _whole(where, name, value, known)  # JAX would cut it to 32 bits in silence
    array = jnp.asarray(value)
    if array.shape != ():
        raise ValueError(f"{where}: {name!r} must be a scalar, got shape {array.shape}. Reduce it, by jnp.mean or so.")
    if array.dtype == bool:
        dtype = np.dtype(known or np.float32)
    elif jnp.issubdtype(array.dtype, np.integer):
        dtype = _settled(where, name, _dtype_of_integers(where, name, array), known, array.weak_type)
    elif jnp.issubdtype(array.dtype, np.floating):
        dtype = np.dtype(np.float32)
    else:
        raise ValueError(f"{where}: {name!r} must be a real number, got {array.dtype}. Record a part of it, or abs.")
    return jax.lax.convert_element_type(array, dtype)


def is_wider(value: Any, than: Any) -> bool:
    """Whether a statistic has become of a dtype that its last one does not hold, both of them dtypes that are kept."""
    ranks = [_RANKS.get(getattr(number, "dtype", None), -1) for number in (than, value)]
    return 0 <= ranks[0] < ranks[1]


def _whole(where: str, name: str, value: Any, known: Any) -> Any:
    """A whole number of Python's or NumPy's, whose value is known."""
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
    """As which integers those of an array are kept."""
    if array.dtype == np.uint32 and not array.weak_type:
        return np.dtype(np.uint32)
    if array.weak_type or np.can_cast(array.dtype, np.int32):
        return np.dtype(np.int32)
    raise ValueError(
        f"{where}: {name!r} is {array.dtype.name}, and integers are kept in 32 bits. Write `.astype(jnp.int32)` where "
        "that holds it, or `.astype(jnp.float32)`, which rounds it."
    )


def _settled(where: str, name: str, dtype: np.dtype, known: Any, weak: bool) -> np.dtype:
    """The dtype for a statistic of which `known` is had already; weak numbers take that on."""
    if known is None or _RANKS[dtype] >= _RANKS.get(np.dtype(known), len(_RANKS) - 1):
        return dtype
    if weak:
        return np.dtype(known)
    raise ValueError(
        f"{where}: {name!r} is {np.dtype(known).name} elsewhere and {dtype.name} here, which it may not hold. Give it "
        f"one dtype everywhere, as by `.astype(jnp.{np.dtype(known).name})`."
    )


def _no_nan() -> bool:
    config: Any = jax.config
    return config.jax_debug_nans


def _differs(array: Any, bits: Any, double_bits: Any, ones_like: Any) -> Any:
    """Whether what is in an array is none of the values that stand for "not measured"."""
    dtype = array.dtype
    if dtype == np.float32:
        return (bits() != _FLOAT_BITS) & (array != _LEAST)
    if dtype == np.float64:
        return (double_bits() != _DOUBLE_BITS) & (array != float(_LEAST))
    if dtype in _INTEGERS:
        return array != _INTEGERS[dtype]
    if dtype == np.int64:  # of Python's integers
        return array != int(_INTEGERS[np.dtype("int32")])
    return ones_like(array, dtype=bool)
