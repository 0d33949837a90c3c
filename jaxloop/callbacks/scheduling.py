"""Schedules of the learning rate and of other hyperparameters, as compiled callbacks."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optax

from jaxloop.brief import brief
from jaxloop.callback import Callback
from jaxloop.events import Event, Phase, Plan
from jaxloop.hyperparameters import RATE, Aim, aim
from jaxloop.loop import Loop
from jaxloop.schedules import ScheduleSegment, SegmentedSchedule, make_schedule

AnySchedule = SegmentedSchedule | Sequence[ScheduleSegment] | optax.Schedule


def learning_rate_scheduler(
    schedule: AnySchedule, *, group: str | None = None, scale: Mapping[str, float] | None = None
) -> Callback:
    """Sets the optimizer's learning rate at the start of each training step.

    The schedule gets the position in the fit, counted from 0: the number of training batches that the fit has taken,
    `step - first_step`, however long the epochs are. A batch whose update was cancelled counts. Batches that a
    cancelled epoch left out do not. Each fit begins the schedule again, with its own number of steps.

    An optimizer that divides the parameters, by `optax.partition` (`multi_transform`), can expose a rate for each of
    its groups. Then say by `group` which one is set, or by `scale` how the schedule is multiplied in each.

    Args:
      schedule: what `make_schedule` gives; or the segments that it takes, such as `warmup_cosine(...)`; or any optax
        schedule. Segments get the number of steps in the fit. That is the sum of the lengths of the epochs if
        `training` tells them ahead: a list, `TrainingEpochs`, `repeat`, or anything else that can be indexed. If
        epochs come one by one, as from a generator, every epoch is assumed to be as long as the first. A message says
        so when the fit begins, and a warning if an epoch has another length.
      group: the only group that is set, by its label. Each other group keeps its rate, or has a scheduler of its own.
      scale: a factor for each group that exposes a rate, such as `{"head": 1.0, "body": 0.1}`. All of them are set.

    Raises:
      TypeError: `schedule` or `scale` is none of these, or both `group` and `scale` are given.
      ValueError: before any step is compiled: the optimizer does not expose its rate by `optax.inject_hyperparams`; or
        exposes several, and neither `group` nor `scale` is given; or has no such group; or `scale` leaves a group out;
        or the optimizer drives the rate by a schedule of its own; or the segments end before the fit does.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> scheduler = jl.callbacks.learning_rate_scheduler(jl.warmup_cosine(0.1, warmup=0.05))
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=[scheduler])
    """
    return _scheduler(aim("learning_rate_scheduler", RATE, group, scale), schedule)


def hyperparameter_scheduler(
    name: str, schedule: AnySchedule, *, group: str | None = None, scale: Mapping[str, float] | None = None
) -> Callback:
    """Sets a hyperparameter of the optimizer at the start of each training step, and records it under its name.

    Where several groups of the optimizer expose it, the name in logs is `<name>/<group>`.

    Args:
      name: the name that `optax.inject_hyperparams` exposes: `"momentum"`, `"weight_decay"`, `"b1"`, ...
      schedule, group, scale: as in `learning_rate_scheduler`. Position and errors are the same too.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
      >>> jl.callbacks.hyperparameter_scheduler("momentum", optax.linear_schedule(0.5, 0.95, 1000))
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"hyperparameter_scheduler: `name` must be the name of a hyperparameter, got {name!r}. Write 'momentum'."
        )
    return _scheduler(aim(f"hyperparameter_scheduler({name!r})", name, group, scale), schedule)


def _scheduler(aimed: Aim, schedule: Any) -> Any:
    if isinstance(schedule, Sequence) and schedule and isinstance(schedule[0], ScheduleSegment):
        schedule = make_schedule(schedule)
    if isinstance(schedule, SegmentedSchedule):
        return _Unbound(aimed, schedule)
    if not callable(schedule):
        raise TypeError(
            f"{aimed.where}: `schedule` must be what make_schedule gives, or a function of the step, got {schedule!r}. "
            "Write make_schedule([ScheduleSegment(...), ...]), or optax.constant_schedule(0.1) for a constant."
        )
    return _Scheduler(aimed, schedule)


@dataclass(frozen=True)
class _Unbound:
    """A scheduler that does not know the number of steps yet."""

    aim: Aim
    schedule: SegmentedSchedule

    @property
    def __name__(self) -> str:
        return self.aim.where

    def bind(self, plan: Plan) -> "_Scheduler":
        # Made when it is first needed: an evaluation binds callbacks too, and its plan can be longer than the segments.
        made = functools.cache(functools.partial(self.schedule, plan.total_steps))
        return _Scheduler(self.aim, lambda step: made()(step))

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is not Event.BATCH_START or loop.phase is not Phase.TRAINING:
            return loop
        raise ValueError(
            f"{self.aim.where}: how many steps the fit has is not known, as the loop was not begun with this callback. "
            "Begin it by `training_loop.start(loop, epochs=...)`, or give schedule(total_steps) in its place."
        )


@dataclass(frozen=True)
class _Scheduler:
    """Sets the hyperparameter that it aims at to `schedule(step)`."""

    aim: Aim
    schedule: Callable[[Any], Any]

    @property
    def __name__(self) -> str:
        return self.aim.where

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is not Event.BATCH_START or loop.phase is not Phase.TRAINING:
            return loop
        value = self.schedule(loop.step - loop.first_step)
        if callable(value) or isinstance(value, list):
            what = "a function" if callable(value) else brief(value)
            raise TypeError(
                f"{self.aim.where}: `schedule` must give a number for a step, got {what}. Call it with the number "
                "of steps first, or make it by make_schedule; a function that makes segments is called too."
            )
        loop = loop.replace(opt_state=self.aim.hit(loop.opt_state, value))
        for column, set_to in self.aim.columns(loop.opt_state).items():
            loop = loop.record(column, set_to)
        return loop
