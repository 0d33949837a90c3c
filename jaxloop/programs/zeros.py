"""Which results of a traced program are 0 by construction, as the gradient is to which nothing passes one back."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal as Constant
from jax.extend.core import jaxprs_in_params

_Rule = Callable[[Sequence[bool]], bool]
#: Whether a result is 0, by which operands are, for each primitive.
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("add", "add_any", "complex", "concatenate", "pad", "sub"), all),
    **dict.fromkeys(("broadcast_in_dim", "conj", "convert_element_type", "copy", "imag", "neg", "real"), all),
    **dict.fromkeys(("reduce_precision", "reduce_sum", "reshape", "rev", "sharding_constraint"), all),
    **dict.fromkeys(("squeeze", "stop_gradient", "transpose"), all),
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), any),
    "scatter-add": lambda zero: zero[0] and zero[2],
    "div": lambda zero: zero[0],
    "select_n": lambda zero: all(zero[1:]),
}


def zeros(program: Any, given: Sequence[bool]) -> list[bool]:
    """Whether each result of a program is 0 whatever it is given.

    Args:
      program: a jaxpr.
      given: whether each of its inputs is 0.
    """
    known = {variable for variable, zero in zip(program.invars, given, strict=True) if zero}

    def is_zero(variable: Any) -> bool:
        return not np.any(variable.val) if isinstance(variable, Constant) else variable in known

    for equation in program.eqns:
        results = _results(equation, [is_zero(variable) for variable in equation.invars])
        known.update(variable for variable, zero in zip(equation.outvars, results, strict=True) if zero)
    return [is_zero(variable) for variable in program.outvars]


def _results(equation: Any, given: list[bool]) -> list[bool]:
    """Whether each result of an equation is 0."""
    rule = _RULES.get(equation.primitive.name)
    inner = [getattr(each, "jaxpr", each) for each in jaxprs_in_params(equation.params)]
    nothing = [False] * len(equation.outvars)
    if rule is not None:
        return [rule(given)]
    if len(inner) != 1 or len(inner[0].invars) != len(given) or len(inner[0].outvars) != len(nothing):
        return nothing
    if equation.primitive.name == "scan":
        return _scanned(inner[0], equation, given)
    return nothing if equation.primitive.name == "while" else zeros(inner[0], given)


def _scanned(body: Any, equation: Any, given: list[bool]) -> list[bool]:
    """Whether each result of a scan is 0: what is carried is, if it begins so and the body keeps it so.

    What is not stacked is given for all turns, and then carried. JAX's own parameters for that differ by version.
    """
    carried = _not_stacked(equation.outvars, body.outvars)
    constants = _not_stacked(equation.invars, body.invars) - carried
    while True:
        results = zeros(body, given)
        carry = given[constants : constants + carried]
        kept = [before and after for before, after in zip(carry, results, strict=False)]
        if kept == carry:
            return [*kept, *results[carried:]]
        given = [*given[:constants], *kept, *given[constants + carried :]]


def _not_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many variables have as many axes outside of a scan as in its body."""
    return sum(out.aval.ndim == within.aval.ndim for out, within in zip(outside, inside, strict=True))
