"""The training step and the evaluation step, as pure functions composed of stages. No I/O."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs] it has none

from jaxloop.blame import located
from jaxloop.carried import carried
from jaxloop.events import TRAINING, Event, Phase, Scope, leave, should_run
from jaxloop.extra_args import Saved, extra_args, save
from jaxloop.forward import cleaned, hold, predict, with_loss, with_model_state
from jaxloop.hyperparameters import RATE, columns
from jaxloop.loop import STEP_FIELDS, Loop
from jaxloop.measured import unmeasured
from jaxloop.metrics import Metric, is_scalar
from jaxloop.microbatches import differentiated
from jaxloop.optimizer import updated
from jaxloop.step_spec import StepSpec, statistic_of

Tree = TypeVar("Tree")
#: See `stages`.
Stage = Callable[[StepSpec, Loop, Any, Any], tuple[Loop, Any]]


def step(spec: StepSpec, loop: Loop, batch: tuple[Any, ...]) -> tuple[Loop, Any]:
    """One step of the phase that `loop` is in, from the loop between steps to the loop between steps.

    If no callback can cancel, the program holds no trace of cancelling; `stop` then stays the same object throughout.
    Otherwise each value is selected, new or old, with no branch: XLA's CPU backend runs convolutions inside a `cond`
    many times slower.

    Args:
      spec: what the step is made of.
      loop: in a phase, its step fields `None`.
      batch: (input, target, weight).

    Returns:
      The loop, and whether the step counted, so that it has a row: True or bool[].
    """
    entered = loop
    loop = hold(loop, batch)
    counted: Any = True
    for stage in stages(loop.phase):
        loop, counted = stage(spec, loop, counted, entered.stop)
    if loop.stop is entered.stop:
        return loop, counted
    running = should_run(entered.stop, entered.phase)
    return _select(running, loop, _with_stats_of(loop, entered)), running & counted


def run_steps(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, batches: Any, count: int) -> tuple[Any, Any]:
    """`count` steps in one program: for 1 the step itself, with no loop in the program, else a scan.

    Args:
      step: `step(carry, batch) -> (carry, row)`.
      carry: PyTree.
      batches: PyTree whose leaves have a leading axis of `count`.
      count: at least 1.

    Returns:
      The carry, and the rows stacked along a leading axis of `count`.
    """
    if count == 1:
        carry, row = step(carry, jax.tree.map(_first, batches))
        return carry, jax.tree.map(_stacked, row)
    return jax.lax.scan(step, carry, batches, length=count)  # the length is said, since batches may hold no array


def _first(leaf: Any) -> Any:
    return leaf[0]


def _stacked(leaf: Any) -> jax.Array:
    return _as_array(leaf)[None]


def stages(phase: Phase | None) -> tuple[Stage, ...]:
    """The stages of a step, cut after each of its three events.

    Each is `stage(spec, loop, counted, untouched_stop) -> (loop, counted)`. If nothing has been cancelled, `loop.stop`
    is the very object `untouched_stop`, which is `None` if that cannot be known. `counted` is whether the step counts,
    as far as that is known. The middle stage gives a mapping in its place: `reached`, whether its event came, and in
    training `saved`, what `extra_args` needs.
    """
    middle = _forward_and_gradient if phase is Phase.TRAINING else _predict
    settle = _update_and_measure if phase is Phase.TRAINING else _evaluate_and_measure
    return (*map(_keeping_kinds, (_begin, middle, settle)), _finish)


def output_of(spec: StepSpec, loop: Loop, batch: tuple[Any, ...], *, fresh: bool = False) -> Any:
    """The output of an evaluation step, as it is after INFERENCE_PREDICTION_END.

    Args:
      spec: what the step is made of.
      loop: in validation.
      batch: (input, target, weight).
      fresh: whether FIT_START is still to come, at which callbacks make room for what they remember.
    """
    spec = replace(spec, new_stats=True)
    loop = spec.fire(loop, Event.FIT_START) if fresh else loop
    loop = hold(loop, batch)
    for stage in stages(Phase.VALIDATION)[:2]:
        loop, _ = stage(spec, loop, True, loop.stop)
    return loop.output


def _keeping_kinds(stage: Stage) -> Stage:
    """`stage`, checked by `carried`."""

    def keeping(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
        after, counted = stage(spec, loop, counted, untouched_stop)
        return carried(loop, after), counted

    return keeping


def _begin(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    loop = cleaned(spec, loop)
    after = spec.fire(loop, Event.BATCH_START)
    return (after if after.weight is loop.weight else cleaned(spec, after)), counted


def _forward_and_gradient(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    before = loop
    loop = differentiated(spec, loop)
    middle = {"reached": _counts(loop, untouched_stop), "saved": save(spec, before, loop)}
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: spec.fire(loop, Event.UPDATE_START))
    if loop.stop is not untouched_stop:
        state = _select(should_run(loop.stop, loop.phase), loop.model.state, before.model.state)
        loop = with_model_state(loop, state)
    return loop, middle


def _predict(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    loop = predict(spec, loop)
    reached = _counts(loop, untouched_stop)
    event = Event.INFERENCE_PREDICTION_END
    return _unless_cancelled(loop, untouched_stop, lambda loop: spec.fire(loop, event)), {"reached": reached}


def _update_and_measure(spec: StepSpec, loop: Loop, middle: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    counts = _counts(loop, untouched_stop)
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: measure(spec, update(spec, loop, middle["saved"])))
    return spec.fire(loop, Event.BATCH_END), counts


def _evaluate_and_measure(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    counts = _counts(loop, untouched_stop)
    loop = with_loss(spec, loop)
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: measure(spec, loop))
    return spec.fire(loop, Event.BATCH_END), counts


def _finish(spec: StepSpec, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    stop = loop.stop if loop.stop is untouched_stop else leave(loop.stop, Scope.BATCH)
    return loop.replace(
        step=loop.step + 1 if loop.phase is Phase.TRAINING else loop.step,
        batch_index=loop.batch_index + 1,
        stop=stop,
        **dict.fromkeys(STEP_FIELDS),
    ), counted


def update(spec: StepSpec, loop: Loop, saved: Saved | None) -> Loop:
    """The optimizer's step: sets the parameters, `opt_state` and the learning rates that were applied.

    Args:
      spec: what the step is made of.
      loop: with its gradient.
      saved: what `extra_args.save` gave in this step.
    """
    params = loop.model.params
    known = extra_args(spec, loop, saved)
    updates, opt_state = updated(spec.optimizer, loop.gradient, loop.opt_state, params, known)
    params = optax.apply_updates(params, updates)
    loop = loop.replace(opt_state=opt_state, model=loop.model.replace(params=params))
    for column, rate in columns(opt_state, RATE).items():
        loop = loop.record(column, rate)
    return loop


def measure(spec: StepSpec, loop: Loop) -> Loop:
    """Adds the step to each metric's accumulator and reports its statistic."""
    spec.check_bound(loop)
    seen = {name: getattr(loop, name) for name in ("output", "target", "loss", "weight")}
    split = loop.split
    assert split is not None
    measured = [metric for metric in spec.metrics if split != TRAINING or is_scalar(metric)]
    metrics = loop.metrics | {each.name: _updated(each, loop, seen) for each in measured}
    stats = {}
    for metric in filter(is_scalar, measured):
        dtype = spec.stat_dtypes[metric.name]
        statistic = stats[split.stat(metric.name)] = statistic_of(metric, metrics[metric.name], dtype)
        if statistic.dtype != dtype:
            raise TypeError(
                f"metrics: {metric.name!r} gives {statistic.dtype.name}, where an empty accumulator gave {dtype.name}. "
                "Let `init` make arrays of the dtypes that `update` gives."
            )
    return loop.replace(metrics=metrics, stats=loop.stats | stats)


