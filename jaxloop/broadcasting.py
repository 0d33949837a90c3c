"""Functions that broadcast output and target to a matrix of all pairs, where one number per example is meant."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params


def check_spread(where: str, fn: Callable[[Any, Any], Any], output: Any, target: Any) -> None:
    """Refuses a loss, or what is measured, in which an output (n, 1) meets a target (n,), or the reverse, as n * n.

    NumPy's rules allow it, and the loss looks right: it goes down, towards the mean of the targets.

    Args:
      where: whose function it is, for the message.
      fn: of output and target; it is traced only if the shapes are such.
      output, target: arrays, traced or not; or other trees, which pass.

    Raises:
      ValueError: within the function there is an array of shape (n, n).
    """
    shapes = [getattr(each, "shape", ()) for each in (output, target)]
    short, long = sorted(shapes, key=len)
    if len(short) != 1 or short[0] < 2 or long != (*short, 1):
        return
    spread = (*short, *short)
    kinds = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (output, target)]
    if not _makes(jax.make_jaxpr(fn)(*kinds).jaxpr, spread):
        return
    name, other = ("output", "target") if shapes[0] == long else ("target", "output")
    raise ValueError(
        f"{where}: `output` and `target` must be of one shape, got {shapes[0]} and {shapes[1]}, which it broadcasts to "
        f"{spread}. Drop the last axis of `{name}`, {name}[..., 0], or add one to `{other}`, {other}[..., None]."
    )


def _makes(program: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array of a shape comes up anywhere in a program."""
    return any(
        any(getattr(result.aval, "shape", None) == shape for result in equation.outvars)
        or any(_makes(inner, shape) for inner in map(_open, jaxprs_in_params(equation.params)))
        for equation in program.eqns
    )


def _open(program: Any) -> Any:
    return getattr(program, "jaxpr", program)
