"""The mode of a call: the arguments by which a module is told whether it runs in training or in inference."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxloop.adapters.by_value import ByValue

#: The arguments that say the mode, and their values in training.
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
    """The arguments that say the mode. Equal for equal arguments and values.

    Attributes:
      said: pairs of an argument's name and its values in training and in inference; None if the arguments are found in
        the signature of each call.
    """

    said: ByValue | None = None

    def told(self, function: Callable[..., Any], training: bool) -> dict[str, Any]:
        """The arguments that tell `function` the mode, by name.

        Raises:
          ValueError: it is not clear whether one of its arguments says the mode.
        """
        named, takes_any = _named_parameters(function)
        if self.said is not None:
            return {name: pair[not training] for name, pair in self.said.value if takes_any or name in named}
        found = [name for name in named if name in NAMES]
        for name in found:
            _check_clear(function, named[name])
        if "inference" in found and "deterministic" in found:
            found.remove("deterministic")  # equinox's old name of `inference`: it accepts only one of the two
        return {name: NAMES[name] is training for name in found}


def modes_of(given: Any, function: Any, where: str) -> Modes:
    """The modes of a model.

    Args:
      given: None, or a mapping such as `{"train": (True, False)}`: each argument's values in training and in inference.
      function: the function of the forward pass. Its signature is read, so that a wrong argument is refused here.
      where: what the user calls, for messages.

    Raises:
      TypeError, ValueError: `given` is not such a mapping, or names an argument that `function` does not take; without
        it, it is not clear whether an argument of `function` says the mode.
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
    """A stand-in for a module. If one of its methods takes the mode and is called without it, the mode is added.

    In everything else it acts as the module: attributes are read from the module and set on it.
    """

    def __init__(self, module: Any, modes: Modes, training: bool):
        object.__setattr__(self, "_told", (module, modes, training))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module, modes, training = self._told
        return with_mode(module, modes, training)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        module, modes, training = self._told
        value = getattr(module, name)
        if callable(value) and getattr(value, "__self__", None) is module:
            return with_mode(value, modes, training)
        return Told(value, modes, training) if speaks(type(value), modes) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._told[0], name, value)


def with_mode(function: Callable[..., Any], modes: Modes, training: bool) -> Callable[..., Any]:
    """`function`, with the arguments that say the mode added to calls that leave them out."""
    told = modes.told(function, training)
    if not told:
        return function

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **missing_of(function, told, arguments, named), **named)

    return call


def missing_of(function: Callable[..., Any], told: dict[str, Any], arguments: Any, named: Any) -> dict[str, Any]:
    """The entries of `told` that a call with these arguments does not pass itself."""
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
    """The parameters of `function` that a call can still pass by name, and whether it takes any keyword."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a built-in function can be without a signature
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
        f"whether `{parameter}` of {_name(function)} says the mode is not clear, since it is not a bool. Give its "
        f"values in training and in inference, as modes={{{name!r}: (True, False)}}, or modes={{}} if it does not."
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