def _updated(metric: Metric, loop: Loop, seen: dict[str, Any]) -> Any:
    """The accumulator of a metric, with what it has seen of this batch."""
    with located(f"metric {metric.name!r}", loop, {name: seen[name] for name in ("output", "target")}):
        return metric.update(loop.metrics[metric.name], **seen)


def _counts(loop: Loop, untouched_stop: Any) -> Any:
    return True if loop.stop is untouched_stop else should_run(loop.stop, loop.phase)


def _unless_cancelled(loop: Loop, untouched_stop: Any, stage: Callable[[Loop], Loop]) -> Loop:
    """`stage(loop)`, or `loop` where an earlier cancel skips the step."""
    after = stage(loop)
    if loop.stop is untouched_stop:
        return after
    return _select(should_run(loop.stop, loop.phase), after, _with_stats_of(after, loop))


def _with_stats_of(after: Loop, before: Loop) -> Loop:
    """`before` with the names that `after` records for the first time, not measured yet.

    Both must have the same names to be selected. New ones come up only while a trace finds out which there are.
    """
    missing = {name: _as_array(unmeasured(new.dtype)) for name, new in after.stats.items() if name not in before.stats}
    return before.replace(stats=before.stats | missing) if missing else before


def _select(condition: Any, new: Tree, old: Tree) -> Tree:
    """`new` where `condition` holds, else `old`, leaf by leaf. Leaves that are the same object stay as they are."""

    def pick(new_leaf: Any, old_leaf: Any) -> Any:
        return new_leaf if new_leaf is old_leaf else jnp.where(condition, new_leaf, old_leaf)

    return jax.tree.map(pick, new, old)


def _as_array(value: Any) -> jax.Array:
    return jnp.asarray(value)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open
