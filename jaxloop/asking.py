"""What a process asks for, as bits: in the argument of a dispatch, and in the row that comes back."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import enum
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, Sharding

from jaxloop.events import Scope
from jaxloop.placement import Placement


class Ask(enum.IntFlag):
    """What a process asks for besides the scopes that it cancels. The bits are above those of `Scope`."""

    INTERRUPT = 32
    TERMINATE = 64
    SAVE = 128


_BITS = 8
_SCOPES = sum(Scope)


@functools.lru_cache(maxsize=256)
def argument(placement: Placement, asked: int) -> jax.Array:
    """The argument by which a dispatch tells all processes what this one asks for: float32[devices, 8].

    It is of floats, so that XLA sums it together with the gradient.
    """
    bits = np.array([[float(asked >> bit & 1) for bit in range(_BITS)]], np.float32)
    shape = (placement.mesh.size, _BITS)
    return jax.make_array_from_callback(shape, sharding(placement), lambda part: bits)


def sharding(placement: Placement) -> Sharding:
    """Where the argument lies: each device has what its process asks for."""
    return placement.sharded(PartitionSpec(placement.mesh.axis_names))


def counted_and_asked(counted: Any, argument: Any) -> jax.Array:
    """The first place of a row, int32[]: whether the step counted, and above that what any process asks for.

    Args:
      counted: a bool or bool[].
      argument: traced, see `argument`.
    """
    any_asks = (argument.sum(axis=0) > 0).astype(jnp.int32)
    return jnp.asarray(counted, jnp.int32) | sum(any_asks[bit] << (bit + 1) for bit in range(_BITS))


def asked_in(rows: np.ndarray) -> int:
    """What was asked for in a dispatch, by its rows: int32[row] or int32[steps, row]."""
    return int(rows.item(0) if rows.ndim == 1 else rows.item(-1, 0)) >> 1


def scopes_of(asked: int) -> int:
    """The scopes among what was asked for."""
    return asked & _SCOPES
