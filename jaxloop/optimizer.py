"""The extra arguments of an optimizer's update: those that its signature takes and that a step knows."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax  # pyright: ignore[reportMissingTypeStubs] it has none

#: What a step knows besides gradient, state and parameters; see `TrainingLoop`.
KNOWN = ("value", "grad", "value_fn", "obj_fn", "grad_fn", "per_example_grad_fn")
_GIVEN_ALWAYS = 3  # gradient, state and parameters, by position
_UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing \d+ required keyword-only arguments?: (.+)$")


def asked_for(optimizer: Any) -> frozenset[str]:
    """The names in `KNOWN` that the signature of the optimizer's update takes: all of them if it takes any keyword."""
    parameters = _extra_parameters(optimizer)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset(KNOWN)
    return frozenset(KNOWN).intersection(parameter.name for parameter in parameters)


def check_update(optimizer: Any) -> None:
    """Refuses an optimizer whose update requires an argument that a step does not know, if its signature shows this.

    Raises:
      TypeError: it requires one; the message names it.
    """
    for parameter in _extra_parameters(optimizer):
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not variable and parameter.default is parameter.empty and parameter.name not in KNOWN:
            raise _not_known(f"{parameter.name!r}")


def updated(optimizer: Any, gradient: Any, opt_state: Any, params: Any, known: Mapping[str, Any]) -> tuple[Any, Any]:
    """The updates and the new state that the optimizer makes from a gradient.

    A chain takes any keyword and passes it to each of its parts. Some parts, such as `optax.contrib.sam`, accept only
    the keywords they know. If one part refuses a keyword, all parts go without it.

    Args:
      optimizer: an optax transformation.
      gradient, opt_state, params: as its update takes them.
      known: the extra arguments that it can be given, by the names of `KNOWN`.

    Raises:
      TypeError: it requires something that is not known, pairs of parameters, or the gradient of each example.
    """
    _refuse_pairs(opt_state)
    calls: list[bool] = []  # whether the gradient of each example was asked for, which tracing shows

    def per_example_grad_fn(params: Any) -> Any:
        calls.append(True)
        return known["per_example_grad_fn"](params)

    names = asked_for(optimizer)
    given = {name: known[name] for name in KNOWN if name in names}
    if "per_example_grad_fn" in given:
        given["per_example_grad_fn"] = per_example_grad_fn
    try:
        result = _called(optimizer, gradient, opt_state, params, given)
    finally:
        if not calls:
            _refuse_rows(opt_state)
    return result


def _called(optimizer: Any, gradient: Any, opt_state: Any, params: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    try:
        return optimizer.update(gradient, opt_state, params, **given)
    except TypeError as error:
        unexpected, missing = _UNEXPECTED.search(str(error)), _MISSING.search(str(error))
        if missing:
            raise _not_known(missing[1]) from error
        if unexpected is None or unexpected[1] not in given:
            raise
        # A part of a chain does not show its signature: only its error tells which keyword it refuses.
        given = {name: value for name, value in given.items() if name != unexpected[1]}
    return _called(optimizer, gradient, opt_state, params, given)


def known_in_step(
    value: Any,
    gradient: Any,
    loss_at: Callable[[Any], Any],
    gradient_at: Callable[[Any], Any],
    examples_at: Callable[[Any], Any],
) -> dict[str, Any]:
    """What a step knows, by the names of `KNOWN`. A function that is not called costs nothing.

    Args:
      value: the mean loss of the batch, float[].
      gradient: the gradient of `value`, before any callback has changed it.
      loss_at: gives the mean loss of the batch for parameters.
      gradient_at: gives the gradient of that loss for parameters.
      examples_at: gives the gradient of each single example for parameters.
    """

    # `value_fn` takes the other names because a line search passes on to it all keywords that the search itself was
    # given, and raises if it does not take one of them.
    def value_fn(params: Any, *, obj_fn: Any = None, grad_fn: Any = None, per_example_grad_fn: Any = None) -> Any:
        return loss_at(params)

    def grad_fn(params: Any, index: Any = 0) -> Any:
        return gradient_at(params)

    return dict(zip(KNOWN, (value, gradient, value_fn, loss_at, grad_fn, examples_at), strict=True))


def _extra_parameters(optimizer: Any) -> list[inspect.Parameter]:
    """The parameters of its update after gradient, state and params; none if Python cannot find the signature."""
    try:
        return list(inspect.signature(optimizer.update).parameters.values())[_GIVEN_ALWAYS:]
    except (TypeError, ValueError):
        return []


def _holds(opt_state: Any, kind: type) -> bool:
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return any(isinstance(node, kind) for node in nodes)


def _not_known(names: str) -> TypeError:
    return TypeError(
        f"optimizer: its update requires {names}, which a step does not know; it knows {', '.join(KNOWN)}. Wrap it: "
        "optax.GradientTransformationExtraArgs(optimizer.init, update), where `update` calls optimizer.update with it."
    )


def _refuse_pairs(opt_state: Any) -> None:
    if _holds(opt_state, optax.LookaheadState):
        raise TypeError(
            "optimizer: optax.lookahead updates pairs of fast and slow parameters, optax.LookaheadParams, but a model "
            "has only one set of parameters. Leave it out, and average them by callbacks.ema(0.999, evaluate=True)."
        )


def _refuse_rows(opt_state: Any) -> None:
    if _holds(opt_state, optax.contrib.DifferentiallyPrivateAggregateState):
        raise TypeError(
            "optimizer: optax.contrib.differentially_private_aggregate (dpsgd) clips the gradient of each example, and "
            "would mistake the rows of the mean gradient for examples. Wrap it: "
            "optax.GradientTransformationExtraArgs(optimizer.init, update), with def update(updates, state, params, *, "
            "per_example_grad_fn, **extra): return optimizer.update(per_example_grad_fn(params), state, params)."
        )
