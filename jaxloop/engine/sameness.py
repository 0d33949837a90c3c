"""What must be the same on every process of a run, compared once: else they diverge in silence, or wait for ever."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.engine.agreement import Agreement
from jaxloop.feeding.feed import Feed
from jaxloop.model import Model
from jaxloop.placement import Placement


def check_same_run(placement: Placement, where: str, identity: Mapping[str, Any], feeds: Iterable[Feed]) -> None:
    """Refuses a run that is not the same on every process. Waits for all of them, if there are several.

    Args:
      placement: where the run lives.
      where: what is begun, for messages.
      identity: what makes it the same run, for JSON.
      feeds: of its phases.

    Raises:
      ValueError: on every process, with the name of what differs.
    """
    if placement.several_processes:
        of_feeds = {name: text for feed in feeds for name, text in feed.agreement().items()}
        Agreement(placement).same(where, {**identity, **of_feeds})


def check_same_model(placement: Placement, model: Model) -> None:
    """Refuses a model that each process has made for itself, if it is not the same on all of them."""
    if placement.several_processes:
        leaves = jax.tree_util.tree_leaves_with_path(model)
        digests = {f"model{jax.tree_util.keystr(path)}": _digest(leaf) for path, leaf in leaves if _is_local(leaf)}
        Agreement(placement).same("fit", digests)


def _digest(leaf: Any) -> int:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
    return zlib.crc32(repr((array.shape, str(array.dtype))).encode(), zlib.crc32(array.tobytes()))


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
