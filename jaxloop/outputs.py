"""The parts of a model's output or of a target that are trees: by key, by the field's name, or by place."""

import dataclasses
from collections.abc import Mapping
from typing import Any

#: A key of a mapping, a field of a dataclass or a named tuple, or a place in a tuple or a list.
Key = str | int


def keys_of(tree: Any) -> tuple[Key, ...] | None:
    """The keys of the parts of a tree, in its order; None if it is one array, or nothing that has parts."""
    if isinstance(tree, Mapping):
        return tuple(tree)
    if hasattr(tree, "_fields"):
        return tuple(tree._fields)
    if isinstance(tree, (tuple, list)):
        return tuple(range(len(tree)))
    if dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        return tuple(field.name for field in dataclasses.fields(tree))
    return None


def part_of(where: str, what: str, tree: Any, key: Any) -> Any:
    """The part of a tree that has this key.

    Args:
      where: who asks, for messages.
      what: `"output"` or `"target"`.
      tree: PyTree of arrays.
      key: see `Key`. A place counts also in a named tuple.

    Raises:
      ValueError: the tree has no such part.
    """
    keys = keys_of(tree)
    if keys is None:
        shape = f"of shape {tuple(tree.shape)}" if hasattr(tree, "shape") else f"a {type(tree).__name__}"
        raise ValueError(
            f"{where}: the {what} is one array, {shape}, so it has no part {key!r}. Leave `output` and `target` out."
        )
    named = hasattr(tree, "_fields")
    if key not in keys and not (named and _is_place(key, len(tree))):
        raise ValueError(f"{where}: the {what} has no part {key!r}, only {said(keys)}. Choose one of these.")
    by_attribute = isinstance(key, str) and not isinstance(tree, Mapping)
    return getattr(tree, str(key)) if by_attribute else tree[key]


def output_and_target(where: str, output: Any, target: Any, key: Key | None, target_key: Key | None) -> tuple[Any, Any]:
    """What is measured of output and target.

    Args:
      where: who asks, for messages.
      output, target: PyTrees of arrays.
      key: of the part of the output; None for all of it.
      target_key: of the part of the target; None for the same as `key`. A target that is one array is that of each
        output.

    Raises:
      ValueError: there is no such part.
    """
    if key is not None:
        output = part_of(where, "output", output, key)
    if target_key is not None:
        return output, part_of(where, "target", target, target_key)
    if key is not None and keys_of(target) is not None:
        target = part_of(where, "target", target, key)
    return output, target


def name_by_output(name: str, key: Key | None) -> str:
    """The name of a statistic of one output: `"digit_accuracy"`, or `"output0_accuracy"` in a tuple."""
    if key is None:
        return name
    return f"output{key}_{name}" if isinstance(key, int) else f"{key}_{name}"


def said(keys: Any) -> str:
    """Keys, for messages."""
    return ", ".join(map(repr, keys)) or "none"


def _is_place(key: Key, count: int) -> bool:
    return isinstance(key, int) and not isinstance(key, bool) and 0 <= key < count
