"""Who owns the arrays of a loop: copies of what others may hold, with scalars on the host or on the device."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from typing import Any

import jax
import numpy as np

from jaxloop.kinds import strong
from jaxloop.loop import Loop
from jaxloop.placement import Placement
from jaxloop.shardings import shardings_of
from jaxloop.wire import WIRE_DTYPES


def with_host_scalars(loop: Loop) -> Loop:
    """A loop that the engine owns, its scalars fetched to NumPy in one go. Waits for the device."""
    leaves, tree = jax.tree.flatten(loop)
    places = [index for index, leaf in enumerate(leaves) if _is_scalar(leaf)]
    for index, number in zip(places, jax.device_get([leaves[index] for index in places]), strict=True):
        leaves[index] = np.asarray(number)[()]
    return jax.tree.unflatten(tree, leaves)


def own_copy(loop: Loop, placement: Placement) -> Loop:
    """A copy of a loop that others may hold: its arrays are its own, its scalars NumPy's. Waits for the device."""

    def copied(leaf: Any, sharding: Any) -> Any:
        return leaf if _is_scalar(leaf) else placement.copy(leaf, sharding)

    loop = jax.tree.map(strong, loop)
    return with_host_scalars(jax.tree.map(copied, loop, shardings_of(placement, loop)))


def on_device(loop: Loop, placement: Placement) -> Loop:
    """The loop with its scalars on the device too. Its arrays are not copied: the engine must be done with it."""
    return placement.put(loop)


def _is_scalar(leaf: Any) -> bool:
    return leaf.shape == () and leaf.dtype in WIRE_DTYPES
