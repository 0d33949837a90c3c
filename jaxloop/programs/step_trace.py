"""A step that is traced once. All programs that hold it use that trace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal as Constant
from jax.extend.core import Var, jaxpr_as_fun, jaxprs_in_params

from jaxloop.loop import Loop
from jaxloop.programs.canonical import rewritten
from jaxloop.programs.ends import Activation, activation_of, weighs_first
from jaxloop.programs.zeros import zeros
from jaxloop.step import step
from jaxloop.step_spec import StepSpec


@dataclass(frozen=True)
class StepEnds:
    """What a step does first to the input of the model, what the model does last to its output, and if it can learn.

    Attributes:
      activations: by the path of each array of the output, if it is made by one.
      weighed: the paths of the arrays of the input that meet weights as they come.
      flat: whether the gradient of every parameter is 0 whatever the numbers are, since the loss passes none back, and
        something makes use of it.
    """

    activations: Mapping[str, Activation] = field(default_factory=dict[str, Activation])
    weighed: frozenset[str] = frozenset()
    flat: bool = False

    @classmethod
    def of(cls, program: Any, loop_size: int, input: Any, output: Any, gradient: Any) -> "StepEnds":
        """Those in a traced step, whose inputs are loop and batch, and whose last results are output and gradient."""
        inputs, outputs, gradients = (_paths(tree) for tree in (input, output, gradient))
        shown = program.outvars[len(program.outvars) - len(outputs) - len(gradients) :]
        made = zip(outputs, shown[: len(outputs)], strict=True)
        found = ((path, activation_of(program, variable)) for path, variable in made)
        followed = _is_followed(program, shown[len(outputs) :])
        flat = followed and all(zeros(program, [False] * len(program.invars))[-len(gradients) :])
        given = zip(inputs, program.invars[loop_size:], strict=False)
        weighed = frozenset(path for path, variable in given if weighs_first(program, variable))
        activations: dict[str, Any] = {path: last for path, last in found if last is not None}
        return cls(activations, weighed, flat)


@dataclass(frozen=True, eq=False)
class TracedStep:
    """What `step.step` did with a loop and a batch of one kind.

    It may be called only with what `takes` accepts. The loop may have more statistics, which it keeps.

    Attributes:
      jaxpr: takes the leaves of loop and batch; gives those of the loop, and whether the step counted.
      tree: the structure of loop and batch.
      result: the loop after the step, as shapes and dtypes.
      stats: the names in `loop.stats` before it.
      counts: whether the step always counts, since nothing can cancel it.
      ends: of the model in it.
    """

    jaxpr: Any
    tree: Any
    result: Loop
    stats: frozenset[str]
    counts: bool
    ends: StepEnds = StepEnds()

    def takes(self, loop: Loop, batch: Any) -> bool:
        """Whether tracing the step with these would give the same."""
        if not self.stats <= loop.stats.keys() >= self.result.stats.keys():
            return False
        if (
            not self.counts and loop.stats.keys() != self.stats
        ):  # a cancelled step gives back the old values, so it must know them
            return False
        leaves, tree = jax.tree.flatten((self._entering(loop), batch))
        return tree == self.tree and all(map(_alike, leaves, self.jaxpr.in_avals))

    def __call__(self, loop: Loop, batch: Any) -> tuple[Loop, Any]:
        """As `step`, for a loop and a batch that are traced."""
        return self._evaluated(self.jaxpr, loop, batch)

    def canonical(self, loop: Loop, batch: Any) -> tuple[Loop, Any]:
        """The same with its convolutions in canonical layout."""
        return self._evaluated(rewritten(self.jaxpr), loop, batch)

    def _evaluated(self, jaxpr: Any, loop: Loop, batch: Any) -> tuple[Loop, Any]:
        results = jaxpr_as_fun(jaxpr)(*jax.tree.leaves((self._entering(loop), batch)))
        # A result that depends on no input comes as a Python number. It gets the dtype that the step gave it.
        *leaves, counted = map(_as_traced, results, jaxpr.out_avals)
        after = jax.tree.unflatten(jax.tree.structure(self.result), leaves)
        return after.replace(stats=loop.stats | after.stats), True if self.counts else counted

    def _entering(self, loop: Loop) -> Loop:
        return loop.replace(stats={name: value for name, value in loop.stats.items() if name in self.stats})


def traced_step(
    spec: StepSpec, loop: Loop, batch: Any, shown: Callable[[], tuple[Any, Any]] | None = None
) -> TracedStep:
    """The step of a loop in a phase, over a batch; both may be abstract.

    Args:
      spec: what the step is made of.
      loop: in a phase.
      batch: (input, target, weight).
      shown: gives output and gradient of the model once the step has made them, while it is still traced; None for
        what it does not make. Only with it the ends of the model are looked for.
    """
    counts: list[bool] = []

    def flat(loop: Loop, batch: Any) -> tuple[Loop, Any, Any]:
        after, counted = step(spec, loop, batch)
        counts.append(counted is True)
        return after, counted, None if shown is None else shown()

    jaxpr, (result, _, ends_of) = jax.make_jaxpr(flat, return_shape=True)(loop, batch)
    size = len(jax.tree.leaves(loop))
    ends = StepEnds() if shown is None else StepEnds.of(jaxpr.jaxpr, size, batch[0], *ends_of)
    outputs = len(jax.tree.leaves(ends_of))
    kept = _without_last(jaxpr, outputs) if outputs else jaxpr
    return TracedStep(kept, jax.tree.structure((loop, batch)), result, frozenset(loop.stats), counts[0], ends)


def _is_followed(program: Any, gradient: list[Any]) -> bool:
    """Whether anything in a program uses a gradient: an optimizer that tries out steps may not."""
    used = {variable for equation in program.eqns for variable in equation.invars if isinstance(variable, Var)}
    return any(isinstance(variable, Constant) or variable in used for variable in gradient)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _without_last(jaxpr: Any, count: int) -> Any:
    """A traced program without its last results."""
    inner = jaxpr.jaxpr
    debug = inner.debug_info
    if debug is not None and debug.result_paths is not None:
        debug = debug._replace(result_paths=debug.result_paths[:-count])
    return jaxpr.replace(jaxpr=inner.replace(outvars=inner.outvars[:-count], debug_info=debug))


def _as_traced(leaf: Any, aval: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, aval.dtype)


def calls_python(program: Any) -> bool:
    """Whether a traced program calls Python while it runs, as `equinox.error_if` does, and so can raise.

    `jax.debug.print` does not count.
    """
    jaxpr = getattr(program, "jaxpr", program)
    return any(
        ("callback" in equation.primitive.name) or any(map(calls_python, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _alike(leaf: Any, aval: Any) -> bool:
    found = jax.typeof(leaf)
    return (found.shape, found.dtype, found.weak_type) == (aval.shape, aval.dtype, aval.weak_type)
