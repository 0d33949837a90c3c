"""The forward pass in narrower floats: what is cast on its way in, and cast back on its way out."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.model import Model
from jaxloop.precision import widened

_COMPUTABLE = ("bfloat16", "float16", "float32")


def checked_dtype(given: Any) -> Any:
    """`compute_dtype` as a dtype; None stays None.

    Raises:
      TypeError, ValueError: it is no dtype in which a forward pass can be computed.
    """
    if given is None:
        return None
    fix = f"Give {', '.join(map(repr, _COMPUTABLE))} or None, which leaves everything in the dtype that it has."
    try:
        dtype = jnp.dtype(given)
    except TypeError as error:
        raise TypeError(f"TrainingLoop: `compute_dtype` must be a dtype of floats, got {given!r}. {fix}") from error
    if dtype.name not in _COMPUTABLE:
        raise ValueError(f"TrainingLoop: `compute_dtype` must be a dtype of floats, got {dtype.name}. {fix}")
    return dtype


def narrowed(tree: Any, dtype: Any) -> Any:
    """The tree with its floats, of whatever width, as `dtype`. Integers, bools, keys and complex numbers stay."""

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if _is_float(leaf) and leaf.dtype != dtype else leaf

    return jax.tree.map(cast, tree)


def restored(tree: Any) -> Any:
    """The tree with its floats of less than 32 bits as float32. All else stays."""
    return jax.tree.map(lambda leaf: widened(leaf) if _is_float(leaf) else leaf, tree)


def in_dtype(model: Model, dtype: Any) -> Model:
    """The model with parameters of `dtype`, whose passes cast their input to it, and what they give to float32.

    Parameters that are not trained are cast too. The rest of the state is given to the pass as it is, and comes back in
    the dtypes that it had: a running average in bfloat16 would stop where a change is less than its 512th part.
    """
    if isinstance(model.apply, CastApply):
        return model
    computing_in = getattr(model.apply, "computing_in", None)
    apply = model.apply if computing_in is None else computing_in(dtype)
    return model.replace(apply=CastApply(apply, dtype), params=narrowed(model.params, dtype))


@dataclass(frozen=True, repr=False)
class CastApply:
    """The forward pass of a model in another dtype; equal for equal passes.

    What it does not define is that of `apply`, such as `restore`.

    Attributes:
      apply: of the model.
      dtype: in which it computes.
    """

    apply: Callable[..., tuple[Any, Any]]
    dtype: Any

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        input = narrowed(input, self.dtype)
        return self._cast(self.apply, params, state, input, training=training, key=key)

    @property
    def call(self) -> Callable[..., tuple[Any, Any]]:
        """See `Model.call`. Raises AttributeError if `apply` is a function, which has no module to call."""
        inner = self.apply.call  # type: ignore[attr-defined]

        def call(function: Any, params: Any, state: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
            return self._cast(functools.partial(inner, function), params, state, training=training, key=key)

        return call

    def _cast(self, inner: Any, params: Any, state: Any, *input: Any, training: bool, key: Any) -> tuple[Any, Any]:
        frozen = getattr(self.apply, "frozen", None)
        flags = jax.tree.map(lambda leaf: False, state) if frozen is None else frozen(state)
        entering = jax.tree.map(lambda flag, leaf: narrowed(leaf, self.dtype) if flag else leaf, flags, state)
        result, after = inner(narrowed(params, self.dtype), entering, *input, training=training, key=key)
        return restored(result), _as_before(flags, state, after)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "apply":  # a copy asks before it has any attribute
            raise AttributeError(name)
        return getattr(self.apply, name)

    def __repr__(self) -> str:
        return f"{self.apply!r} in {self.dtype.name}"


def _as_before(frozen: Any, old: Any, new: Any) -> Any:
    """The new state with floats of the dtypes that they had, and the old one where it is frozen.

    One of another structure stays: the step refuses it.
    """
    if new is old or jax.tree.structure(new) != jax.tree.structure(old):
        return new

    def cast(frozen: bool, before: Any, after: Any) -> Any:
        if frozen:
            return before
        both = _is_float(before) and _is_float(after)
        return after.astype(before.dtype) if both and after.dtype != before.dtype else after

    return jax.tree.map(cast, frozen, old, new)


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
