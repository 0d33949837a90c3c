"""The two ends of a model, as a traced program shows them: what is done first to an input, and last to an output."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jax.extend.core import Literal as Constant
from jax.extend.core import jaxprs_in_params

Activation = Literal["softmax", "sigmoid"]
#: What changes neither the numbers of an array nor which of them stand together.
_PASSES = frozenset(
    {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "expand_dims", "name", "optimization_barrier"}
    | {"pad", "reduce_precision", "reshape", "sharding_constraint", "slice", "squeeze", "stop_gradient", "transpose"}
)
_WEIGHS = frozenset({"conv_general_dilated", "dot_general"})


@dataclass(frozen=True, eq=False)
class _Scope:
    """A program within another: of a call, a loop, or the outermost.

    Attributes:
      program: the jaxpr.
      outer: the scope that calls it, and the equation there; None for the outermost.
    """

    program: Any
    outer: tuple["_Scope", Any] | None = None

    def maker(self, variable: Any) -> tuple["_Scope", Any] | None:
        """The equation that computes a variable, within whatever is called; None for an input or a constant."""
        scope: _Scope = self
        while not isinstance(variable, Constant):
            made = next((each for each in scope.program.eqns if variable in each.outvars), None)
            if made is None:
                found = scope._given(variable)
                if found is None:
                    return None
                scope, variable = found
                continue
            inner = _called(made)
            if inner is None or len(inner.outvars) != len(made.outvars):
                return scope, made
            scope, variable = _Scope(inner, (scope, made)), inner.outvars[made.outvars.index(variable)]
        return None

    def _given(self, variable: Any) -> tuple["_Scope", Any] | None:
        """What is given for an input of this scope, one scope further out."""
        if self.outer is None or variable not in self.program.invars:
            return None
        scope, call = self.outer
        if len(call.invars) != len(self.program.invars):
            return None
        return scope, call.invars[self.program.invars.index(variable)]

    def chain(self, variable: Any) -> Iterator[tuple["_Scope", Any]]:
        """The equations that made a variable, back to the first that changes numbers, which is the last given."""
        found = self.maker(variable)
        while found is not None:
            yield found
            scope, equation = found
            if equation.primitive.name not in _PASSES:
                return
            found = scope.maker(equation.invars[0])


def activation_of(program: Any, variable: Any) -> Activation | None:
    """What a program did last to the variable that is its output: a softmax, a sigmoid, or neither."""
    last = _last(_Scope(program), variable)
    if last is None:
        return None
    scope, equation = last
    if equation.primitive.name == "logistic":
        return "sigmoid"
    if equation.primitive.name != "div":
        return None
    above, below = (_last(scope, operand) for operand in equation.invars)
    names = [None if each is None else each[1].primitive.name for each in (above, below)]
    return "softmax" if names == ["exp", "reduce_sum"] else None


def weighs_first(program: Any, variable: Any) -> bool:
    """Whether an input is multiplied by weights as it comes: neither scaled, nor normalized, nor looked up before."""
    ahead = [(_Scope(program), variable)]
    while ahead:
        scope, one = ahead.pop()
        if scope.outer is not None:  # what a call gives goes on outside of it
            further, call = scope.outer
            results = zip(scope.program.outvars, call.outvars, strict=False)
            ahead += [(further, outside) for inside, outside in results if inside is one]
        for equation in scope.program.eqns:
            places = [place for place, given in enumerate(equation.invars) if given is one]
            if not places:
                continue
            inner, name = _called(equation), equation.primitive.name
            if name in _WEIGHS:
                return True
            if inner is not None and len(inner.invars) == len(equation.invars):
                ahead += [(_Scope(inner, (scope, equation)), inner.invars[place]) for place in places]
            elif name in _PASSES or name == "select_n":
                ahead.append((scope, equation.outvars[0]))
    return False


def _last(scope: _Scope, variable: Any) -> tuple[_Scope, Any] | None:
    """The equation that last changed the numbers of a variable."""
    return list(scope.chain(variable))[-1] if scope.maker(variable) is not None else None


def _called(equation: Any) -> Any:
    """The program that an equation calls; None if it is an operation of its own."""
    inner = next(iter(jaxprs_in_params(equation.params)), None)
    return getattr(inner, "jaxpr", inner)
