"""The training step and the evaluation step, as pure functions composed of stages. No I/O."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxloop.callback import Callback, fire
from jaxloop.events import Event, Phase, Scope, leave, should_run
from jaxloop.kinds import Widening, kept, widenings
from jaxloop.loop import FIELDS, STEP_FIELDS, Loop, find_hyperparameters
from jaxloop.losses import weighted_mean
from jaxloop.masks import with_stand_ins, without_wild
from jaxloop.measured import as_statistic, unmeasured
from jaxloop.metrics import Metric
from jaxloop.model import Model, overwritten_state
from jaxloop.optimizer import asked_for, known_in_step, updated

LossFn = Callable[[Any, Any], jax.Array]
Tree = TypeVar("Tree")
DifferentiableStep = Callable[[Model, Loop], tuple[jax.Array, Loop]]


@dataclass(frozen=True, eq=False)
class Parts:
    """What the steps of a run are made of. All static: constants of the programs.

    Attributes:
      optimizer: the optax transformation.
      loss_fn: `loss_fn(output, target)`, one loss per example or token, or a scalar.
      differentiable_step: in place of forward pass and `loss_fn`, or None.
      metrics: what is measured.
      callbacks: the compiled ones, bound to the plan.
      new_stats: whether callbacks may record names that are not in `loop.stats` yet.
    """

    optimizer: optax.GradientTransformation
    loss_fn: LossFn | None
    differentiable_step: DifferentiableStep | None
    metrics: tuple[Metric, ...]
    callbacks: tuple[Callback, ...] = ()
    new_stats: bool = False

    def fire(self, loop: Loop, event: Event) -> Loop:
        """What the compiled callbacks make of `loop` at `event`."""
        return fire(self.callbacks, loop, event, new_stats=self.new_stats)

    @functools.cached_property
    def stat_dtypes(self) -> dict[str, Any]:
        """The dtype of each metric's statistic, by the metric's name; nothing runs on a device."""

        def empty(metric: Metric) -> Any:
            return _statistic(metric, jax.tree.map(jnp.asarray, metric.init()))

        return {metric.name: jax.eval_shape(lambda metric=metric: empty(metric)).dtype for metric in self.metrics}


def step(parts: Parts, loop: Loop, batch: tuple[Any, ...]) -> tuple[Loop, Any]:
    """One step of the phase that `loop` is in, from the loop between steps to the loop between steps.

    If no callback can cancel, seen by `stop` being the same object all along, the program holds no trace of
    cancelling. Otherwise new values are selected against old ones, with no branch: XLA's CPU backend runs
    convolutions inside a `cond` many times slower.

    Args:
      parts: what the step is made of.
      loop: in a phase, its step fields `None`.
      batch: (input, target, weight).

    Returns:
      The loop, and whether the step counted, so that it has a row: True or bool[].
    """
    entered = loop
    loop = hold(loop, batch)
    counted: Any = True
    for stage in stages(loop.phase):
        loop, counted = stage(parts, loop, counted, entered.stop)
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
        carry, row = step(carry, jax.tree.map(lambda leaf: leaf[0], batches))
        return carry, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], row)
    return jax.lax.scan(step, carry, batches, length=count)  # batches may hold nothing


def stages(phase: Phase | None) -> tuple[Callable[..., tuple[Loop, Any]], ...]:
    """The stages of a step, cut behind its three events.

    Each is `stage(parts, loop, counted, untouched_stop) -> (loop, counted)`, where `untouched_stop` is the
    `stop` that shows, by identity, that nothing can have been cancelled; `None` if that is not known. `counted` is
    whether the step counts, as far as that is known. The middle stage gives in its place a mapping: whether its event
    was `reached`, and of training what the optimizer may ask for of the loop before.
    """
    middle = _forward_and_gradient if phase is Phase.TRAINING else _predict
    settle = _update_and_measure if phase is Phase.TRAINING else _evaluate_and_measure
    return (*map(_keeping_kinds, (_begin, middle, settle)), _finish)


def hold(loop: Loop, batch: tuple[Any, ...]) -> Loop:
    """The loop with the batch at hand."""
    return loop.replace(**dict(zip(("input", "target", "weight"), batch, strict=True)))


def output_of(parts: Parts, loop: Loop, batch: tuple[Any, ...], *, fresh: bool = False) -> Any:
    """The output of an evaluation step, as it stands behind INFERENCE_PREDICTION_END.

    Args:
      parts: what the step is made of.
      loop: in validation.
      batch: (input, target, weight).
      fresh: whether FIT_START is still to come, at which callbacks make room for what they remember.
    """
    parts = replace(parts, new_stats=True)
    loop = parts.fire(loop, Event.FIT_START) if fresh else loop
    loop = hold(loop, batch)
    for stage in stages(Phase.VALIDATION)[:2]:
        loop, _ = stage(parts, loop, True, loop.stop)
    return loop.output


#: What a step carries on, and who makes it.
_MAKERS = {
    "model": "what the model gives as its state",
    "opt_state": "what the optimizer gives",
    "metrics": "what the metric gives",
    "callback_state": "what the callback remembers",
    "key": "the key",
}


def _keeping_kinds(stage: Callable[..., tuple[Loop, Any]]) -> Callable[..., tuple[Loop, Any]]:
    """`stage`, once what it carries on is of the kind that it was: else its bits would be taken for another number's.

    Raises:
      TypeError: model, optimizer, metric or callback have changed a leaf's structure, shape or dtype.
      Widening: they have made floats wider, and the run can begin with those.
    """

    def keeping(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
        after, counted = stage(parts, loop, counted, untouched_stop)
        changed = {name for name in _MAKERS if getattr(after, name) is not getattr(loop, name)}
        _refuse_widening(loop, after, changed & {"model", "opt_state"})
        fields = {name: _kept(name, getattr(loop, name), getattr(after, name)) for name in changed}
        return after.replace(**fields) if fields else after, counted

    return keeping


def _kept(name: str, old: Any, new: Any) -> Any:
    fix = f"All steps share one program: begin with that kind, or convert {_MAKERS[name]}."
    return kept(f"step: loop.{name}", old, new, structure_fix=fix, leaf_fix=fix)


def _refuse_widening(before: Loop, after: Loop, names: set[str]) -> None:
    wider: dict[str, Any] = {}
    for name in names:
        wider |= widenings(f".{name}", getattr(before, name), getattr(after, name))
    if wider:
        raise Widening(wider)


def _begin(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    loop = _without_wild(parts, loop)
    after = parts.fire(loop, Event.BATCH_START)
    return (after if after.weight is loop.weight else _without_wild(parts, after)), counted


def _forward_and_gradient(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    before = loop
    loop = differentiate(parts, loop)
    behind = _left_behind(parts, before, loop)
    behind["reached"] = _counts(loop, untouched_stop)
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: parts.fire(loop, Event.UPDATE_START))
    if loop.stop is not untouched_stop:
        state = _select(should_run(loop.stop, loop.phase), loop.model.state, before.model.state)
        loop = with_model_state(loop, state)
    return loop, behind


def _predict(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    loop = predict(parts, loop)
    reached = _counts(loop, untouched_stop)
    event = Event.INFERENCE_PREDICTION_END
    return _unless_cancelled(loop, untouched_stop, lambda loop: parts.fire(loop, event)), {"reached": reached}


def _update_and_measure(parts: Parts, loop: Loop, behind: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    counts = _counts(loop, untouched_stop)
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: measure(parts, update(parts, loop, behind)))
    return parts.fire(loop, Event.BATCH_END), counts


def _evaluate_and_measure(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    counts = _counts(loop, untouched_stop)
    loop = evaluation_loss(parts, loop)
    loop = _unless_cancelled(loop, untouched_stop, lambda loop: measure(parts, loop))
    return parts.fire(loop, Event.BATCH_END), counts


def _finish(parts: Parts, loop: Loop, counted: Any, untouched_stop: Any) -> tuple[Loop, Any]:
    stop = loop.stop if loop.stop is untouched_stop else leave(loop.stop, Scope.BATCH)
    return loop.replace(
        step=loop.step + 1 if loop.phase is Phase.TRAINING else loop.step,
        batch_index=loop.batch_index + 1,
        stop=stop,
        **dict.fromkeys(STEP_FIELDS),
    ), counted


def differentiate(parts: Parts, loop: Loop) -> Loop:
    """Forward pass, loss and gradient: sets `output`, `loss`, `gradient` and the model's `state`."""
    mean_loss = functools.partial(_mean_loss, parts, loop)
    old = overwritten_state(loop.model)
    (gradient, new), changed = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(loop.model.params, old)
    gradient = _rising(gradient)
    state = changed.pop("model")
    return with_model_state(loop.replace(gradient=gradient, **changed), state | new if new else state)


