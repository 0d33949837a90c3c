"""Which leaves of a model are trained: of those with floats or complex numbers, those that the user has chosen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_trainable(value: Any) -> bool:
    """Whether all numbers in a PyTree are floats or complex numbers: only those have a gradient."""
    return all(_is_inexact(leaf) for leaf in jax.tree.leaves(value))


def chosen(trained: Any, leaves: Mapping[str, Any], paths: Any, where: str) -> frozenset[str]:
    """The paths of the leaves that are trained.

    Args:
      trained: None for all that can be trained; `trained(path, leaf) -> bool`; or a PyTree of bools, a prefix of
        `paths`.
      leaves: the leaves by path.
      paths: the PyTree of the leaves, with its path in place of each leaf.
      where: what the user calls, for messages.

    Raises:
      TypeError: `trained` is none of these.
      ValueError: the structure of `trained` is another one, or it chooses nothing that can be trained.
    """
    able = [path for path, leaf in leaves.items() if is_trainable(leaf)]
    if trained is None:
        return frozenset(able)
    flags = jax.tree.leaves(trained)
    if flags and all(isinstance(flag, (bool, np.bool_)) for flag in flags):
        found = _flagged(trained, paths, where).intersection(able)
    elif callable(trained):
        found = frozenset(path for path in able if bool(trained(path, leaves[path])))
    else:
        raise TypeError(
            f"{where}: `trained` must be a function (path, leaf) -> bool or a tree of bools, got "
            f"{type(trained).__name__}. Write trained=lambda path, leaf: 'lora' in path."
        )
    if not found:
        raise ValueError(f"{where}: `trained` chooses none of the arrays that can be trained: {', '.join(able)}.")
    return found


def _flagged(flags: Any, paths: Any, where: str) -> frozenset[str]:
    """The paths below a True."""
    found: list[str] = []
    try:
        jax.tree.map(lambda flag, part: found.extend(jax.tree.leaves(part) if flag else ()), flags, paths)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: `trained` must be a tree of bools like the parameters, or the upper part of one: {error}"
        ) from None
    return frozenset(found)


def _is_inexact(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, (float, complex)) if dtype is None else jnp.issubdtype(dtype, jnp.inexact)
