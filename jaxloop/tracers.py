"""Tracers in what is static: values of a program that is being traced, held where they would outlive it."""

import functools
import inspect
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

#: What holds no tracer, or leads to all of Python.
_CLOSED = (str, bytes, int, float, complex, type(None), type, ModuleType, np.ndarray, np.dtype, jax.Array)
_MOST_PARTS = 100_000
_MOST_OF_CALLBACK = 2_000  # it is asked at each trace, and a closure may hold all of the data


def tracers_in(value: Any, most: int = _MOST_PARTS) -> Iterator[tuple[str, Tracer]]:
    """The tracers in `value`, each with the path to it: `(".args[0]", tracer)`.

    Closures, attributes and containers are followed, also those in the structure of a pytree. Globals are not, since
    they lead to all of Python. After `most` parts it gives up.
    """
    seen: set[int] = set()
    ahead = [("", value)]
    while ahead and len(seen) < most:
        path, part = ahead.pop()
        if isinstance(part, Tracer):
            yield path, part
        elif not isinstance(part, _CLOSED) and id(part) not in seen:
            seen.add(id(part))
            ahead.extend((path + name, below) for name, below in _parts(part))


def check_leaks(function: Any, what: str) -> None:
    """Refuses that traced code has kept a traced array: in its closure, its attributes, or a global container.

    Raises:
      TypeError: it has, as `list.append` does. The message says where, and what to write.
    """
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    globals_of = getattr(function, "__globals__", {})
    used = ((name, globals_of.get(name)) for name in names)
    containers = [(name, value) for name, value in used if isinstance(value, (list, dict, set, deque))]
    for start, value in [("", function), *containers]:
        for path, _ in tracers_in(value, _MOST_OF_CALLBACK):
            raise TypeError(_leaked(what, (start + path).lstrip(".")))


def _leaked(what: str, path: str) -> str:
    return (
        f"{what}: it is compiled, and has kept an array that has no value in `{path}`: it runs once, while it is "
        "traced, so `append` is called once. Write loop = loop.record(name, value) and read history.batches[name], or "
        "run it in Python by @jaxloop.on_host."
    )


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, with how Python reaches it."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in list(value.items()))
    elif isinstance(value, (tuple, list, set, frozenset)):
        yield from ((f"[{index}]", part) for index, part in enumerate(list(value)))
    elif isinstance(value, jax.tree_util.PyTreeDef):
        yield from ((f"[{index}]", part) for index, part in enumerate((value.node_data(), *value.children())))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif inspect.ismethod(value):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif inspect.isfunction(value):
        yield from zip(
            map(".{}".format, value.__code__.co_freevars), map(_content, value.__closure__ or ()), strict=True
        )
        yield from ((".__defaults__", value.__defaults__), (".__kwdefaults__", value.__kwdefaults__))
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__weakref__"]
    yield from ((f".{name}", getattr(value, name)) for name in slots if hasattr(value, name))
    yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items()))


def _content(cell: Any) -> Any:
    """What a cell of a closure holds; None if it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
