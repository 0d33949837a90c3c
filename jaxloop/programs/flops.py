"""The FLOPs of a traced program, counted in its jaxpr, before anything is lowered or compiled and on any backend.

XLA counts them too, but before it compiles it reports them only on CPUs. The backends of GPUs and TPUs are plug-ins,
and for these `jax.stages.Lowered.cost_analysis` gives None.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage] from JAX 0.12 on
    Jaxpr,
    JaxprEqn,
    jaxprs_in_params,
    primitives,
)

# fmt: off
#: One FLOP for each number that is made.
_BY_RESULT = frozenset({
    "add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp", "floor", "ceil", "round",
    "exp", "exp2", "expm1", "log", "log1p", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "sin", "cos",
    "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "logistic", "erf",
    "erfc", "erf_inv", "lgamma", "digamma",
})
#: One for each number that is taken.
_BY_OPERAND = frozenset({
    "reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin", "cumsum", "cumprod", "cummax",
    "cummin", "cumlogsumexp",
})
# fmt: on
#: Their jaxprs run once, as they stand. The jaxpr of others, such as a scatter, only says how two numbers are combined.
_ENTERED = frozenset(
    {
        primitives.jit_p.name,
        primitives.call_p.name,
        primitives.closed_call_p.name,
        primitives.remat_p.name,
        primitives.custom_jvp_call_p.name,
        primitives.custom_vjp_call_p.name,
        "shard_map",
    }
)
_LOOPS = frozenset({"scan", "while"})


def flops_of(program: ClosedJaxpr | Jaxpr) -> float:
    """The FLOPs of a traced program.

    Two for each term of a matrix product or a convolution, terms of padding left out, and one for each number of other
    arithmetic on floats. The body of a `scan` counts as often as it runs, the body of a `while` loop once. Of branches
    the one with the most counts. A kernel in another language counts nothing.

    Args:
      program: as `jitted.trace(*arguments).jaxpr` or `jax.make_jaxpr(function)(*arguments)`.

    Example:
      >>> flops_of(jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((8, 4)), jnp.ones((4, 2))))
      128.0
    """
    return float(sum(map(_flops, program.eqns)))


def loops_in(program: ClosedJaxpr | Jaxpr) -> frozenset[str]:
    """Which loops a traced program holds, wherever they stand: `"scan"`, of a fixed length, and `"while"`."""
    return frozenset(_loops(program))


def _loops(program: ClosedJaxpr | Jaxpr) -> Iterator[str]:
    for equation in program.eqns:
        if equation.primitive.name in _LOOPS:
            yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from _loops(inner)


def _flops(equation: JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * _size(equation.outvars[0]) * math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name in _BY_RESULT:
        return _floats(equation.outvars[0])
    if name in _BY_OPERAND:
        return _floats(equation.invars[0])
    if name == "scatter-add":
        return _floats(equation.invars[2])
    if name == "cond":
        return max(map(flops_of, params["branches"]))
    if name in _LOOPS or name in _ENTERED:
        return params.get("length", 1) * sum(map(flops_of, jaxprs_in_params(params)))
    return 0


def _of_convolution(equation: JaxprEqn) -> float:
    """Two for each output feature of each example, for each input feature of its group, and each pair of neighbours."""
    params = equation.params
    batch, features, *places = params["dimension_numbers"].out_spec
    _, inputs, *kernel_places = params["dimension_numbers"].rhs_spec
    _, _, *input_places = params["dimension_numbers"].lhs_spec
    maps, kernel, result = _shape(equation.invars[0]), _shape(equation.invars[1]), _shape(equation.outvars[0])
    terms = result[batch] * result[features] * kernel[inputs]
    for axis in range(len(places)):
        stride, spread = params["window_strides"][axis], params["lhs_dilation"][axis]
        offsets = np.arange(kernel[kernel_places[axis]]) * params["rhs_dilation"][axis] - params["padding"][axis][0]
        met = np.add.outer(np.arange(result[places[axis]]) * stride, offsets)
        length = (maps[input_places[axis]] - 1) * spread + 1
        terms *= int(np.count_nonzero((met >= 0) & (met < length) & (met % spread == 0)))
    return 2.0 * terms


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def _floats(variable: Any) -> int:
    """How many floats it holds."""
    return _size(variable) if jnp.issubdtype(variable.aval.dtype, jnp.inexact) else 0
