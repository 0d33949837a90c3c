"""The precision of sums, means and norms: floats of at least 32 bits, whatever the values are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def wide_dtype(dtype: Any) -> Any:
    """`dtype` itself if it is float or complex of 32 bits or more, else float32."""
    exact = not jnp.issubdtype(dtype, jnp.inexact)
    return jnp.dtype(jnp.float32) if exact or jnp.finfo(dtype).bits < 32 else dtype


def widened(values: Any) -> jax.Array:
    """`values` in a dtype in which they can be summed. bfloat16 has 8 significant bits: a count in it stops at 256."""
    values = jnp.asarray(values)
    dtype = wide_dtype(values.dtype)
    return values if values.dtype == dtype else values.astype(dtype)


def widened_alike(one: Any, other: Any) -> tuple[jax.Array, jax.Array]:
    """Both in the wider of the dtypes in which they can be summed, which strict promotion would not find by itself."""
    dtype = np.promote_types(wide_dtype(one.dtype), wide_dtype(other.dtype))
    return one.astype(dtype), other.astype(dtype)


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves together: float32[], or float64[] if a leaf is float64 or complex128."""
    squares = [jnp.sum(jnp.square(jnp.abs(widened(leaf)))) for leaf in jax.tree.leaves(tree)]
    widest = max((square.dtype for square in squares), key=lambda dtype: dtype.itemsize, default=jnp.float32)
    return jnp.sqrt(sum((square.astype(widest) for square in squares), jnp.zeros((), widest)))
