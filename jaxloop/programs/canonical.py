"""Convolutions rewritten to the one layout that XLA's CPU backend runs fast inside loops too.

That backend gives a convolution to its fast kernels only if the axes come as batch, space, channels, those of the
kernel as space, input channels, output channels. Outside loops it brings them there by itself; inside a `while` or
a `cond` it does not, and falls back to a loop that is up to seventy times slower. The gradient of a convolution
always has other axes. So a step that is to be scanned is traced, each convolution with other axes is put between
transposes, and what comes out is evaluated in the step's place. It is the change that XLA would have made.

The backend's rule is `PotentiallyImplementedAsEigenConvolution` in XLA's `service/cpu/ir_emission_utils.cc`; the pass
that sees to it outside loops is its `ConvCanonicalization`. See also https://github.com/jax-ml/jax/issues/12868.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage] from JAX 0.12 on
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
    jaxprs_in_params,
    primitives,
)
from jax.sharding import NamedSharding, PartitionSpec

from jaxloop.measured import looks_into_values

_ENTERED = frozenset(
    {
        primitives.jit_p,
        primitives.call_p,
        primitives.closed_call_p,
        primitives.remat_p,
        primitives.custom_jvp_call_p,
        primitives.custom_vjp_call_p,
        primitives.scan_p,
        primitives.while_p,
        primitives.cond_p,
    }
)
"""The primitives whose jaxprs are rewritten: each runs them as they stand."""


def canonical(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its convolutions in canonical layout, to be called while something is traced.

    Traces `function` with what it is called with. It may use loops, branches, `jit`, `remat`, custom derivatives,
    effects and typed keys, and be called under `jit`, `vmap` or `grad`; the derivative of the result is right, but
    its convolutions are whatever JAX makes of them.

    Its convolutions give, in loops and outside, bit for bit what those of `function` give outside loops. Two things
    round otherwise: batch groups inside a loop, which the kernel gradient of a grouped convolution has (XLA takes
    another kernel there; by 3e-6 of the largest entry in what was tried), and now and then what XLA fuses around
    the transposes (by 1e-7).

    With `jax_disable_jit` or `jax_debug_nans` on, `function` itself is called, so that values and places are shown.

    Args:
      function: takes and gives PyTrees of arrays, all by position.

    Example:

    ```python
    many = jax.jit(canonical(lambda carry, batches: jax.lax.scan(step, carry, batches)))
    ```
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if looks_into_values():
            return function(*arguments)
        closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = jaxpr_as_fun(rewritten(closed))(*jax.tree.leaves(arguments))
        # A result that depends on no argument comes as a Python number. It gets the dtype that it had.
        leaves = map(_as_traced, results, closed.out_avals)
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return call


def _as_traced(leaf: Any, aval: Any) -> Any:
    """A result of a jaxpr in the dtype that it had; a weakly typed number stays a number."""
    return leaf if isinstance(leaf, jax.Array) or aval.weak_type else jnp.asarray(leaf, aval.dtype)


def rewritten(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The jaxpr with its convolutions in canonical layout; itself if there is nothing to do.

    Inputs, outputs, constants, effects, names and source locations stay. Jaxprs inside are rewritten where it is known
    what runs them: `jit`, `remat`, custom derivatives, `scan`, `while`, `cond`.
    """
    return _rewritten(closed, {})


def other_layouts(jaxpr: ClosedJaxpr | Jaxpr) -> tuple[str, ...]:
    """Where there are convolutions in other than the canonical layout: for each the names of what holds it.

    Empty before rewriting: there is nothing to do. Empty afterwards: everything was done. What is left would be slow
    inside a loop.

    Example: `("conv_general_dilated", "scan/jit/conv_general_dilated", "shard_map/conv_general_dilated")`.
    """
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if _is_convolution(equation) and equation.params["dimension_numbers"] != _canonical_numbers(equation):
            found.append(name)
        for inner in jaxprs_in_params(equation.params):
            found += [f"{name}/{place}" for place in other_layouts(inner)]
    return tuple(found)


