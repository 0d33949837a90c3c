"""Changes in place: what a callback was given is a value, and a container in it stays as it is."""

from collections.abc import Mapping
from typing import Any

Held = list[tuple[str, dict[Any, Any], dict[Any, Any]]]
_FIXES = {
    "stats": "loop = loop.record({name!r}, value)",
    "callback_state": "loop = loop.replace(callback_state=loop.callback_state | {{{name!r}: value}})",
    "metrics": "loop = loop.replace(metrics=loop.metrics | {{{name!r}: value}})",
}
_MODEL = "loop = loop.replace(model=loop.model.replace(params=...))"


def held_by(loop: Any) -> Held:
    """The dicts in a loop that a callback could change in place, each with its path and what it holds now."""
    held: Held = []
    for field in _FIXES:
        _hold(f"loop.{field}", getattr(loop, field), held)
    for part in ("params", "state"):
        _hold(f"loop.model.{part}", getattr(loop.model, part), held)
    return held


def check_untouched(where: str, held: Held) -> None:
    """Refuses that a callback has changed one of these dicts: it would be lost, or change what others hold.

    Raises:
      TypeError: it has. The message names the entry and the line to write.
    """
    for path, container, before in held:
        names = [name for name in before if name not in container]
        names += [name for name in container if _differs(name, container, before)]
        if names:
            fix = _FIXES.get(path.split(".")[1].partition("[")[0], _MODEL).format(name=names[0])
            raise TypeError(f"{where}: it changed `{path}[{names[0]!r}]` in place, but a loop is a value. Write {fix}.")


def _hold(path: str, value: Any, held: Held) -> None:
    if isinstance(value, dict):
        held.append((path, value, dict(value)))
        for name, below in value.items():
            _hold(f"{path}[{name!r}]", below, held)


def _differs(name: Any, container: Mapping[Any, Any], before: Mapping[Any, Any]) -> bool:
    return name not in before or container[name] is not before[name]
