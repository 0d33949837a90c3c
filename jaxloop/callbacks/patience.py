"""Patience with a statistic: once it has stopped improving, training ends or the learning rate falls."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback
from jaxloop.events import Event, Scope
from jaxloop.loop import Loop
from jaxloop.measured import is_measured

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
    """Ends the fit once `patience` epochs in a row have brought no improvement.

    It looks at EPOCH_END. An epoch improves if its statistic is finite, and better than the best so far by more than
    `min_delta`; NaN is never the best, and as much without an improvement as any other. An epoch in which the statistic
    was not measured, as where validation was cancelled, is not counted at all. `loop.callback_state["early_stopping"]`
    holds the `best`, and how many epochs have `waited` since. Nothing lasts: a fit that goes on from a loop is patient
    anew.

    Args:
      monitor: a statistic: of a metric, as `loss` or `validation_loss`, or recorded by a callback. What is recorded
        counts in the epochs in which it is: to that end it is unmeasured again when an epoch begins.
      patience: how many epochs, at least 1.
      min_delta: what counts as an improvement must be more than this, at least 0, in the statistic's own unit.
      mode: `"min"` if less is better, `"max"` if more is; `"auto"` knows it of losses, errors and perplexities, and
        of accuracies and Matthews coefficients.
      restore_best: whether the fit, however it ends, gives what was evaluated in the best epoch in place of the last:
        the model, parameters and state, and what others remember as `evaluated`, such as the average of
        `ema(evaluate=True)`; if no epoch was finite, the last. Optimizer, counters, statistics and averages that are
        not evaluated stay the last, and so does `loop.step`, from which evaluation draws if it draws at random. It
        keeps a copy of all that comes back.
      name: in `loop.callback_state`; a second one needs its own.

    Raises:
      ValueError: an argument is not what it must be; `mode` must be said. When a fit begins: nothing is measured
        under the name `monitor`.

    Example:
      >>> jl.TrainingLoop(..., callbacks=[jl.callbacks.early_stopping(patience=3, restore_best=True)])
    """
    watched = _watched("early_stopping", monitor, mode, min_delta)
    patience = _whole("early_stopping", "patience", patience, least=1)

    def stop(loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            memory = {"best": watched.worst, "waited": np.int32(0)}
            return loop.remember(name, memory | (_evaluated(loop) if restore_best else {}))
        if event is Event.EPOCH_END:
            return judged(loop)
        if event is Event.FIT_END and restore_best:
            memory = loop.callback_state[name]
            best = {field: memory[field] for field in ("model", "evaluated")}
            best = _where(jnp.isfinite(memory["best"]), best, _evaluated(loop))
            return loop.replace(model=best["model"], callback_state=loop.callback_state | best["evaluated"])
        return loop

    def judged(loop: Loop) -> Loop:
        memory = loop.callback_state[name]
        measured, improved, best = watched.judge(loop, memory["best"])
        waited = jnp.where(improved, 0, memory["waited"] + measured)
        memory = memory | {"best": best, "waited": waited}
        if restore_best:
            memory |= {field: _where(improved, now, memory[field]) for field, now in _evaluated(loop).items()}
        loop = loop.replace(callback_state=loop.callback_state | {name: memory})
        return loop.cancel(Scope.FIT, when=waited >= patience)

    return _with_traits(stop, monitor, copies_memory=restore_best)


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
    name: str = "reduce_on_plateau",
) -> Callback:
    """Multiplies the learning rate by `factor` once `patience` epochs in a row have brought no improvement.

    It looks at EPOCH_END, with improvement as in `early_stopping`, and then begins to count again; for `cooldown` more
    epochs it does not count at all. Epochs without a measurement belong to neither. `patience` and `cooldown` are those
    of `optax.contrib.reduce_on_plateau`, for which `min_delta` is `atol`; PyTorch's ReduceLROnPlateau waits one epoch
    more. The rate stays reduced in the next fit, the patience begins again. A schedule of the same hyperparameter would
    overwrite it.

    Args:
      monitor: as in `early_stopping`.
      factor: above 0 and below 1.
      patience: how many epochs, at least 1.
      min_delta: what counts as an improvement must be more than this, at least 0, in the statistic's own unit.
      mode: as in `early_stopping`.
      cooldown: how many epochs after a reduction are not counted, at least 0.
      min_rate: the rate is not reduced below this.
      hyperparameter: what `optax.inject_hyperparams` exposes, in place of the learning rate.
      name: in `loop.callback_state`; a second one needs its own.

    Raises:
      ValueError: an argument is not what it must be; `mode` must be said. When a fit begins: nothing is measured
        under the name `monitor`, or the optimizer exposes no such hyperparameter.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> callbacks = [jl.callbacks.reduce_on_plateau(factor=0.5, patience=3)]
      >>> jl.TrainingLoop(..., optimizer=optimizer, callbacks=callbacks)
    """
    watched = _watched("reduce_on_plateau", monitor, mode, min_delta)
    patience = _whole("reduce_on_plateau", "patience", patience, least=1)
    cooldown = _whole("reduce_on_plateau", "cooldown", cooldown, least=0)
    if not 0 < factor < 1:
        raise ValueError(f"reduce_on_plateau: `factor` must be above 0 and below 1, got {factor}.")
    if not min_rate >= 0:
        raise ValueError(f"reduce_on_plateau: `min_rate` must be at least 0, got {min_rate}.")
    factor, min_rate = float(factor), float(min_rate)

    def reduce(loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            return loop.remember(name, {"best": watched.worst, "waited": np.int32(0), "cooldown": np.int32(0)})
        if event is not Event.EPOCH_END:
            return loop
        memory = loop.callback_state[name]
        measured, improved, best = watched.judge(loop, memory["best"])
        waited = jnp.where(improved | (memory["cooldown"] > 0), 0, memory["waited"] + measured)
        reduced = waited >= patience
        rate = loop.hyperparameter(hyperparameter)
        lower = jnp.maximum(rate * factor, jnp.minimum(rate, min_rate))
        memory = {
            "best": best,
            "waited": jnp.where(reduced, 0, waited),
            "cooldown": jnp.where(reduced, cooldown, jnp.maximum(memory["cooldown"] - measured, 0)),
        }
        loop = loop.replace(callback_state=loop.callback_state | {name: memory})
        return loop.with_hyperparameter(hyperparameter, jnp.where(reduced, lower, rate))

    return _with_traits(reduce, monitor)


@dataclass(frozen=True)
class _Watched:
    """A statistic, in which direction it improves, and by how much it must.

    Attributes:
      owner: the callback, for messages.
      stat: the statistic's name.
      sign: 1 if less is better, -1 if more is.
      min_delta: an improvement is more than this.
    """

    owner: str
    stat: str
    sign: int
    min_delta: float

    @property
    def worst(self) -> np.float32:
        """What any finite value improves on."""
        return np.float32(self.sign * np.inf)

    def judge(self, loop: Loop, best: Any) -> tuple[Any, Any, Any]:
        """1 or 0 for whether the statistic was measured, whether it has improved on `best`, and the best now."""
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
    """What an evaluation of the loop depends on: the model, and what is remembered as evaluated."""
    return {"model": loop.model, "evaluated": {name: loop.callback_state[name] for name in sorted(loop.evaluated)}}


def _with_traits(callback: Any, monitor: str, *, copies_memory: bool = False) -> Callback:
    """The callback with what the engine asks of it: see `phases.begin_epoch` and `callback.fire`."""
    callback.monitors, callback.copies_memory = (monitor,), copies_memory
    return callback


def _watched(owner: str, monitor: str, mode: Mode, min_delta: float) -> _Watched:
    if not isinstance(monitor, str):
        raise TypeError(f"{owner}: `monitor` must be the name of a statistic, such as 'loss', got {monitor!r}.")
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"{owner}: `mode` must be 'auto', 'min' or 'max', got {mode!r}.")
    if not min_delta >= 0:
        raise ValueError(f"{owner}: `min_delta` must be at least 0, got {min_delta}.")
    less, more = (any(word in monitor for word in words) for words in _DIRECTIONS)
    if mode == "auto" and less == more:
        raise ValueError(
            f"{owner}: whether less or more of {monitor!r} is better cannot be told from its name. "
            "Give mode='min' or mode='max'."
        )
    return _Watched(owner, monitor, 1 if mode == "min" or (mode == "auto" and less) else -1, float(min_delta))


_DIRECTIONS = (("loss", "error", "perplexity"), ("accuracy", "matthews"))


def _whole(owner: str, name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{owner}: `{name}` must be a whole number of epochs, at least {least}, got {value!r}.")
    return int(value)


def _where(condition: Any, one: Any, other: Any) -> Any:
    """`one` where `condition` holds, else `other`, leaf by leaf."""
    return jax.tree.map(lambda left, right: jnp.where(condition, left, right), one, other)