def _rewritten(value: Any, done: dict[Any, Any]) -> Any:
    """A parameter of an equation, the jaxprs in it rewritten; what is used several times in one stays so.

    Args:
      value: a jaxpr, a tuple of them, or anything else, which stays as it is.
      done: each jaxpr met before, with what it was rewritten to; itself if nothing was.
    """
    if type(value) is tuple:
        parts = tuple(_rewritten(part, done) for part in value)
        return parts if _differ(parts, value) else value
    if not isinstance(value, ClosedJaxpr | Jaxpr):
        return value
    if value not in done:
        if isinstance(value, Jaxpr):  # which a closed one is too, from JAX 0.12 on
            equations = [new for old in value.eqns for new in _equations(old, done)]
            done[value] = value.replace(eqns=equations) if _differ(equations, value.eqns) else value
        else:
            jaxpr = _rewritten(value.jaxpr, done)
            done[value] = value if jaxpr is value.jaxpr else value.replace(jaxpr=jaxpr)
    return done[value]


def _equations(equation: JaxprEqn, done: dict[Any, Any]) -> list[JaxprEqn]:
    """The equations that replace one: only itself if it is no convolution in another layout and holds none."""
    if _is_convolution(equation):
        return _between_transposes(equation)
    if equation.primitive not in _ENTERED:
        return [equation]
    params = {name: _rewritten(value, done) for name, value in equation.params.items()}
    return [equation.replace(params=params)] if _differ(params.values(), equation.params.values()) else [equation]


def _between_transposes(equation: JaxprEqn) -> list[JaxprEqn]:
    """A convolution in canonical layout between the transposes that it needs, which write to the same variable."""
    numbers, wanted = equation.params["dimension_numbers"], _canonical_numbers(equation)
    if numbers == wanted:
        return [equation]
    equations: list[JaxprEqn] = []

    def add(primitive: Any, operands: list[Any], **params: Any) -> Var:
        result = Var(primitive.abstract_eval(*[operand.aval for operand in operands], **params)[0])
        new = equation.replace(primitive=primitive, invars=operands, outvars=[result], params=params)
        equations.append(new)
        return result

    def transposed(operand: Var | Literal, old: tuple[int, ...], new: tuple[int, ...]) -> Var | Literal:
        order = _order(old, new)
        return operand if order == tuple(sorted(order)) else add(primitives.transpose_p, [operand], permutation=order)

    operands = [transposed(*each) for each in zip(equation.invars, numbers[:2], wanted[:2], strict=True)]
    sharding = _permuted(equation.params["out_sharding"], _order(numbers.out_spec, wanted.out_spec))
    params = equation.params | {"dimension_numbers": wanted, "out_sharding": sharding}
    result = add(equation.primitive, operands, **params)
    transposed(result, wanted.out_spec, numbers.out_spec)
    return [*equations[:-1], equations[-1].replace(outvars=equation.outvars)]


def _is_convolution(equation: JaxprEqn) -> bool:
    return equation.primitive is primitives.conv_general_dilated_p


def _canonical_numbers(equation: JaxprEqn) -> Any:
    """`ConvDimensionNumbers` of batch, space, channels; of the kernel space, input, output channels."""
    numbers = equation.params["dimension_numbers"]
    last = len(numbers.lhs_spec) - 1
    maps = (0, last, *range(1, last))  # the places of batch, channels, space
    kernel = (last, last - 1, *range(last - 1))  # of output channels, input channels, space
    return type(numbers)(maps, kernel, maps)


def _order(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that takes each axis from its place in `old` to its place in `new`."""
    return tuple(source for _, source in sorted(zip(new, old, strict=True)))


def _permuted(sharding: NamedSharding | None, order: tuple[int, ...]) -> NamedSharding | None:
    """The sharding of an array whose axes are brought into `order`."""
    if sharding is None:
        return None
    spec = [*sharding.spec, *[None] * (len(order) - len(sharding.spec))]
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec[axis] for axis in order)))


def _differ(new: Any, old: Any) -> bool:
    """Whether any element is another object, or there are more."""
    return [id(one) for one in new] != [id(one) for one in old]
