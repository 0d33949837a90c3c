"""The structure of plain containers in JSON: for what no code describes before it is there."""

from collections.abc import Iterator
from typing import Any

import jax

_LEAF = {"leaf": None}
Plain = dict[str, Any]


def plain(tree: Any) -> Plain | None:
    """The structure of a tree of dicts, lists, tuples and None; None if it holds another container."""
    if tree is None:
        return {"none": None}
    if type(tree) is dict:
        inside = {key: plain(value) for key, value in tree.items()}
        known = all(isinstance(key, str) for key in inside)
        return {"dict": inside} if known and None not in inside.values() else None
    if type(tree) in (list, tuple):
        parts = [plain(value) for value in tree]
        return None if None in parts else {type(tree).__name__: parts}
    return _LEAF if jax.tree_util.all_leaves([tree]) else None


def filled(structure: Plain, leaves: Iterator[Any]) -> Any:
    """The tree of a structure with these leaves, which are in JAX's order."""
    ((kind, inside),) = structure.items()
    if kind == "leaf":
        return next(leaves)
    if kind == "none":
        return None
    if kind == "dict":
        return {key: filled(inside[key], leaves) for key in sorted(inside)}
    parts = [filled(part, leaves) for part in inside]
    return parts if kind == "list" else tuple(parts)
