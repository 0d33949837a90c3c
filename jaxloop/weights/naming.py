"""Names: each leaf of a model has one, the dotted path by which its library knows it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.adapters import nnx
from jaxloop.adapters.linen import is_box
from jaxloop.births import is_factory
from jaxloop.errors import WeightsError
from jaxloop.kinds import strong
from jaxloop.loop import Loop
from jaxloop.model import Model, as_model, is_module

_KINDS = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
_NUMBERS = (bool, int, float, complex)


@dataclass(frozen=True)
class Named:
    """A leaf of a model.

    Attributes:
      name: `"Dense_0.kernel"`.
      leaf: an array of JAX or NumPy, or a `jax.ShapeDtypeStruct`.
      stream: whether it is the key or the counter of a random stream, which is not a weight.
    """

    name: str
    leaf: Any
    stream: bool


@dataclass(frozen=True)
class Weights:
    """The leaves of what a user has given, by name, and how it is made of other leaves.

    Attributes:
      kind: what was given, for messages.
      named: the leaves in order.
      rebuild: from other leaves in that order to what was given, with them in their places.
    """

    kind: str
    named: list[Named]
    rebuild: Callable[[list[Any]], Any]


def weights_of(given: Any, where: str) -> Weights:
    """The weights of a model, of a loop's model, or of a pytree of arrays.

    Args:
      given: what `fit` takes as a model; `(module, variables)` of a linen module; or any pytree with arrays.
      where: what the user calls, for messages.

    Raises:
      TypeError: it holds no arrays: a function that makes a model, a class, a linen module without variables.
      WeightsError: two leaves have one name, or a leaf is no array of numbers.
    """
    kind = type(given).__name__
    if isinstance(given, Loop | Model):
        return _of_model(given.model if isinstance(given, Loop) else given, kind, where)
    if isinstance(given, tuple) and given and isinstance(given[0], Loop):
        raise TypeError(f"{where}: expected a model or a loop, got a tuple: `fit` gives (loop, history). Take [0].")
    if is_module(given, "flax.nnx"):
        values, streams = nnx.values_of(given)
        weights = _of_tree(values, kind, where, streams)
        return Weights(kind, weights.named, lambda leaves: nnx.with_values(given, weights.rebuild(leaves)))
    if is_module(given, "flax.linen"):
        return _of_model(as_model(given), kind, where)  # which says that it has no variables
    if isinstance(given, tuple) and len(given) == 2 and is_module(given[0], "flax.linen"):
        weights = _of_model(Model.from_linen(*given), type(given[0]).__name__, where)
        return Weights(weights.kind, weights.named, lambda leaves: weights.rebuild(leaves).unwrap())
    if not any(_is_value(path, leaf) for path, leaf in _leaves(given)):
        _refuse(given, where)
    return _of_tree(given, kind, where)


def _refuse(given: Any, where: str) -> NoReturn:
    got = type(given).__name__
    if is_factory(given):  # which refuses a class
        got = f"the function {getattr(given, '__name__', given)}"
    raise TypeError(
        f"{where}: expected a model, a loop or a pytree of arrays, got {got}, which holds no array. Of a function that "
        "makes a model, give what it returns: make_model()."
    )


def _of_model(model: Model, kind: str, where: str) -> Weights:
    if model.params is None:
        as_model(model)  # which says that it has no variables
    place_of = getattr(model.apply, "place_of", _plain_place)
    streams = getattr(model.apply, "streams", lambda params, state: frozenset())(model.params, model.state)
    named: list[Named] = []
    for field in ("params", "state"):
        for path, leaf in _leaves(getattr(model, field)):
            stream = _is_key(leaf) or (field == "state" and _keys(path) in streams)
            named.append(Named(_said(place_of(field, path)) or field, strong(leaf), stream))
    _check(named, where)
    trees = jax.tree.structure(model.params), jax.tree.structure(model.state)

    def rebuild(leaves: list[Any]) -> Model:
        count = trees[0].num_leaves
        params, state = trees[0].unflatten(leaves[:count]), trees[1].unflatten(leaves[count:])
        return model.replace(params=params, state=state)

    return Weights(kind, named, rebuild)


def _of_tree(tree: Any, kind: str, where: str, streams: Collection[Any] = ()) -> Weights:
    """What is neither an array nor a number in a container stays as it is: functions, settings of a module."""
    everything = _leaves(tree)
    places = [index for index, (path, leaf) in enumerate(everything) if _is_value(path, leaf)]
    chosen = [everything[index] for index in places]
    named = [
        Named(_said(path) or "value", strong(leaf), _is_key(leaf) or _keys(path) in streams) for path, leaf in chosen
    ]
    _check(named, where)

    def rebuild(leaves: list[Any]) -> Any:
        filled = [leaf for _, leaf in everything]
        for index, leaf in zip(places, leaves, strict=True):
            filled[index] = leaf
        return jax.tree.unflatten(jax.tree.structure(tree), filled)

    return Weights(kind, named, rebuild)


def _plain_place(field: str, path: Any) -> Any:
    """Where `Model(apply, params, state)` has a leaf. Both may be trees of the same names, so the state's say it."""
    return path if field == "params" or not path else (jax.tree_util.GetAttrKey("state"), *path)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    """The leaves with their paths, in which a box of flax around one leaf does not show."""
    found = []
    for path, part in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]:
        for below, leaf in jax.tree_util.tree_leaves_with_path(part):
            found.append((path if is_box(part) else (*path, *below), leaf))
    return found


def _keys(path: Any) -> tuple[Any, ...]:
    return tuple(getattr(entry, "key", None) for entry in path)


def _said(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _is_value(path: Any, leaf: Any) -> bool:
    """Whether a leaf of a pytree is a weight. A Python number in an object, such as a module, is a setting of it."""
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)):
        return True
    return isinstance(leaf, _NUMBERS) and not any(isinstance(entry, jax.tree_util.GetAttrKey) for entry in path)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _check(named: list[Named], where: str) -> None:
    seen: set[str] = set()
    for each in named:
        if each.name in seen:
            raise WeightsError(
                f"{where}: two leaves of the model have the name {each.name!r}, and a file holds one of a name. A "
                "dot in a name looks like a step in a path: rename one of the two."
            )
        seen.add(each.name)
        if each.name == "__metadata__" or each.name.encode(errors="replace").decode() != each.name:
            raise WeightsError(f"{where}: a file of weights cannot hold the name {each.name!r}. Rename the leaf.")
        dtype = getattr(each.leaf, "dtype", None)
        if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in _KINDS):
            said = type(each.leaf).__name__ if dtype is None else f"an array of {dtype}"
            raise WeightsError(
                f"{where}: {each.name!r} is {said}. A file of weights holds arrays of numbers only. Make it an array, "
                "or a static field of its pytree."
            )
