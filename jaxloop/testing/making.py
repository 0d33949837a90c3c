"""Fresh callbacks for each run, and the names by which another process finds what makes them."""

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxloop.callback import name_of


@dataclass(frozen=True)
class Maker:
    """Makes the callbacks of one run.

    Attributes:
      make: gives them, for files in a folder.
      name: what is checked, for messages.
      known_as: `"module:name"`, by which a fresh process finds what was given; None if it cannot.
      shares_functions: whether the host functions of two runs are the same, since an object was given and not what
        makes it.
    """

    make: Callable[[Path], list[Any]]
    name: str
    known_as: str | None
    shares_functions: bool


def maker_of(given: Any) -> Maker:
    """The maker of what `check_callback` was given: a callback, a list of callbacks, or a function that makes them.

    Raises:
      TypeError: it is none of these.
    """
    if isinstance(given, list | tuple):
        listed: list[Any] = [*given]
        name = ", ".join(map(name_of, listed))
        return Maker(lambda folder: [_fresh(callback) for callback in listed], name, None, True)
    if _makes_callbacks(given):
        return Maker(lambda folder: _listed(given(folder)), name_of(given), known_as(given), False)
    return Maker(lambda folder: [_fresh(given)], name_of(given), known_as(given), True)


def known_as(given: Any) -> str | None:
    """The name `"module:name"` by which a fresh process can import this very object; None if there is none."""
    for named in (given, getattr(given, "function", None)):  # a function that `on_host` declares keeps its own name
        module, name = getattr(named, "__module__", None), getattr(named, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "<" in name:
            continue
        try:
            if found(f"{module}:{name}") is given:
                return f"{module}:{name}"
        except (ImportError, AttributeError):
            continue
    return None


def found(name: str) -> Any:
    """What is `known_as` by this name."""
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


def _makes_callbacks(given: Any) -> bool:
    """Whether it is called with a folder; a callback is called with a loop and an event."""
    if isinstance(given, type):
        return True
    if any(hasattr(given, name) for name in ("host_declaration", "bind", "companion")):
        return False
    if not callable(given):
        raise TypeError(
            f"check_callback: expected a callback, or a function that makes one, got {given!r}. "
            "Write check_callback(lambda folder: MyCallback(folder))."
        )
    signature = inspect.signature(given)
    takes_one, takes_two = (_takes(signature, count) for count in (1, 2))
    if not takes_one and not takes_two:
        raise TypeError(
            f"check_callback: {name_of(given)!r} takes neither a folder, as what makes a callback, nor a loop and an "
            f"event, as a callback: it is {name_of(given)}{signature}."
        )
    return takes_one and not takes_two


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _listed(made: Any) -> list[Any]:
    callbacks: Sequence[Any] = made if isinstance(made, list | tuple) else [made]
    for callback in callbacks:
        if not callable(callback) and not hasattr(callback, "bind"):
            raise TypeError(f"check_callback: what makes callbacks must give one, or a list of them, got {made!r}.")
    return [*callbacks]


def _fresh(callback: Any) -> Any:
    """The callback for one run. A compiled one has no state of its own, so it can be used again."""
    if not hasattr(callback, "host_declaration") and not hasattr(callback, "companion"):
        return callback
    try:
        return copy.deepcopy(callback)
    except Exception as error:
        raise TypeError(
            f"check_callback: {name_of(callback)!r} cannot be copied for each run, {error}. Give what makes it: "
            "check_callback(lambda folder: MyCallback(folder))."
        ) from error
