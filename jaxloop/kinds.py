"""Kinds: the structure, shapes and dtypes of a tree. A step must not change them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERS = (bool, int, float, complex)


class Widening(TypeError):
    """A step gives wider floats than it was given, because it computes with wider ones.

    A loop written by hand would continue with the wider floats from its second step on. Here all steps share one
    program, so the run begins with the wider floats. Nothing is lost: a wide float can hold every narrow one.

    Attributes:
      dtypes: the new dtype of each leaf that becomes wider, by its path in the loop.
    """

    def __init__(self, dtypes: dict[str, Any]):
        path, dtype = next(iter(dtypes.items()))
        super().__init__(
            f"step: loop{path} becomes {dtype.name}, and all steps share one program. Begin with that dtype, by "
            "`training_loop.start(...)`, or convert what the step makes of it."
        )
        self.dtypes = dtypes

    def apply(self, tree: Any) -> Any:
        """`tree` with these leaves converted to their new dtypes."""

        def widened(path: Any, leaf: Any) -> Any:
            dtype = self.dtypes.get(jax.tree_util.keystr(path))
            return leaf if dtype is None else leaf.astype(dtype)

        return jax.tree_util.tree_map_with_path(widened, tree)


def strong(leaf: Any) -> Any:
    """`leaf` as an array of strong type, so that no step changes its dtype.

    A Python number becomes a NumPy scalar of JAX's default dtype. A weakly typed array, such as `jnp.full(3, 0.5)`
    gives, keeps its dtype and becomes strong: a step would give it back strong, and the program would compile again.
    Anything else is given back as it is.
    """
    if isinstance(leaf, _NUMBERS) and not isinstance(leaf, np.generic):
        return np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.result_type(leaf)))[()]
    if getattr(leaf, "weak_type", False):
        return jax.lax.convert_element_type(leaf, leaf.dtype)
    return leaf


def kept(where: str, old: Any, new: Any, *, structure_fix: str, leaf_fix: str) -> Any:
    """`new` as strong arrays, after a check that its kind is the kind of `old`.

    Args:
      where: what the two are, for messages; the path of a leaf is added to it.
      old: PyTree of arrays, traced or not.
      new: the same PyTree after the step. A Python number in it takes the dtype that `old` has there.
      structure_fix, leaf_fix: what the message advises if the structure, or a leaf, has changed.

    Raises:
      TypeError: the kind has changed; the message names the first leaf.
    """
    old_leaves, old_tree = jax.tree.flatten(old)
    new_leaves, new_tree = jax.tree.flatten(new)
    if old_tree != new_tree:
        change = _structural_change(old, new) or f"it was {old_tree}, now it is {new_tree}"
        raise TypeError(f"{where} must keep its structure inside a step; {change}. {structure_fix}")
    for index, (old_leaf, new_leaf) in enumerate(zip(old_leaves, new_leaves, strict=True)):
        if new_leaf is old_leaf:
            continue
        new_leaf = _matched(old_leaf, new_leaf)
        if not same_kind(old_leaf, new_leaf):
            path = jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(old)[index][0])
            raise TypeError(f"{where}{path} must stay {kind_name(old_leaf)}, got {kind_name(new_leaf)}. {leaf_fix}")
        new_leaves[index] = new_leaf
    return jax.tree.unflatten(old_tree, new_leaves)


def widenings(where: str, old: Any, new: Any) -> dict[str, Any]:
    """The dtypes of the leaves that are wider floats in `new` than in `old`, by `where` and their path."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return {}
    found = {}
    for (path, old_leaf), new_leaf in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        if new_leaf is not old_leaf and _widens(old_leaf, _matched(old_leaf, new_leaf)):
            found[where + jax.tree_util.keystr(path)] = jnp.result_type(new_leaf)
    return found


def same_kind(old: Any, new: Any) -> bool:
    """Whether two leaves have the same shape and dtype."""
    return jnp.shape(old) == jnp.shape(new) and _dtype(old) == _dtype(new)


def kind_name(leaf: Any) -> str:
    """Dtype and shape of a leaf, for messages: `float32[8, 3]`."""
    return f"{_dtype(leaf).name}{list(jnp.shape(leaf))}"


def _matched(old: Any, new: Any) -> Any:
    """`new` as a strong array. If it is weakly typed it takes the dtype of `old`, provided that it fits there."""
    if new is old:
        return new
    new = new if isinstance(new, jax.Array) else jnp.asarray(new)
    if not getattr(new, "weak_type", False):
        return new
    dtype = _dtype(old)
    adopts = not jnp.issubdtype(dtype, jax.dtypes.extended) and jnp.can_cast(new.dtype, dtype, casting="same_kind")
    return jax.lax.convert_element_type(new, dtype if adopts else new.dtype)


def _widens(old: Any, new: Any) -> bool:
    dtypes = _dtype(old), _dtype(new)
    if jnp.shape(old) != jnp.shape(new):
        return False
    alike = any(all(jnp.issubdtype(dtype, kind) for dtype in dtypes) for kind in (jnp.floating, jnp.complexfloating))
    return alike and jnp.finfo(dtypes[0]).bits < jnp.finfo(dtypes[1]).bits


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _structural_change(old: Any, new: Any) -> str:
    """Which leaves have come or gone; empty if the difference is in the nodes."""
    before, after = (
        {jax.tree_util.keystr(path) or "an array" for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (old, new)
    )
    come, gone = sorted(after - before), sorted(before - after)
    words = [f"{', '.join(paths[:3])} {verb}" for paths, verb in ((come, "has come"), (gone, "has gone")) if paths]
    return " and ".join(words)
