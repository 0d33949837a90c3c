"""The adapter of callable pytrees, such as equinox modules."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.adapters.by_value import ByValue
from jaxloop.adapters.modes import Modes, Told, modes_of, speaks
from jaxloop.adapters.selection import chosen, is_trainable
from jaxloop.noting import note

_WHERE = "Model.from_callable"


def split(
    pytree: Any, *, batched: bool = True, inference: Any = None, trained: Any = None, modes: Any = None
) -> tuple["PytreeApply", Any, Any]:
    """(apply, params, state) of a callable pytree, params and state by path; see `Model.from_callable`.

    Raises:
      TypeError, ValueError: an argument is not as `Model.from_callable` requires.
    """
    if not callable(pytree):
        raise TypeError(f"Model.from_callable: `pytree` must be callable, got {type(pytree).__name__}.")
    skeleton, arrays = _skeleton(pytree)
    if not any(map(is_trainable, arrays.values())):
        raise ValueError(
            f"Model.from_callable: {type(pytree).__name__} has no leaf that is an array of floats, so there is nothing "
            "to train. Arrays in a closure cannot be seen: write Model(apply, params, state), or for a jax.vmap-ed "
            "module Model.from_callable(module, batched=False)."
        )
    chosen_from = {path: arrays.get(path, False) for path, *_ in skeleton.leaves}  # a static leaf cannot be chosen
    paths = jax.tree.unflatten(skeleton.tree, list(chosen_from))
    found = chosen(trained, chosen_from, paths, _WHERE)
    params = {path: leaf for path, leaf in arrays.items() if path in found}
    state = {path: leaf for path, leaf in arrays.items() if path not in found}
    other = skeleton if inference is None else _skeleton(inference)[0]
    if not callable(pytree if inference is None else inference) or other.arrays != skeleton.arrays:
        raise ValueError(
            f"Model.from_callable: `inference` must be {type(pytree).__name__} itself in inference mode, with the same "
            f"arrays, got {type(inference).__name__}. Write equinox.nn.inference_mode(module) or the like."
        )
    skeletons = (ByValue(other), ByValue(skeleton))  # in the order of False and True: `training` is their index
    told = modes_of(modes, pytree, _WHERE)
    return PytreeApply(skeletons, _takes_key(pytree), batched, told, type(pytree).__name__), params, state


def has_trainable(given: Any) -> bool:
    """Whether `given` is a callable pytree with at least one array of floats among its leaves."""
    return callable(given) and any(_is_array(leaf) and is_trainable(leaf) for leaf in jax.tree.leaves(given))


class Skeleton(NamedTuple):
    """A pytree without its arrays.

    Attributes:
      tree: its structure.
      leaves: for each leaf the path and whether it is an array. If it is not: its type and its value. The type is
        needed for comparison, since 1 == 1.0 == True.
    """

    tree: Any
    leaves: tuple[tuple[str, bool, type | None, Any], ...]

    @property
    def arrays(self) -> list[str]:
        """The paths of the arrays that were taken out."""
        return [path for path, is_array, *_ in self.leaves if is_array]

    @property
    def places(self) -> dict[str, Any]:
        """The paths of all leaves, as JAX gives them."""
        numbered = jax.tree.unflatten(self.tree, range(len(self.leaves)))
        return {self.leaves[index][0]: path for path, index in jax.tree_util.tree_leaves_with_path(numbered)}

    def filled(self, arrays: dict[str, Any]) -> Any:
        """The pytree with `arrays`, given by path, in their places."""
        leaves = [arrays[path] if is_array else value for path, is_array, _, value in self.leaves]
        return jax.tree.unflatten(self.tree, leaves)


def _skeleton(pytree: Any) -> tuple[Skeleton, dict[str, Any]]:
    """The skeleton, and the arrays by path."""
    paths, tree = jax.tree_util.tree_flatten_with_path(pytree)
    leaves = [(jax.tree_util.keystr(path).lstrip("."), leaf) for path, leaf in paths]
    slots = [(path, True, None, None) if _is_array(leaf) else (path, False, type(leaf), leaf) for path, leaf in leaves]
    return Skeleton(tree, tuple(slots)), {path: leaf for path, leaf in leaves if _is_array(leaf)}


def _is_array(leaf: Any) -> bool:
    """Whether JAX can compute with it. It cannot with an array of strings or objects."""
    return isinstance(leaf, jax.Array) or (
        isinstance(leaf, np.ndarray) and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number))
    )


def _takes_key(function: Any) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get("key")
    except (TypeError, ValueError):  # a built-in function can be without a signature
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in named


@contextmanager
def _noted(name: str) -> Iterator[None]:
    """Notes on an exception of a pytree that was given a batch how one that takes a single example is given."""
    text = (
        f"jaxloop: {name} was given a batch. If it takes one example, as the layers of equinox do, give "
        "jaxloop.Model.from_callable(module, batched=False)."
    )
    try:
        yield
    except Exception as error:
        note(error, text)
        raise


@dataclass(frozen=True, repr=False)
class PytreeApply:
    """The forward pass of a callable pytree; equal for pytrees that differ only in their arrays.

    Attributes:
      skeletons: the pytrees without their arrays, in inference and in training.
      takes_key: whether it is called with `key=`.
      batched: whether it takes a batch, not one example.
      modes: the arguments that say the mode.
      name: the name of its class.
    """

    skeletons: tuple[ByValue, ByValue]
    takes_key: bool
    batched: bool
    modes: Modes
    name: str = field(compare=False)

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        pytree = self._filled(params, state, training)
        told = self.modes.told(pytree, training)
        function = functools.partial(pytree, **told) if told else pytree
        if self.batched:
            options = {"key": key} if self.takes_key and key is not None else {}
            with _noted(self.name):
                return function(input, **options), state
        if not self.takes_key or key is None:
            return jax.vmap(function)(input), state
        keys = jax.random.split(key, jax.tree.leaves(input)[0].shape[0])
        return jax.vmap(lambda example, key: function(example, key=key))(input, keys), state

    def call(
        self, function: Callable[[Any], Any], params: Any, state: Any, *, training: bool, key: Any
    ) -> tuple[Any, Any]:
        """The result of `function(pytree)`, and the state, which never changes."""
        pytree = self._filled(params, state, training)
        return function(Told(pytree, self.modes, training) if speaks(type(pytree), self.modes) else pytree), state

    def frozen(self, state: Any) -> Any:
        """Whether each leaf of the state is a parameter that is not trained: all are, or are no floats."""
        return jax.tree.map(lambda leaf: True, state)

    def place_of(self, field: str, path: Any) -> Any:
        """Where the pytree has a leaf of `params` or `state`: the path, as JAX gives it, by which it is named."""
        return self.skeletons[True].value.places[path[0].key]

    def restore(self, params: Any, state: Any, training: bool) -> Any:
        """The pytree with these values: in both modes the one that was given for training."""
        return self._filled(params, state, training=True)

    def _filled(self, params: Any, state: Any, training: bool) -> Any:
        return self.skeletons[training].value.filled({**params, **state})

    def __repr__(self) -> str:
        return f"<forward pass of {self.name}>"
