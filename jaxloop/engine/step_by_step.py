"""The loop in a user's own hands: each step and each phase event as one pure jitted function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.data import one_epoch
from jaxloop.engine.binding import spec_of_loop
from jaxloop.engine.going_on import check_opt_state
from jaxloop.engine.setup import Setup
from jaxloop.events import TRAINING, Phase, Split
from jaxloop.feeding.source import length_at
from jaxloop.feeding.specification import parts_of, rows_of
from jaxloop.loop import Loop
from jaxloop.phases import close_epoch, eval_step, open_epoch, run_phase, train_step
from jaxloop.placement import Placement
from jaxloop.programs.canonical import canonical
from jaxloop.programs.programs import Program
from jaxloop.shardings import divided, pinned
from jaxloop.step_spec import StepSpec


@dataclass(frozen=True)
class StepByStep:
    """What `TrainingLoop` offers to those who write the loop themselves.

    Attributes:
      setup: of the training loop.
    """

    setup: Setup

    def begin_epoch(self, loop: Loop) -> Loop:
        """See `TrainingLoop.begin_epoch`."""
        _check_loop("begin_epoch", loop)
        return self._compiled(loop, open_epoch)(loop, self._batch_count(loop, TRAINING, begun=1))

    def end_epoch(self, loop: Loop) -> Loop:
        """See `TrainingLoop.end_epoch`."""
        _check_loop("end_epoch", loop)
        return self._compiled(loop, close_epoch)(loop)

    def step(self, loop: Loop, batch: Any, split: Split) -> Loop:
        """The loop after one step of a phase; it first enters the phase if it is not in it."""
        _check_loop("train_step" if split == TRAINING else "eval_step", loop)
        batch = parts_of(batch, self.setup.batch_keys, "batch")
        self.setup.look_into(self._spec_of(loop), loop, batch, stacked=False)
        function = train_step if split == TRAINING else eval_step
        return self._compiled(loop, function, split)(loop, self._batch_count(loop, split), batch)

    def run_steps(self, loop: Loop, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
        """See `TrainingLoop.run_steps`."""
        _check_loop("run_steps", loop)
        batches = parts_of(batches, self.setup.batch_keys, "batches")
        self.setup.look_into(self._spec_of(loop), loop, batches, stacked=True)
        return self._compiled(loop, run_phase)(loop, self._batch_count(loop, TRAINING), batches)

    def _batch_count(self, loop: Loop, split: Split, begun: int = 0) -> Any:
        """How many batches a phase has after `begun` more epochs have begun, if that is known without reading data.

        Waits for the device if a phase begins and the epochs may have several lengths.
        """
        training = self.setup.training
        if split != TRAINING:
            batches = self.setup.supply.sets.get(split)
            return np.int32(0 if batches is None else len(one_epoch(batches, "validation")))
        if not hasattr(training, "__getitem__"):
            return np.int32(training.batch_count) if hasattr(training, "batch_count") else loop.batch_count
        known = loop.split == TRAINING or hasattr(training, "batch_count")  # or it is in the phase already
        return np.int32(len(training[0]) if known else length_at(training, loop.epoch - 1 + begun))

    def _compiled(self, loop: Loop, function: Callable[..., Any], split: Split = TRAINING) -> Program:
        """`function(spec, loop, ...)` jitted, kept by the callbacks and the plan of the loop, and by where it lies."""
        place = self.setup.placement_of(loop)
        spec = self._spec_of(loop, place)
        name = function.__name__

        def checked(loop: Loop, batch_count: Any = None, *batch: Any) -> Any:  # while it is traced: a step pays nothing
            if function is train_step or (function is run_phase and loop.phase is not Phase.VALIDATION):
                check_opt_state(spec.optimizer, loop, "loop")
            rest = () if function is close_epoch else (batch_count, *batch)
            over = {"split": split} if function is eval_step else {}
            if place is None:
                return function(spec, loop, *rest, **over)
            return _kept(place, function(spec, loop, *_divided(place, rest, stacked=function is run_phase), **over))

        # A CPU runs convolutions inside a loop, such as that of microbatches, slowly, unless their axes are in order.
        in_loop = spec.accumulate > 1 and jax.default_backend() == "cpu"
        return self.setup.programs.get(
            (name, split, spec, place), lambda: Program(name, canonical(checked) if in_loop else checked)
        )

    def _spec_of(self, loop: Loop, place: Placement | None = None) -> StepSpec:
        return spec_of_loop(self.setup.memo, self.setup.spec_for(self.setup.sorted_out, loop.plan, place), loop)


def _check_loop(where: str, given: Any) -> None:
    """Refuses what is no loop.

    Raises:
      TypeError: it is a model, what `fit` gives, or anything else.
    """
    if not isinstance(given, Loop):
        pair = isinstance(given, tuple) and given and isinstance(given[0], Loop)
        fix = "`fit` and `run_steps` give two things: take [0]." if pair else "Begin one by start(model, epochs=12)."
        raise TypeError(f"{where}: expected a loop, got {'a tuple' if pair else type(given).__name__}. {fix}")


def _divided(place: Placement, rest: tuple[Any, ...], *, stacked: bool) -> tuple[Any, ...]:
    """The other arguments of a step, traced, the batch divided over the devices."""
    batch = rest[1:]
    return *rest[:1], *divided(place, batch, rows_of(batch, 1 + stacked), stacked=stacked)


def _kept(place: Placement, result: Any) -> Any:
    """What a step gives, traced: the loop where it lies, and rows on each device."""
    if isinstance(result, Loop):
        return pinned(place, result)
    loop, rows = result
    return pinned(place, loop), jax.lax.with_sharding_constraint(rows, place.sharding)
