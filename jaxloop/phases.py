"""What happens to a loop between steps, as pure functions: fits, epochs and phases begin and end."""

from typing import Any

import jax
import numpy as np

from jaxloop.events import TRAINING, VALIDATION, Event, Phase, Plan, Scope, Split, leave
from jaxloop.hyperparameters import RATE, columns
from jaxloop.loop import STEP_FIELDS, Loop
from jaxloop.measured import unmeasured, without_nan
from jaxloop.step import run_steps, step
from jaxloop.step_spec import StepSpec


def between_steps(loop: Loop, phase: Phase | None) -> Loop:
    """The loop in `phase` with no step at hand.

    Users may give back a loop from the middle of a step, since callbacks hand those out.
    """
    at_hand = any(getattr(loop, name) is not None for name in STEP_FIELDS)
    stats = without_nan(loop.stats)
    if not at_hand and loop.phase is phase and stats is loop.stats:
        return loop
    validation_set = loop.validation_set if loop.phase is phase else None
    return loop.replace(phase=phase, validation_set=validation_set, stats=stats, **dict.fromkeys(STEP_FIELDS))


def begin_fit(spec: StepSpec, loop: Loop, plan: Plan) -> Loop:
    """The loop at the start of a new fit: position, statistics, `stop` and what is not lasting start again.

    Args:
      spec: what the steps are made of.
      loop: in any state; `step`, `epoch`, `key`, model and optimizer go on.
      plan: of the new fit.
    """
    zero = np.int32(0)
    return loop.replace(
        first_step=loop.step,
        epoch_index=zero,
        epoch_count=np.int32(plan.epoch_count),
        batch_index=zero,
        batch_count=np.int32(plan.batch_count),
        stop=zero,
        phase=None,
        validation_set=None,
        metrics=spec.empty_metrics,
        stats=_unmeasured(spec, *spec.splits) | _unmeasured_rates(loop.opt_state),
        callback_state={name: value for name, value in loop.callback_state.items() if name in loop.lasting},
        evaluated=frozenset(),
    )


def begin_epoch(spec: StepSpec, loop: Loop) -> Loop:
    """The loop at the start of its next epoch: no metric, nor what a callback monitors, is measured yet.

    The epoch before the first, at index -1, trains nothing, and is none of those that the loop has begun in its life.
    """
    monitored = {name for callback in spec.callbacks for name in getattr(callback, "monitors", ())}
    again = {name: unmeasured(loop.stats[name].dtype) for name in sorted(monitored & loop.stats.keys())}
    stats = loop.stats | again | _unmeasured(spec, *spec.splits)
    return loop.replace(epoch=loop.epoch + (loop.epoch_index >= 0), stats=stats)


def enter(spec: StepSpec, loop: Loop, split: Split, batch_count: Any) -> Loop:
    """The loop at the start of a phase: position 0, accumulators empty, its statistics not yet measured."""
    return loop.replace(
        phase=split.phase,
        validation_set=split.validation_set,
        batch_index=np.int32(0),
        batch_count=batch_count,
        metrics=spec.empty_metrics,
        stats=loop.stats | _unmeasured(spec, split),
    )


def leave_phase(loop: Loop) -> Loop:
    """The loop once its phase is over."""
    assert loop.phase is not None
    return loop.replace(phase=None, validation_set=None, stop=leave(loop.stop, loop.phase.scope))


def leave_epoch(loop: Loop) -> Loop:
    """The loop once its epoch is over."""
    return loop.replace(epoch_index=loop.epoch_index + 1, stop=leave(loop.stop, Scope.EPOCH))


def open_epoch(spec: StepSpec, loop: Loop, batch_count: Any) -> Loop:
    """The loop after EPOCH_START and TRAINING_START, with the compiled callbacks.

    A phase that is still at hand ends before that.
    """
    loop = _out_of_phase(spec, between_steps(loop, loop.phase))
    loop = _fired(spec, begin_epoch(spec, loop), Event.EPOCH_START)
    return in_phase(spec, loop, TRAINING, batch_count)


def in_phase(spec: StepSpec, loop: Loop, split: Split, batch_count: Any) -> Loop:
    """The loop in a phase: as it is if it is there, else after the END of its own phase and the START of the other."""
    loop = between_steps(loop, loop.phase)
    if loop.split == split:
        return loop
    return _fired(spec, enter(spec, _out_of_phase(spec, loop), split, batch_count), split.phase.start)


def close_epoch(spec: StepSpec, loop: Loop) -> Loop:
    """The loop after the END of the phase at hand and EPOCH_END, with the compiled callbacks."""
    loop = _out_of_phase(spec, between_steps(loop, loop.phase))
    return leave_epoch(_fired(spec, loop, Event.EPOCH_END))


def train_step(spec: StepSpec, loop: Loop, batch_count: Any, batch: Any) -> Loop:
    """The loop after one training step, in training if it was not."""
    return step(spec, _measurable(spec, in_phase(spec, loop, TRAINING, batch_count)), batch)[0]


def eval_step(spec: StepSpec, loop: Loop, batch_count: Any, batch: Any, split: Split = VALIDATION) -> Loop:
    """The loop after one evaluation step, in validation over this set if it was not."""
    return step(spec, _measurable(spec, in_phase(spec, loop, split, batch_count)), batch)[0]


def run_phase(spec: StepSpec, loop: Loop, batch_count: Any, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
    """The loop and the rows after one step for each of the stacked batches.

    The steps are of the phase at hand, or of training if there is none.
    """

    def one(loop: Loop, batch: Any) -> tuple[Loop, dict[str, Any]]:
        position = {name: getattr(loop, name) for name in ("step", "epoch_index", "batch_index")}
        loop, counted = step(spec, loop, batch)
        return loop, loop.stats | position | {"counted": counted}

    leaves = jax.tree.leaves(batches)
    if not leaves:
        raise ValueError(
            "run_steps: `batches` hold no array, so nothing says how many steps there are. Give one that the step does "
            "not use, as (numpy.zeros(K), None), or call train_step."
        )
    loop = _measurable(spec, in_phase(spec, loop, loop.split or TRAINING, batch_count))
    return run_steps(one, loop, batches, leaves[0].shape[0])


def _measurable(spec: StepSpec, loop: Loop) -> Loop:
    """The loop; refused where a metric has no accumulator in its phase.

    This is checked while the step is traced, so no step pays for it.
    """
    missing = [metric.name for metric in spec.metrics if metric.name not in loop.metrics]
    if missing:
        raise ValueError(
            f"loop: it is in a phase that was begun without the metric {missing[0]!r}, by a training loop with other "
            "metrics. Begin its epoch with this one: loop = training_loop.begin_epoch(loop)."
        )
    return loop


def _out_of_phase(spec: StepSpec, loop: Loop) -> Loop:
    return loop if loop.phase is None else leave_phase(_fired(spec, loop, loop.phase.end))


def _fired(spec: StepSpec, loop: Loop, event: Event) -> Loop:
    loop = spec.fire(loop, event)
    return loop.replace(stop=leave(loop.stop, Scope.BATCH))


def _unmeasured_rates(opt_state: Any) -> dict[str, Any]:
    """The rate of each group; `learning_rate` also where the optimizer exposes none, so that logs have its column."""
    return {name: unmeasured(np.float32) for name in columns(opt_state, RATE) or (RATE,)}


def _unmeasured(spec: StepSpec, *splits: Split) -> dict[str, Any]:
    return {split.stat(name): unmeasured(dtype) for split in splits for name, dtype in spec.stat_dtypes.items()}
