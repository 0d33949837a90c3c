"""What must be the same on every process of a run, compared once: else they diverge in silence, or wait for ever."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.data import Batches
from jaxloop.engine.agreement import Agreement
from jaxloop.model import Model
from jaxloop.placement import Placement

_ROWS = 1024  # so many of the samples are compared: all of them may be too many to read


def check_same_run(placement: Placement, identity: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuses a run that is not the same on every process. Waits for all of them, if there are several.

    Args:
      placement: where the run lives.
      identity: what makes it the same run, for JSON.
      data: by name, batches that all processes draw from the same samples, or loaders of which each has its share.

    Raises:
      ValueError: on every process, with the name of what differs.
    """
    if placement.several_processes:
        samples = {f"the {name} data": _sampled(batches) for name, batches in data.items()}
        Agreement(placement).same("fit", {**identity, **samples})


def check_same_model(placement: Placement, model: Model) -> None:
    """Refuses a model that each process has made for itself, if it is not the same on all of them."""
    if placement.several_processes:
        leaves = jax.tree_util.tree_leaves_with_path(model)
        digests = {f"model{jax.tree_util.keystr(path)}": _digest(leaf) for path, leaf in leaves if _is_local(leaf)}
        Agreement(placement).same("fit", digests)


def _sampled(batches: Any) -> int | None:
    """A checksum of samples that all processes share; None if each has its own."""
    if not isinstance(batches, Batches):
        return None
    if not batches.can_be_gathered:
        return _digest_of(batches[0]) if len(batches) else None
    stride = max(1, batches.sample_count // _ROWS)
    return _digest_of(jax.tree.map(lambda leaf: np.asarray(leaf[::stride]), batches.samples))


def _digest_of(tree: Any) -> int:
    return zlib.crc32(repr([_digest(leaf) for leaf in jax.tree.leaves(tree)]).encode())


def _digest(leaf: Any) -> int:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
    return zlib.crc32(repr((array.shape, str(array.dtype))).encode(), zlib.crc32(array.tobytes()))


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
