"""What an object keeps: its attributes and the variables of its functions, as plain values that can be compared."""

import enum
import functools
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_DEEPEST = 6
_PLAIN = (bool, int, str, type(None))


def kept(thing: Any) -> dict[str, Any]:
    """What a callback keeps, by name, each as `plain` gives it.

    Of an object: its attributes. Of a function: what it has closed over, and the global variables that it uses, if
    they are numbers, text, collections or arrays.
    """
    found = dict(_attributes(thing))
    function = found.pop("function", None) if hasattr(thing, "host_declaration") else None
    for one in (thing, function):
        if isinstance(one, types.FunctionType):
            found |= dict(_variables(one))
        if isinstance(one, functools.partial):
            found |= {"function": one.func, "arguments": [one.args, one.keywords]}
    return {name: plain(value) for name, value in sorted(found.items())}


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, equal for values that hold the same; only the type of what cannot be looked into."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, bytes(value).hex()]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if isinstance(value, enum.Enum):
        return str(value)
    if depth >= _DEEPEST:
        return ["deeper", type(value).__qualname__]
    if isinstance(value, Mapping):
        return {str(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return ["set", sorted(repr(plain(each, depth + 1)) for each in value)]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(plain(each, depth + 1) for each in value)]
    return _object(value, depth + 1)


def short(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= 100 else f"{text[:97]}..."


def _object(value: Any, depth: int) -> Any:
    if isinstance(value, np.random.Generator):
        return plain(value.bit_generator.state, depth)
    if isinstance(value, np.random.RandomState):
        return plain(value.get_state(legacy=False), depth)
    if isinstance(value, random.Random):
        return plain(value.getstate(), depth)
    if isinstance(value, types.FunctionType):
        return {name: plain(each, depth) for name, each in _closed_over(value)}
    if isinstance(value, type | types.ModuleType) or not hasattr(value, "__dict__"):
        return [type(value).__qualname__] if not hasattr(value, "__fspath__") else value.__fspath__()
    return {name: plain(each, depth) for name, each in sorted(_attributes(value))}


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, but for what a `cached_property` has put there."""
    slots = [name for kind in type(thing).__mro__ for name in _slots(kind) if hasattr(thing, name)]
    yield from ((name, getattr(thing, name)) for name in slots)
    for name, value in getattr(thing, "__dict__", {}).items():
        if not isinstance(getattr(type(thing), name, None), functools.cached_property) and name != "__wrapped__":
            yield name, value


def _slots(kind: type) -> list[str]:
    slots = getattr(kind, "__slots__", ())
    names = [slots] if isinstance(slots, str) else [*slots]
    return [name for name in names if not name.startswith("__")]


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from _closed_over(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, bool | int | float | str | list | dict | set | bytearray | np.ndarray):
            yield f"global {name}", value


def _closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue


def _array(value: Any) -> Any:
    if isinstance(value, Tracer):
        return ["a traced value"]
    if isinstance(value, jax.Array) and value.is_deleted():
        return ["a deleted array"]
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return plain(array.tolist())
    return ["array", array.dtype.name, [*array.shape], array.tobytes().hex()]
