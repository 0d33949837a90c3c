"""Whether an array can be a leaf of a model, and how it becomes one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype

from jaxloop.placement.moving import from_host
from jaxloop.weights.file import Kind


def key_implementation(leaf: Any) -> str | None:
    """The implementation of a typed PRNG key, as `"threefry2x32"`; None of any other leaf."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return str(dtype._impl.name)
    return str(jax.random.key_impl(leaf))


def raw_kind(leaf: Any) -> Kind:
    """Shape and dtype of what a file holds of a leaf: of a typed PRNG key its bits."""
    if key_implementation(leaf) is None:
        return Kind(tuple(leaf.shape), _native(np.dtype(leaf.dtype)))
    words = jax.eval_shape(jax.random.key_data, leaf)
    return Kind(tuple(words.shape), np.dtype(words.dtype))


def kind_to_be(leaf: Any) -> Kind:
    """Like `raw_kind`, of what a leaf becomes: in JAX there may be no 64 bits, whatever a `ShapeDtypeStruct` says."""
    kind = raw_kind(leaf)
    return kind if isinstance(leaf, np.ndarray | np.generic) else Kind(kind.shape, canonicalize_dtype(kind.dtype))


def _native(dtype: np.dtype) -> np.dtype:
    """The dtype in the order of bytes of this machine, as a file has it: NumPy has arrays of the other order too."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def said(kind: Kind | str) -> str:
    """`"float32[2, 3]"`, for messages."""
    return kind if isinstance(kind, str) else f"{kind.dtype.name}{list(kind.shape)}"


def holds_all_of(wide: np.dtype, narrow: np.dtype) -> bool:
    """Whether every number of the dtype `narrow` is one of `wide`: between floats, or between complex numbers."""
    if wide == narrow:
        return True
    for sort in (jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(wide, sort) and jnp.issubdtype(narrow, sort):
            more, less = jnp.finfo(wide), jnp.finfo(narrow)
            return more.nmant >= less.nmant and more.maxexp >= less.maxexp and more.minexp <= less.minexp
    return False


def like(leaf: Any, array: np.ndarray) -> Any:
    """The array as a leaf of the sort of `leaf`: of NumPy or of JAX, with its dtype, and where it lies.

    Args:
      leaf: of the model.
      array: of its shape; of a typed PRNG key, its bits.
    """
    implementation = key_implementation(leaf)
    if implementation is not None:
        words = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.random.key_data(leaf)
        return jax.random.wrap_key_data(_placed(words, array), impl=implementation)
    array = array if array.dtype == leaf.dtype else array.astype(leaf.dtype)
    if isinstance(leaf, np.generic):
        return array[()]
    return array if isinstance(leaf, np.ndarray) else _placed(leaf, array)


def _placed(leaf: Any, array: np.ndarray) -> jax.Array:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or not getattr(leaf, "committed", True):
        return jnp.asarray(array)
    if len(sharding.device_set) == 1 and sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return from_host(array, sharding)
