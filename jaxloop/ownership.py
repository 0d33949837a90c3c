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

    leaves, structure = jax.tree.flatten(jax.tree.map(strong, loop))
    large = [index for index, leaf in enumerate(leaves) if not _is_scalar(leaf)]
    shardings = jax.tree.leaves(shardings_of(placement, loop))
    copies = placement.copies([leaves[index] for index in large], [shardings[index] for index in large])
    for index, copy in zip(large, copies, strict=True):
        leaves[index] = copy
    return with_host_scalars(jax.tree.unflatten(structure, leaves))


def on_device(loop: Loop, placement: Placement) -> Loop:
    """The loop with its scalars on the device too. Its arrays are not copied: the engine must be done with it."""
    return placement.put(loop)


def _is_scalar(leaf: Any) -> bool:
    return leaf.shape == () and leaf.dtype in WIRE_DTYPES
