"""What a step carries on to the next: its structure, shapes and dtypes stay, since all steps share one program."""

from typing import Any

from jaxloop.kinds import Widening, kept, widenings
from jaxloop.loop import Loop

#: What a step carries on, and who makes it.
_MAKERS = {
    "model": "what the model gives as its state",
    "opt_state": "what the optimizer gives",
    "metrics": "what the metric gives",
    "callback_state": "what the callback remembers",
    "key": "the key",
}


def carried(before: Loop, after: Loop) -> Loop:
    """`after`, checked: what it carries on has the structure, shapes and dtypes that it had `before`.

    The next step runs the same program, which would take the bits of another dtype for another number.

    Raises:
      TypeError: model, optimizer, metric or callback have changed a leaf's structure, shape or dtype.
      Widening: they have made floats wider, and the run can begin with those.
    """
    changed = {name for name in _MAKERS if getattr(after, name) is not getattr(before, name)}
    _refuse_widening(before, after, changed & {"model", "opt_state"})
    fields = {name: _kept(name, getattr(before, name), getattr(after, name)) for name in changed}
    return after.replace(**fields) if fields else after


def _kept(name: str, old: Any, new: Any) -> Any:
    fix = f"All steps share one program: begin with that kind, or convert {_MAKERS[name]}."
    return kept(f"step: loop.{name}", old, new, structure_fix=fix, leaf_fix=fix)


def _refuse_widening(before: Loop, after: Loop, names: set[str]) -> None:
    wider: dict[str, Any] = {}
    for name in names:
        wider |= widenings(f".{name}", getattr(before, name), getattr(after, name))
    if wider:
        raise Widening(wider)