def _rising(gradient: Any) -> Any:
    """The gradient in the direction in which the loss rises: of complex parameters `jax.grad` gives its conjugate."""
    return jax.tree.map(lambda leaf: leaf.conj() if jnp.iscomplexobj(leaf) else leaf, gradient)


def _mean_loss(
    parts: Parts, loop: Loop, params: Any, overwritten: Mapping[str, Any] = MappingProxyType({})
) -> tuple[jax.Array, dict[str, Any]]:
    """The mean loss of the batch at hand in training, and what the loop's fields become; of the model, its state."""
    model = loop.model.replace(params=params, training=True)
    model = model.replace(state=model.state | overwritten) if overwritten else model
    if parts.differentiable_step is None:
        output, model = model.forward(loop.input, loop.step_key("model"))
        after = loop.replace(output=output, model=model)
        after = after.replace(loss=_masked_loss(parts, after))
    else:
        loss, after = parts.differentiable_step(model, loop)
        after = after.replace(loss=loss)
    changed = {name: getattr(after, name) for name in FIELDS if getattr(after, name) is not getattr(loop, name)}
    changed["model"] = after.model.state
    return weighted_mean(after.loss, loop.weight), changed


def _left_behind(parts: Parts, before: Loop, after: Loop) -> dict[str, Any]:
    """What the optimizer may ask for and `differentiate`, or a callback behind it, has replaced.

    Args:
      parts: what the step is made of.
      before: the loop that was differentiated.
      after: the same with its gradient.
    """
    if not asked_for(parts.optimizer):
        return {}
    changed = [name for name in FIELDS if getattr(after, name) is not getattr(before, name)]
    fields = {name: before.model.state if name == "model" else getattr(before, name) for name in changed}
    return {"fields": fields, "gradient": after.gradient}


