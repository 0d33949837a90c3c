"""Patience with a statistic: when it stops improving, training ends or the learning rate falls."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback
from jaxloop.events import Event, Scope
from jaxloop.history import History
from jaxloop.hyperparameters import columns
from jaxloop.loop import Loop
from jaxloop.measured import as_number, is_measured
from jaxloop.metrics import less_is_better
from jaxloop.real_number import real_number

Mode = Literal["auto", "min", "max"]


def early_stopping(
    monitor: str = "validation_loss",
    *,
    patience: int = 5,
    min_delta: float = 0.0,
    mode: Mode = "auto",
    restore_best: bool = False,
    name: str = "early_stopping",
) -> Callback:
    """Ends the fit after `patience` epochs in a row without improvement.

    It looks at EPOCH_END. An epoch improves if its statistic is finite and better than the best so far by more than
    `min_delta`. NaN is never the best, and counts as no improvement. An epoch that did not measure the statistic is not
    counted at all, for example where validation was cancelled. `loop.callback_state["early_stopping"]` holds the
    `best`, and how many epochs have `waited` since. Nothing lasts: the next fit on the loop begins to count again.

    Args:
      monitor: the name of a statistic: of a metric, such as `loss` or `validation_loss`, or one that a callback
        records. The latter counts only in epochs that record it: it is reset to unmeasured when an epoch begins.
      patience: how many epochs, at least 1.
      min_delta: an improvement must be larger than this; at least 0, in the statistic's own unit.
      mode: `"min"` if less is better, `"max"` if more is better. `"auto"` finds it in the name: losses, errors and
        perplexities are minimized; accuracies, precisions, recalls, `f1`, `auc`, `r2` and Matthews coefficients are
        maximized.
      restore_best: whether the fit, however it ends, gives what was evaluated in the best epoch, not in the last: the
        model with its parameters and state, and what callbacks remember as `evaluated`, such as the average of
        `ema(evaluate=True)`. If no epoch was finite, it gives the last. Optimizer, counters, statistics and averages
        that are not evaluated stay the last. So does `loop.step`, which seeds an evaluation that draws random numbers.
        It keeps a copy of all that it brings back.
      name: the key in `loop.callback_state`; a second one needs its own.

    Raises:
      ValueError: an argument is outside of its bounds, or `mode` cannot be found in the name. When a fit begins:
        nothing is measured under the name `monitor`.

    Example:
      >>> callbacks = [jl.callbacks.early_stopping(patience=3, restore_best=True)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """
    watched = _watched("early_stopping", monitor, mode, min_delta)
    return _EarlyStopping(name, watched, _whole("early_stopping", "patience", patience, least=1), restore_best)


def reduce_on_plateau(
    monitor: str = "validation_loss",
    *,
    factor: float = 0.1,
    patience: int = 10,
    min_delta: float = 1e-4,
    mode: Mode = "auto",
    cooldown: int = 0,
    min_rate: float = 0.0,
    hyperparameter: str = "learning_rate",
    group: str | None = None,
    name: str = "reduce_on_plateau",
) -> Callback:
    """Multiplies the learning rate by `factor` after `patience` epochs in a row without improvement.

    It looks at EPOCH_END, and an epoch improves as in `early_stopping`. After a reduction it counts from 0 again, and
    first leaves out `cooldown` epochs. Epochs without a measurement count for neither. `patience` and `cooldown` are
    those of `optax.contrib.reduce_on_plateau`, and `min_delta` is its `atol`. PyTorch's ReduceLROnPlateau waits one
    epoch longer. The next fit keeps the reduced rate, and counts from 0. A hyperparameter that is scheduled is
    refused, since the schedule would overwrite the reduced rate.

    Where several groups of the optimizer expose the rate, each group's own is multiplied, so that their proportions
    stay; or only that of one `group`.

    Args:
      monitor: as in `early_stopping`.
      factor: above 0 and below 1.
      patience: how many epochs, at least 1.
      min_delta: an improvement must be larger than this; at least 0, in the statistic's own unit.
      mode: as in `early_stopping`.
      cooldown: how many epochs after a reduction are not counted, at least 0.
      min_rate: the rate of no group is reduced below this.
      hyperparameter: one that `optax.inject_hyperparams` exposes, in place of the learning rate.
      group: the only group of the optimizer whose rate is reduced, by its label.
      name: the key in `loop.callback_state`; a second one needs its own.

    Raises:
      ValueError: as `early_stopping`. When a fit begins: also if the optimizer exposes no such hyperparameter, or none
        in `group`, or a schedule sets it.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> callbacks = [jl.callbacks.reduce_on_plateau(factor=0.5, patience=3)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """
    watched = _watched("reduce_on_plateau", monitor, mode, min_delta)
    patience = _whole("reduce_on_plateau", "patience", patience, least=1)
    cooldown = _whole("reduce_on_plateau", "cooldown", cooldown, least=0)
    reduction = _Reduction(hyperparameter, group, _factor(factor), _least_rate(min_rate))
    return _ReduceOnPlateau(name, watched, patience, cooldown, reduction)


@dataclass(frozen=True)
class _EarlyStopping:
    """The callback of `early_stopping`. The engine reads `monitors` and `copies_memory`."""

    name: str
    watched: "_Watched"
    patience: int
    restore_best: bool
    __name__ = "early_stopping"

    @property
    def monitors(self) -> tuple[str, ...]:
        """The statistics that are reset when an epoch begins; see `phases.begin_epoch`."""
        return (self.watched.stat,)

    @property
    def copies_memory(self) -> bool:
        """Whether it keeps a copy of what others remember, and so comes last at FIT_START; see `callback.fire`."""
        return self.restore_best

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            memory = {"best": self.watched.worst, "waited": np.int32(0)}
            return loop.remember(self.name, memory | (_evaluated(loop) if self.restore_best else {}))
        if event is Event.EPOCH_END:
            return self._judged(loop)
        if event is Event.FIT_END and self.restore_best:
            return self._restored(loop)
        return loop

    def why_stopped(self, loop: Loop, history: History) -> str | None:
        """Why it has cancelled the fit that ended with `loop`; None if it has not."""
        memory = loop.callback_state.get(self.name)  # another callback may have taken it away: no reason to fail now
        if memory is None or int(memory["waited"]) < self.patience:
            return None
        name = self.watched.stat
        finite = np.isfinite(as_number(loop.stats[name])) or not is_measured(loop.stats[name])
        last = "" if finite else f"is {as_number(loop.stats[name])}, and "
        return f"{name} {last}did not improve for {self.patience} epoch{'s' * (self.patience > 1)}"

    def given_back(self, loop: Loop, history: History) -> str | None:
        """What it has put into the loop at the end; None if that is the last model."""
        memory = loop.callback_state.get(self.name)
        if memory is None or not (self.restore_best and np.isfinite(memory["best"])):
            return None
        best = np.float32(memory["best"])
        column = np.asarray(history.epochs.get(self.watched.stat, ()), np.float32)
        found = np.flatnonzero(column == best)
        if not found.size:
            return "the best model was restored"
        epoch = int(loop.epoch_index) - (len(column) - 1 - int(found[0]))  # the last row is of the last epoch
        return f"the best model, of epoch {epoch}, was restored" if found[0] < len(column) - 1 else None

    def _judged(self, loop: Loop) -> Loop:
        memory = loop.callback_state[self.name]
        measured, improved, best = self.watched.judge(loop, memory["best"])
        waited = jnp.where(improved, 0, memory["waited"] + measured)
        memory = memory | {"best": best, "waited": waited}
        if self.restore_best:
            memory |= {field: _where(improved, now, memory[field]) for field, now in _evaluated(loop).items()}
        loop = loop.replace(callback_state=loop.callback_state | {self.name: memory})
        return loop.cancel(Scope.FIT, when=waited >= self.patience)

    def _restored(self, loop: Loop) -> Loop:
        memory = loop.callback_state[self.name]
        best = {field: memory[field] for field in ("model", "evaluated")}
        # Until an epoch was finite the copies are those of FIT_START: then the last model stays.
        best = _where(jnp.isfinite(memory["best"]), best, _evaluated(loop))
        return loop.replace(model=best["model"], callback_state=loop.callback_state | best["evaluated"])


@dataclass(frozen=True)
class _ReduceOnPlateau:
    """The callback of `reduce_on_plateau`. The engine reads `monitors`."""

    name: str
    watched: "_Watched"
    patience: int
    cooldown: int
    reduction: "_Reduction"
    __name__ = "reduce_on_plateau"

    @property
    def monitors(self) -> tuple[str, ...]:
        """The statistics that are reset when an epoch begins; see `phases.begin_epoch`."""
        return (self.watched.stat,)

    def adjusts(self, loop: Loop) -> Iterable[str]:
        """The columns of what it multiplies. A schedule would overwrite them, so one is refused."""
        return columns(loop.opt_state, self.reduction.hyperparameter, self.reduction.group)

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            return loop.remember(
                self.name, {"best": self.watched.worst, "waited": np.int32(0), "cooldown": np.int32(0)}
            )
        if event is not Event.EPOCH_END:
            return loop
        memory = loop.callback_state[self.name]
        measured, improved, best = self.watched.judge(loop, memory["best"])
        waited = jnp.where(improved | (memory["cooldown"] > 0), 0, memory["waited"] + measured)
        reduced = waited >= self.patience
        memory = {
            "best": best,
            "waited": jnp.where(reduced, 0, waited),
            "cooldown": jnp.where(reduced, self.cooldown, jnp.maximum(memory["cooldown"] - measured, 0)),
        }
        loop = loop.replace(callback_state=loop.callback_state | {self.name: memory})
        return self.reduction.applied(loop, when=reduced)


@dataclass(frozen=True)
class _Reduction:
    """What a plateau does to a hyperparameter: in one group of the optimizer, or in all if none is named."""

    hyperparameter: str
    group: str | None
    factor: float
    min_rate: float

    def applied(self, loop: Loop, when: Any) -> Loop:
        name = self.hyperparameter
        groups = loop.hyperparameters(name) if self.group is None else {self.group: None}
        for group in groups or [None]:  # where there is none, the loop says so
            rate = loop.hyperparameter(name, group=group)
            loop = loop.with_hyperparameter(name, jnp.where(when, self._lower(rate), rate), group=group)
        return loop

    def _lower(self, rate: Any) -> Any:
        # A rate that is below `min_rate` already stays as it is: a reduction must never raise it.
        return jnp.maximum(rate * self.factor, jnp.minimum(rate, self.min_rate))


@dataclass(frozen=True)
class _Watched:
    """A statistic, the direction in which it improves, and how much better an improvement must be.

    Attributes:
      owner: the callback, for messages.
      stat: the statistic's name.
      sign: 1 if less is better, -1 if more is.
      min_delta: an improvement must be larger than this.
    """

    owner: str
    stat: str
    sign: int
    min_delta: float

    @property
    def worst(self) -> np.float32:
        """The best before any epoch: every finite value improves on it."""
        return np.float32(self.sign * np.inf)

    def judge(self, loop: Loop, best: Any) -> tuple[Any, Any, Any]:
        """(measured, improved, best now): 1 or 0 for whether it was measured, and whether it improves on `best`."""
        if self.stat not in loop.stats:
            hint = " give the training loop `validation`, or" if self.stat.startswith("validation_") else ""
            raise ValueError(
                f"{self.owner}: `monitor` must be a statistic that is measured, got {self.stat!r}; there are "
                f"{', '.join(sorted(loop.stats))}. Check `metrics`,{hint} monitor another."
            )
        value = loop.stats[self.stat]
        measured, value = is_measured(value), jnp.asarray(value, jnp.float32)
        improved = measured & jnp.isfinite(value) & (self.sign * value < self.sign * best - self.min_delta)
        return jnp.asarray(measured, jnp.int32), improved, jnp.where(improved, value, best)


def _evaluated(loop: Loop) -> dict[str, Any]:
    """What an evaluation of the loop depends on: the model, and what callbacks remember as evaluated."""
    return {"model": loop.model, "evaluated": {name: loop.callback_state[name] for name in sorted(loop.evaluated)}}


def _watched(owner: str, monitor: str, mode: Mode, min_delta: float) -> _Watched:
    if not isinstance(monitor, str):
        raise TypeError(f"{owner}: `monitor` must be the name of a statistic, such as 'loss', got {monitor!r}.")
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"{owner}: `mode` must be 'auto', 'min' or 'max', got {mode!r}.")
    if not real_number(f"{owner}: `min_delta`", min_delta) >= 0:
        raise ValueError(f"{owner}: `min_delta` must be at least 0, got {min_delta}.")
    less = less_is_better(monitor) if mode == "auto" else mode == "min"
    if less is None:
        raise ValueError(
            f"{owner}: whether less or more of {monitor!r} is better cannot be told from its name. "
            "Give mode='min' or mode='max'."
        )
    return _Watched(owner, monitor, 1 if less else -1, float(min_delta))


def _whole(owner: str, name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{owner}: `{name}` must be a whole number of epochs, at least {least}, got {value!r}.")
    return int(value)


def _factor(factor: float) -> float:
    number = real_number("reduce_on_plateau: `factor`", factor)
    if not 0 < number < 1:
        raise ValueError(f"reduce_on_plateau: `factor` must be above 0 and below 1, got {factor}.")
    return number


def _least_rate(min_rate: float) -> float:
    number = real_number("reduce_on_plateau: `min_rate`", min_rate)
    if not number >= 0:
        raise ValueError(f"reduce_on_plateau: `min_rate` must be at least 0, got {min_rate}.")
    return number


def _where(condition: Any, one: Any, other: Any) -> Any:
    """`one` where `condition` holds, else `other`, leaf by leaf."""
    return jax.tree.map(lambda left, right: jnp.where(condition, left, right), one, other)
