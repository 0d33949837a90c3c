"""What a call is told of the mode it runs in, by arguments that it takes."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxloop.adapters.by_value import ByValue

#: Arguments that say the mode, and what they are in training.
NAMES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "use_running_average": False,
}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Modes:
    """What calls are told. Equal for what says the same.

    Attributes:
      said: a mapping from the name of an argument to what it is in training and in inference, as items; None where
        it is found out from what the call takes.
    """

    said: ByValue | None = None

    def told(self, function: Callable[..., Any], training: bool) -> dict[str, Any]:
        """The arguments that tell `function` the mode, by name.

        Raises:
          ValueError: whether one of its arguments says the mode is not clear.
        """
        named, takes_any = _named_parameters(function)
        if self.said is not None:
            return {name: pair[not training] for name, pair in self.said.value if takes_any or name in named}
        found = [name for name in named if name in NAMES]
        for name in found:
            _check_clear(function, named[name])
        if "inference" in found and "deterministic" in found:
            found.remove("deterministic")  # its old name in equinox, which takes but one of them
        return {name: NAMES[name] is training for name in found}


def modes_of(given: Any, function: Any, where: str) -> Modes:
    """The modes of a model.

    Args:
      given: None, or a mapping such as `{"train": (True, False)}`: what each argument is in training and inference.
      function: what is called in the forward pass, looked at so that what does not fit is refused here.
      where: what the user calls, for messages.

    Raises:
      TypeError, ValueError: `given` is no such mapping, or names what `function` does not take; without it, whether
        an argument of `function` says the mode is not clear.
    """
    if given is None:
        modes = Modes()
    else:
        _check_given(given, function, where)
        modes = Modes(ByValue(tuple((name, tuple(pair)) for name, pair in given.items())))
    try:
        modes.told(function, training=True)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return modes


class Told:
    """A module to the function that calls it: what its methods take of the mode, and are not given, they are told.

    Everything else is the module's own: attributes are read from it and set on it.
    """

    def __init__(self, module: Any, modes: Modes, training: bool):
        object.__setattr__(self, "_told", (module, modes, training))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module, modes, training = self._told
        return telling(module, modes, training)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        module, modes, training = self._told
        value = getattr(module, name)
        if callable(value) and getattr(value, "__self__", None) is module:
            return telling(value, modes, training)
        return Told(value, modes, training) if speaks(type(value), modes) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._told[0], name, value)


def telling(function: Callable[..., Any], modes: Modes, training: bool) -> Callable[..., Any]:
    """`function`, told the mode by the arguments of it that a call leaves out."""
    told = modes.told(function, training)
    if not told:
        return function

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **left_out(function, told, arguments, named), **named)

    return call


def left_out(function: Callable[..., Any], told: dict[str, Any], arguments: Any, named: Any) -> dict[str, Any]:
    """What of `told` a call with these arguments does not say itself."""
    given = inspect.signature(function).bind_partial(*arguments, **named).arguments
    return {name: value for name, value in told.items() if name not in given}


def speaks(kind: type, modes: Modes) -> bool:
    """Whether a call of an instance of this class, or a public method of it, takes an argument that says the mode."""
    names = NAMES if modes.said is None else [name for name, _ in modes.said.value]
    methods = [getattr(kind, name, None) for name in dir(kind) if name == "__call__" or not name.startswith("_")]
    return any(
        name in _named_parameters(method)[0] for method in methods if inspect.isfunction(method) for name in names
    )


def _named_parameters(function: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """What can be given to `function` by name and is not fixed already, and whether it takes any name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it shows no signature
        return {}, True
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    named = {one.name: one for one in parameters if one.kind in _NAMED and one.name not in fixed}
    return named, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _check_clear(function: Any, parameter: inspect.Parameter) -> None:
    default, annotation = parameter.default, parameter.annotation
    unsaid = default is inspect.Parameter.empty or default is None
    free = annotation in (inspect.Parameter.empty, Any)
    if (unsaid or isinstance(default, bool)) and (free or "bool" in str(annotation).lower()):
        return
    name = parameter.name
    raise ValueError(
        f"whether `{parameter}` of {_name(function)} says the mode is not clear, since it is no bool. Say what it "
        f"is in training and in inference, as modes={{{name!r}: (True, False)}}, or tell it nothing, by modes={{}}."
    )


def _check_given(given: Any, function: Any, where: str) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(pair, (tuple, list)) for pair in given.values()):
        raise TypeError(
            f"{where}: `modes` must map each argument to what it is in training and in inference, as "
            f"{{'train': (True, False)}}, got {given!r}."
        )
    named, takes_any = _named_parameters(function)
    for name, pair in given.items():
        if len(pair) != 2:
            raise ValueError(
                f"{where}: modes[{name!r}] must be two values, in training and in inference, got {len(pair)}."
            )
        if not takes_any and name not in named:
            raise ValueError(
                f"{where}: `modes` names {name!r}, which {_name(function)} does not take; it takes "
                f"{', '.join(map(repr, named)) or 'nothing by name'}."
            )


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else f"{type(function).__name__}.__call__"