def _example_gradients(parts: Parts, loop: Loop, params: Any) -> Any:
    """The gradient of each example by itself, as a batch of one under a key of its own: a leading axis of examples."""

    def of_one(index: Any, batch: Any) -> Any:
        alone = hold(loop, jax.tree.map(lambda leaf: leaf[None], batch))
        alone = alone.replace(key=jax.random.fold_in(loop.key, index))
        return _rising(jax.grad(lambda params: _mean_loss(parts, alone, params)[0])(params))

    batch = (loop.input, loop.target, loop.weight)
    return jax.vmap(of_one)(jnp.arange(jax.tree.leaves(batch)[0].shape[0]), batch)


def with_model_state(loop: Loop, state: Any) -> Loop:
    """The loop whose model holds `state`."""
    return loop.replace(model=loop.model.replace(state=state))


def predict(parts: Parts, loop: Loop) -> Loop:
    """Forward pass in inference mode: sets `output`; a `differentiable_step` sets `loss` too."""
    model = loop.model.replace(training=False)
    if parts.differentiable_step is None:
        return loop.replace(output=model.forward(loop.input, loop.step_key("model"))[0])
    loss, after = parts.differentiable_step(model, loop)
    return after.replace(loss=loss, model=loop.model)


def evaluation_loss(parts: Parts, loop: Loop) -> Loop:
    """Sets `loss` from the output, unless a `differentiable_step` has done so."""
    return loop if parts.differentiable_step is not None else loop.replace(loss=_loss(parts, loop))


def update(parts: Parts, loop: Loop, behind: Mapping[str, Any]) -> Loop:
    """The optimizer's step: sets the parameters, `opt_state` and the learning rate that was applied.

    Args:
      parts: what the step is made of.
      loop: with its gradient.
      behind: what `_left_behind` kept for the optimizer.
    """
    params = loop.model.params
    known = _known(parts, loop, behind) if "fields" in behind else {}
    updates, opt_state = updated(parts.optimizer, loop.gradient, loop.opt_state, params, known)
    params = optax.apply_updates(params, updates)
    loop = loop.replace(opt_state=opt_state, model=loop.model.replace(params=params))
    rates = find_hyperparameters(opt_state, "learning_rate")
    return loop.record("learning_rate", rates[0]) if len(rates) == 1 else loop


