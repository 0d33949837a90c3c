"""Schedules of the learning rate and of other hyperparameters, as compiled callbacks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from jaxloop.callback import Callback
from jaxloop.events import Event, Phase, Plan
from jaxloop.loop import Loop
from jaxloop.schedules import SegmentedSchedule


def learning_rate_scheduler(schedule: SegmentedSchedule | optax.Schedule) -> Callback:
    """Sets the optimizer's learning rate at the start of each training step.

    The schedule gets the position in the fit, counted from 0: the number of training batches that the fit has taken,
    `step - first_step`, however long the epochs are. A batch whose update was cancelled counts. Batches that a
    cancelled epoch left out do not. Each fit begins the schedule again, with its own number of steps.

    Args:
      schedule: what `make_schedule` gives, or any optax schedule. The former gets the number of steps in the fit. That
        is the sum of the lengths of the epochs if `training` tells them ahead: a list, `TrainingEpochs`, `repeat`, or
        anything else that can be indexed. If epochs come one by one, as from a generator, every epoch is assumed to be
        as long as the first. A message says so when the fit begins, and a warning if an epoch has another length.

    Raises:
      TypeError: `schedule` is neither of these.
      ValueError: before any step is compiled: the optimizer does not expose its rate by `optax.inject_hyperparams`; or
        exposes several; or drives it by a schedule of its own; or the segments end before the fit does.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> schedule = jl.make_schedule(jl.warmup_cosine(0.1, warmup=0.05))
      >>> jl.TrainingLoop(..., optimizer=optimizer, callbacks=[jl.callbacks.learning_rate_scheduler(schedule)])
    """
    return _scheduler("learning_rate_scheduler", "learning_rate", schedule)


def hyperparameter_scheduler(name: str, schedule: SegmentedSchedule | optax.Schedule) -> Callback:
    """Sets a hyperparameter of the optimizer at the start of each training step, and records it under its name.

    Args:
      name: the name that `optax.inject_hyperparams` exposes: `"momentum"`, `"weight_decay"`, `"b1"`, ...
      schedule: as in `learning_rate_scheduler`. Position and errors are the same too.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
      >>> jl.callbacks.hyperparameter_scheduler("momentum", optax.linear_schedule(0.5, 0.95, 1000))
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"hyperparameter_scheduler: `name` must be the name of a hyperparameter, got {name!r}. Write 'momentum'."
        )
    return _scheduler(f"hyperparameter_scheduler({name!r})", name, schedule)


def _scheduler(where: str, name: str, schedule: Any) -> Any:
    if isinstance(schedule, SegmentedSchedule):
        return _Unbound(where, name, schedule)
    if not callable(schedule):
        raise TypeError(
            f"{where}: `schedule` must be what make_schedule gives, or a function of the step, got {schedule!r}. "
            "Write make_schedule([ScheduleSegment(...), ...]), or optax.constant_schedule(0.1) for a constant."
        )
    return _Scheduler(where, name, schedule)


@dataclass(frozen=True)
class _Unbound:
    """A scheduler that does not know the number of steps yet."""

    where: str
    name: str
    schedule: SegmentedSchedule

    @property
    def __name__(self) -> str:
        return self.where

    def bind(self, plan: Plan) -> "_Scheduler":
        # Made when it is first needed: an evaluation binds callbacks too, and its plan can be longer than the segments.
        made = functools.cache(functools.partial(self.schedule, plan.total_steps))
        return _Scheduler(self.where, self.name, lambda step: made()(step))

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is not Event.BATCH_START or loop.phase is not Phase.TRAINING:
            return loop
        raise ValueError(
            f"{self.where}: how many steps the fit has is not known, as the loop was not begun with this callback. "
            "Begin it by `training_loop.start(loop, epochs=...)`, or give schedule(total_steps) in its place."
        )


@dataclass(frozen=True)
class _Scheduler:
    """Sets the hyperparameter `name` to `schedule(step)`."""

    where: str
    name: str
    schedule: Callable[[Any], Any]

    @property
    def __name__(self) -> str:
        return self.where

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is not Event.BATCH_START or loop.phase is not Phase.TRAINING:
            return loop
        value = self.schedule(loop.step - loop.first_step)
        if callable(value):
            raise TypeError(
                f"{self.where}: `schedule` must give a number for a step, got a function. Call it with the number of "
                "steps first, or make it by make_schedule."
            )
        loop = loop.with_hyperparameter(self.name, value)
        return loop.record(self.name, loop.hyperparameter(self.name))
