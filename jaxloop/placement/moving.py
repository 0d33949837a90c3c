"""Arrays on their way: to devices, within them and to the host, so that no two owners share memory."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding


def copied_to_device(leaf: Any, device: Any) -> jax.Array:
    """An array of one device that shares no memory with `leaf`."""
    # The copy comes first: on CPUs `device_put` may share memory even with may_alias=False, with NumPy's arrays and
    # between devices. A donated array that shares memory would be overwritten under its other owner.
    if not isinstance(leaf, jax.Array):
        own: Any = np.array(leaf)
    else:
        own = leaf if leaf.devices() == {device} else _copied(leaf)
    return jax.device_put(own, device, may_alias=False)


def copied_to(leaf: Any, sharding: Sharding, *, directly: bool) -> jax.Array:
    """An array at a sharding over several devices that shares no memory with `leaf`, which lies elsewhere.

    Args:
      leaf: an array.
      sharding: where it goes.
      directly: whether an array of other devices is sent without a stay in the host's memory.
    """
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = copied_to(jax.random.key_data(leaf), sharding, directly=directly)  # a key is too small to be divided
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and (directly or not leaf.is_fully_addressable):
        return jax.device_put(_copied(leaf), sharding, may_alias=False)
    return from_host(np.asarray(leaf), sharding)


def from_host(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """An array at a sharding, each piece from memory of its own.

    `device_put` may give one piece of the host memory to several devices. Each would write over it once it is donated.
    """
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    devices = sharding.addressable_devices
    if sharding.is_fully_replicated and all(device.platform == "cpu" for device in devices):
        # Here `make_array_from_callback` asks for one piece, and CPUs read it in place, all of them.
        pieces = [jax.device_put(np.array(array, dtype), device) for device in devices]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, pieces)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: np.array(array[part], dtype))


def placed(array: np.ndarray, sharding: Sharding | None) -> jax.Array:
    """An array of the host at a sharding, or on JAX's default device. It waits for no other process."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return from_host(array, sharding)  # `device_put` would compare it with what other processes have, and wait for them


def copied_within(leaves: Sequence[jax.Array], shardings: Sequence[Sharding]) -> list[jax.Array]:
    """Copies at new shardings on the devices that have the arrays, by one program."""
    return _copies(tuple(shardings))(list(leaves)) if leaves else []


def whole(leaf: Any) -> np.ndarray:
    """An array in NumPy. One that is divided between processes is gathered first, by all of them."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        assert isinstance(leaf.sharding, NamedSharding)
        leaf = copied_within([leaf], [NamedSharding(leaf.sharding.mesh, PartitionSpec())])[0]
    return np.asarray(leaf)


@jax.jit
def _copied(leaf: jax.Array) -> jax.Array:
    return jnp.copy(leaf)


@functools.lru_cache(maxsize=256)
def _copies(shardings: tuple[Sharding, ...]) -> Any:
    def copy(leaves: list[jax.Array]) -> list[jax.Array]:
        return list(map(jnp.copy, leaves))

    return jax.jit(copy, out_shardings=list(shardings))