def _known(parts: Parts, loop: Loop, behind: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer may ask for. The functions run the batch anew from the loop before, and leave no change."""
    fields = dict(behind["fields"])
    state = fields.pop("model", loop.model.state)
    again = with_model_state(loop.replace(**fields), state)

    def loss_at(params: Any) -> jax.Array:
        return _mean_loss(parts, again, params)[0]

    return known_in_step(
        weighted_mean(loop.loss, loop.weight),
        behind["gradient"],
        loss_at,
        lambda params: _rising(jax.grad(loss_at)(params)),
        functools.partial(_example_gradients, parts, again),
    )


def measure(parts: Parts, loop: Loop) -> Loop:
    """Adds the step to each metric's accumulator and reports its statistic."""
    seen = {name: getattr(loop, name) for name in ("output", "target", "loss", "weight")}
    metrics = {metric.name: metric.update(loop.metrics[metric.name], **seen) for metric in parts.metrics}
    assert loop.phase is not None
    stats = {}
    for metric in parts.metrics:
        dtype = parts.stat_dtypes[metric.name]
        statistic = stats[loop.phase.stat(metric.name)] = _statistic(metric, metrics[metric.name], dtype)
        if statistic.dtype != dtype:
            raise TypeError(
                f"metrics: {metric.name!r} gives {statistic.dtype.name}, where an empty accumulator gave {dtype.name}. "
                "Let `init` make arrays of the dtypes that `update` gives."
            )
    return loop.replace(metrics=metrics, stats=loop.stats | stats)


def _statistic(metric: Metric, state: Any, known: Any = None) -> Any:
    """What a metric gives for its accumulator, as the scalar that `loop.stats` keeps."""
    return as_statistic("metrics", metric.name, metric.compute(state), known)


def _loss(parts: Parts, loop: Loop) -> jax.Array:
    assert parts.loss_fn is not None
    return parts.loss_fn(loop.output, loop.target)


def _masked_loss(parts: Parts, loop: Loop) -> jax.Array:
    """The loss, whose gradient knows nothing of what weighs nothing; a scalar cannot be masked."""
    assert parts.loss_fn is not None
    if loop.weight is None or not jax.eval_shape(parts.loss_fn, loop.output, loop.target).ndim:
        return _loss(parts, loop)
    output, target = with_stand_ins((loop.output, loop.target), loop.weight)
    return _loss(parts, loop.replace(output=output, target=target))


def _without_wild(parts: Parts, loop: Loop) -> Loop:
    """The loop without what is not finite and weighs nothing in the input, and in the target where a step takes it.

    In evaluation nothing is differentiated, and examples are taken each by itself, as padding has it, but not tokens.
    """
    if loop.weight is None or (loop.phase is Phase.VALIDATION and jnp.ndim(loop.weight) < 2):
        return loop
    loop = loop.replace(input=without_wild(loop.input, loop.weight))
    if parts.differentiable_step is None:
        return loop
    return loop.replace(target=without_wild(loop.target, loop.weight))


def _counts(loop: Loop, untouched_stop: Any) -> Any:
    return True if loop.stop is untouched_stop else should_run(loop.stop, loop.phase)


def _unless_cancelled(loop: Loop, untouched_stop: Any, stage: Callable[[Loop], Loop]) -> Loop:
    """`stage(loop)`, or `loop` where a cancel that came before skips the step."""
    after = stage(loop)
    if loop.stop is untouched_stop:
        return after
    return _select(should_run(loop.stop, loop.phase), after, _with_stats_of(after, loop))


def _with_stats_of(after: Loop, before: Loop) -> Loop:
    """`before` with what was recorded since for the first time unmeasured, as happens while names are found out."""
    missing = {
        name: jnp.asarray(unmeasured(new.dtype)) for name, new in after.stats.items() if name not in before.stats
    }
    return before.replace(stats=before.stats | missing) if missing else before


def _select(condition: Any, new: Tree, old: Tree) -> Tree:
    """`new` where `condition` holds, else `old`, leaf by leaf; leaves that are the same are left alone."""

    def pick(new_leaf: Any, old_leaf: Any) -> Any:
        return new_leaf if new_leaf is old_leaf else jnp.where(condition, new_leaf, old_leaf)

    return jax.tree.map(pick, new, old)
