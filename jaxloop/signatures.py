"""What functions take: one that cannot be called as it will be is refused before anything is traced."""

import inspect
from collections.abc import Callable
from typing import Any


def misfit(function: Callable[..., Any], *names: str, keywords: tuple[str, ...] = ()) -> str | None:
    """What a function takes, as `"(a, b=0)"`, if it cannot be called with so many arguments; None if it can.

    A function without a signature, as built-in ones can be, is taken to fit.

    Args:
      function: what will be called.
      *names: the positional arguments.
      keywords: the names of keyword arguments.

    Example:
      >>> misfit(lambda loop: loop, "loop", "event")
      '(loop)'
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*names, **dict.fromkeys(keywords))
    except TypeError:
        empty = inspect.Parameter.empty  # annotations are long, and say nothing of how many there are
        return f"({', '.join(str(each.replace(annotation=empty)) for each in signature.parameters.values())})"
    return None


def check_callback(callback: Any, name: str) -> None:
    """Refuses a callback that does not take (loop, event). One that is bound first is not known yet.

    Raises:
      TypeError: it takes something else: it makes callbacks and was not called, or its signature is wrong.
    """
    if hasattr(callback, "bind") or isinstance(callback, type):
        return
    function = getattr(callback, "function", callback)
    takes = misfit(function, "loop", "event")
    if takes is None:
        return
    if (getattr(function, "__module__", None) or "").startswith("jaxloop."):
        what = "it makes a callback" if not name.startswith("on_host") else "it declares a host callback"
        fix = f"Call it, as {name}(...)." if not name.startswith("on_host") else "Write it as @on_host(...) above one."
        raise TypeError(f"callbacks: {name!r} takes {takes}, not (loop, event): {what}. {fix}")
    raise TypeError(
        f"callbacks: {name!r} must take (loop, event), got {takes}. Write def {name.rpartition('.')[2]}(loop, event), "
        "or call it, if it makes a callback."
    )


def check_loss(loss_fn: Any) -> None:
    """Refuses a loss function that does not take (output, target).

    Raises:
      TypeError: it takes something else.
    """
    takes = misfit(loss_fn, "output", "target")
    if takes is not None:
        raise TypeError(
            f"TrainingLoop: `loss_fn` must take (output, target), got {takes}. Write lambda output, target: ..., or "
            "give `differentiable_step` for a loss that needs more."
        )


def check_differentiable_step(function: Any) -> None:
    """Refuses a `differentiable_step` that does not take (model, loop).

    Raises:
      TypeError: it takes something else, or is no function.
    """
    takes = misfit(function, "model", "loop") if callable(function) else repr(function)
    if takes is not None:
        raise TypeError(
            f"TrainingLoop: `differentiable_step` must be a function of (model, loop), got {takes}. Write "
            "def step(model, loop): ...; return loss, loop.replace(output=output, model=model)."
        )
