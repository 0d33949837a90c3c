"""Kinds: structure, shapes and dtypes of a tree, which a step must leave as it found them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERS = (bool, int, float, complex)


class Widening(TypeError):
    """A step gives floats of more bits than it was given, as arithmetic with wider ones does.

    A loop by hand would go on with the wider ones from its second step. Here all steps share one program, so the run
    begins with them: nothing is lost by that, since every narrow float is a wide one too.

    Attributes:
      dtypes: of the leaves that widen, by their path in the loop.
    """

    def __init__(self, dtypes: dict[str, Any]):
        path, dtype = next(iter(dtypes.items()))
        super().__init__(
            f"step: loop{path} becomes {dtype.name}, and all steps share one program. Begin with that dtype, by "
            "`training_loop.start(...)`, or convert what the step makes of it."
        )
        self.dtypes = dtypes

    def apply(self, tree: Any) -> Any:
        """`tree` with those leaves as wide as the step makes them."""

        def widened(path: Any, leaf: Any) -> Any:
            dtype = self.dtypes.get(jax.tree_util.keystr(path))
            return leaf if dtype is None else leaf.astype(dtype)

        return jax.tree_util.tree_map_with_path(widened, tree)


def strong(leaf: Any) -> Any:
    """`leaf` as an array whose dtype is its own, so that no step can change it.

    A Python number becomes a NumPy scalar of JAX's default dtype. An array of weak type, as `jnp.full(3, 0.5)` gives,
    keeps its dtype and loses the weakness: a program would compile again where one comes back strong. Anything else is
    given back as it is.
    """
    if isinstance(leaf, _NUMBERS) and not isinstance(leaf, np.generic):
        return np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.result_type(leaf)))[()]
    if getattr(leaf, "weak_type", False):
        return jax.lax.convert_element_type(leaf, leaf.dtype)
    return leaf


def kept(where: str, old: Any, new: Any, *, structure_fix: str, leaf_fix: str) -> Any:
    """`new` as strong arrays, once it is of the kind of `old`.

    Args:
      where: what the two are, for messages; the path of a leaf is added to it.
      old: PyTree of arrays, traced or not.
      new: what has come of it. A Python number takes on the dtype that it had there.
      structure_fix, leaf_fix: what to do where the structure, or a leaf, is another.

    Raises:
      TypeError: it is of another kind; the message names the first leaf.
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
    """The dtypes of the leaves in which `new` has wider floats than `old`, by `where` and their path."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return {}
    found = {}
    for (path, old_leaf), new_leaf in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        if new_leaf is not old_leaf and _widens(old_leaf, _matched(old_leaf, new_leaf)):
            found[where + jax.tree_util.keystr(path)] = jnp.result_type(new_leaf)
    return found


def same_kind(old: Any, new: Any) -> bool:
    """Whether two leaves have one shape and one dtype."""
    return jnp.shape(old) == jnp.shape(new) and _dtype(old) == _dtype(new)


def kind_name(leaf: Any) -> str:
    """Dtype and shape of a leaf, for messages: `float32[8, 3]`."""
    return f"{_dtype(leaf).name}{list(jnp.shape(leaf))}"


def _matched(old: Any, new: Any) -> Any:
    """`new` as a strong array: of the dtype of `old` where it is weakly typed and fits there, else of its own."""
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
    """Which leaves have come or gone; empty where that does not tell."""
    before, after = (
        {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)} for tree in (old, new)
    )
    come, gone = sorted(after - before), sorted(before - after)
    words = [f"{', '.join(paths[:3])} {verb}" for paths, verb in ((come, "has come"), (gone, "has gone")) if paths]
    return " and ".join(words)
