"""The learning-rate range test: one short ramp of the rate, and the rate that its losses suggest."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback
from jaxloop.events import Event, Scope
from jaxloop.feeding.checks import check_epoch
from jaxloop.feeding.source import EpochSource, whole
from jaxloop.history import History
from jaxloop.hyperparameters import RATE, Aim, aim
from jaxloop.loop import Loop
from jaxloop.losses import weighted_mean
from jaxloop.measured import is_measured, unmeasured
from jaxloop.placement import On
from jaxloop.plainly import plainly
from jaxloop.plots import draw_range_test, save
from jaxloop.training_loop import TrainingLoop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RAMP = "learning_rate_finder_rate"  # the column of the rates of the ramp
_LOSS = "learning_rate_finder_loss"  # the column of the losses, and the name of what the ramp remembers
_FEWEST_STEPS = 10
_DESCENT = 0.9  # the suggestion is the rate at which this share of the descent is done
_CLEARLY = 5  # times its uncertainty is how far the smoothed loss must fall, or it may have done so by chance
_WINDOW = 0.03  # the standard deviation of the smoothing window, as a share of all steps


@dataclass(frozen=True, eq=False, repr=False)
class LearningRateTest:
    """What a learning-rate range test measured.

    Attributes:
      rates: float32[steps], the rate of each training step that was taken, ascending.
      losses: float32[steps], the mean loss of that step's batch, before its update. The last is what ended the test,
        if it ended early.
      smoothed: float64[steps], the same under a Gaussian window with a standard deviation of 3% of all steps.
      suggestion: the rate at which the smoothed loss has come nine tenths of its way, from the mean over the first
        tenth of the steps to its lowest: before the minimum, after which it climbs, and yet not much slower.

    Example:
      >>> test = jl.find_learning_rate(training_loop, model, steps=100)
      >>> bool(test.rates[0] < test.suggestion < test.rates[-1])
      True
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def plot(self, path: str | Path | None = None) -> "Figure":
        """A figure of the losses over the rate, raw and smoothed, with the suggestion marked.

        Args:
          path: where it is saved too, in the format that its ending names; folders are made.

        Returns:
          A matplotlib figure that pyplot does not know of, so nothing pops up.

        Raises:
          ModuleNotFoundError: matplotlib is not installed.
        """
        figure = draw_range_test(self.rates, self.losses, self.smoothed, self.suggestion)
        if path is not None:
            save(figure, path)
        return figure

    def __repr__(self) -> str:
        finite = self.smoothed[np.isfinite(self.smoothed)]
        best = f"{finite.min():.4g} at best" if len(finite) else "never finite"
        return (
            f"LearningRateTest(suggestion {self.suggestion:.2g}; {len(self.rates)} rates from {self.rates[0]:.3g} to "
            f"{self.rates[-1]:.3g}, smoothed loss {self.smoothed[0]:.4g} at first, {best})"
        )


@plainly
def find_learning_rate(
    training_loop: TrainingLoop,
    model_or_loop: Any,
    *,
    start_rate: float = 1e-6,
    end_rate: float = 10.0,
    steps: int = 200,
    group: str | None = None,
    scale: Mapping[str, float] | None = None,
    on: On = None,
    seed: int = 0,
) -> LearningRateTest:
    """The losses of a short training with a growing learning rate, and the rate that they suggest.

    The rate grows by the same factor at each training step, from `start_rate` to `end_rate`. The training ends early if
    the loss diverges: it is not finite, or its moving average over a tenth of the steps exceeds its lowest by more than
    three times that value (or three tenths of the first loss, if that is more). Smith: Cyclical learning rates for
    training neural networks, WACV 2017, section 3.3, with the exponential ramp and the early end of fastai's `lr_find`.

    It is a fit of one epoch, as long as the ramp. Compiled callbacks are called, but none of them can set the rate, nor
    that of a group that is tested.
    Validation, host callbacks and the console are left out. The given model or loop stays as it was.

    Args:
      training_loop: with the data, optimizer, loss and compiled callbacks to use. Its optimizer exposes the rate, by
        `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`; any number will do there.
      model_or_loop: a model, or a loop to go on from with its optimizer's state.
      start_rate: above 0, and so small that the model does not learn.
      end_rate: above `start_rate`, and so large that the loss diverges.
      steps: training steps of the whole ramp, at least 10, over as many epochs of data as they take.
      group: where several groups of the optimizer expose a rate, the one that is tested, by its label. The others
        train with the rates that they have.
      scale: in place of `group`, a factor for each group. All are tested together, and the suggestion is the rate
        before it is multiplied, as `learning_rate_scheduler` takes it.
      on: as in `TrainingLoop.fit`.
      seed: of the run's key. A loop brings its own key.

    Raises:
      TypeError: `training_loop` is no TrainingLoop.
      ValueError: an argument is wrong, the data have fewer batches, the optimizer exposes no rate (or several, and
        neither `group` nor `scale` says which), or the loss never fell. In the last case `error.test` has the curve,
        to be drawn.
      Whatever `TrainingLoop.fit` raises.

    Example:
      >>> test = jl.find_learning_rate(training_loop, model)
      >>> loop = training_loop.start(model, epochs=12).with_hyperparameter("learning_rate", test.suggestion)
      >>> loop, history = training_loop.fit(loop, epochs=12)
    """
    _check_arguments(training_loop, start_rate, end_rate, steps)
    aimed = aim("find_learning_rate", RATE, group, scale)
    first = int(model_or_loop.epoch) if isinstance(model_or_loop, Loop) else 0
    batches = _Chain(_epochs_for(steps, training_loop.training, first), steps)
    trial = TrainingLoop.of(training_loop.setup.on_trial(itertools.repeat(batches), report="batch"))
    ramp = _ramp(float(start_rate), float(end_rate), int(steps), aimed)
    _, history = trial.fit(model_or_loop, epochs=1, callbacks=[ramp], on=on, seed=seed)
    return _test_of(history, int(steps))


def _test_of(history: History, steps: int) -> LearningRateTest:
    """The test that a fit along the ramp was."""
    if not len(history.batches.get(_LOSS, ())):
        raise ValueError("find_learning_rate: a compiled callback cancelled each training step. Leave it out.")
    measured = is_measured(history.batches[_LOSS])
    if not measured.any():
        raise ValueError("find_learning_rate: no batch has an example of a weight above 0. Check the weights.")
    test = _judged(history.batches[_RAMP][measured], history.batches[_LOSS][measured], steps)
    if math.isnan(test.suggestion):
        raise _no_suggestion(test)
    return test


@functools.lru_cache(maxsize=16)  # the same ramp again is the same callback, so it compiles nothing again
def _ramp(start_rate: float, end_rate: float, steps: int, aimed: Aim) -> Callback:
    """A compiled callback that sets each step's rate, records its loss, and ends the fit where the loss diverges."""
    rates = np.geomspace(start_rate, end_rate, steps)
    window = steps // 10

    def ramp(loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            return loop.remember(_LOSS, {"average": np.float32(0), "first": np.float32(0), "best": np.float32(np.inf)})
        if event in (Event.BATCH_START, Event.UPDATE_START):  # the last callback at both: its rate is the one applied
            rate = jnp.asarray(rates)[loop.batch_index]
            return loop.replace(opt_state=aimed.hit(loop.opt_state, rate)).record(_RAMP, rate)
        if event is not Event.BATCH_END:
            return loop
        loss, before = _loss_of(loop), loop.callback_state[_LOSS]
        memory, diverged = _watched(before, loss, loop.batch_index, window)
        if loop.weight is not None:
            measured = is_measured(loss)
            memory = {name: jnp.where(measured, value, before[name]) for name, value in memory.items()}
            diverged &= measured
        loop = loop.replace(callback_state=loop.callback_state | {_LOSS: memory})
        return loop.record(_LOSS, loss).cancel(Scope.FIT, when=diverged)

    ramp.__name__ = ramp.__qualname__ = "find_learning_rate"  # what messages call it
    return ramp


def _loss_of(loop: Loop) -> jax.Array:
    """The mean loss of the step's batch, float32[]; not measured where no example has a weight."""
    loss = weighted_mean(loop.loss, loop.weight).astype(jnp.float32)
    if loop.loss.ndim == 0 or loop.weight is None:
        return loss
    return jnp.where(jnp.any(loop.weight != 0), loss, unmeasured(jnp.float32))


def _watched(memory: dict[str, Any], loss: jax.Array, index: Any, window: int) -> tuple[dict[str, Any], jax.Array]:
    """The moving average with one loss more, its lowest value, and whether the loss has diverged."""
    decay = 1 - 1 / window
    average = decay * memory["average"] + (1 - decay) * loss
    first = jnp.where(index == 0, loss, memory["first"])
    smoothed = average / (1 - decay ** (index + 1).astype(jnp.float32))
    best = jnp.where(index + 1 < window, math.inf, jnp.minimum(memory["best"], smoothed))  # of no less than a window
    scale = jnp.maximum(jnp.abs(best), 0.1 * jnp.abs(first))  # of a loss that comes near 0, or falls below
    diverged = ~jnp.isfinite(loss) | (smoothed > best + 3 * scale)
    return {"average": average, "first": first, "best": best}, diverged


def _judged(rates: np.ndarray, losses: np.ndarray, steps: int) -> LearningRateTest:
    """The test with its losses smoothed, and the rate that they suggest; NaN where they fell no more than they scatter.

    Args:
      rates: float[n], ascending.
      losses: float[n]; the last may not be finite.
      steps: of the whole ramp, of which n were taken.
    """
    finite = losses[np.isfinite(losses)].astype(np.float64)
    if not len(finite):
        return LearningRateTest(rates, losses, losses.astype(np.float64), math.nan)
    tenth, width = max(steps // 10, 1), _WINDOW * steps
    first = finite[:tenth].mean()
    ceiling = first + 2 * (first - finite.min())  # what has diverged would drown all else in the window
    clipped = np.where(np.isfinite(losses), np.minimum(losses, ceiling), ceiling)
    smoothed = _smooth(clipped, width)
    bottom = int(smoothed.argmin())
    descent = first - smoothed[bottom]
    scatter = np.diff(clipped[: max(bottom, tenth)]).std() / math.sqrt(2)  # of a batch's loss, whatever the trend
    uncertainty = scatter / math.sqrt(max(2 * math.sqrt(math.pi) * width, 1))  # of the mean under the window
    above = np.flatnonzero(smoothed[:bottom] >= first - _DESCENT * descent)
    clear = len(above) > 0 and descent > _CLEARLY * uncertainty
    return LearningRateTest(rates, losses, smoothed, float(rates[above[-1] + 1]) if clear else math.nan)


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """The mean of `values` about each, weighted by a Gaussian of standard deviation `width`."""
    places = np.arange(len(values))
    weight = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    return weight @ values / weight.sum(axis=1)


def _no_suggestion(test: LearningRateTest) -> ValueError:
    if np.isfinite(test.losses).any():
        what = f", at first {test.losses[0]:.4g}, never fell by more than it scatters"
    else:
        what = " was never finite"
    error = ValueError(
        f"find_learning_rate: at rates from {test.rates[0]:.3g} to {test.rates[-1]:.3g} the loss{what}. Take more "
        "`steps` or a smaller `start_rate`; or the model cannot learn, or is trained already and has nothing left to "
        "learn. error.test has the curve."
    )
    error.test = test  # type: ignore[attr-defined]
    return error


@dataclass(frozen=True, eq=False)
class _Chain:
    """The first `count` batches of several epochs, as one epoch."""

    epochs: Sequence[Any]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        left = self.count
        for index, epoch in enumerate(self.epochs):
            if left < len(epoch):  # as `break` in a loop by hand
                yield from itertools.islice(epoch, left)
            else:
                yield from whole(epoch, f"training: epoch {index + 1} of the test (counted from 1)")
            left -= len(epoch)

    @property
    def shapes(self) -> tuple[int, ...] | None:
        """The lengths that the batches are padded to, as `Batches.shapes`."""
        return getattr(self.epochs[0], "shapes", None)


def _epochs_for(steps: int, training: Any, first: int) -> list[Any]:
    """As many epochs of `training`, from `first` on, as have `steps` batches together.

    Raises:
      ValueError: there are not so many.
    """
    source = EpochSource(training)
    epochs: list[Any] = []
    count = 0
    while count < steps:
        try:
            epoch = source.at(first + len(epochs)).batches
            check_epoch(epoch)
            if len(epoch) == 0:
                raise ValueError("an epoch without a batch")
        except ValueError as error:
            raise ValueError(
                f"find_learning_rate: `steps` is {steps}, but from epoch {first + 1} on (counted from 1) the data have "
                f"only {count} batches. Give fewer steps, or more epochs."
            ) from error
        epochs.append(epoch)
        count += len(epoch)
    return epochs


def _check_arguments(training_loop: Any, start_rate: float, end_rate: float, steps: int) -> None:
    if not isinstance(training_loop, TrainingLoop):
        raise TypeError(
            f"find_learning_rate: `training_loop` must be a TrainingLoop, got {type(training_loop).__name__}. Write "
            "find_learning_rate(training_loop, model)."
        )
    if not 0 < start_rate < end_rate < math.inf:
        raise ValueError(
            f"find_learning_rate: the rate grows from `start_rate`, above 0, to `end_rate`, got {start_rate!r} and "
            f"{end_rate!r}. Leave them out for 1e-6 and 10."
        )
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < _FEWEST_STEPS:
        raise ValueError(
            f"find_learning_rate: `steps` must be a whole number of at least {_FEWEST_STEPS}, got {steps!r}."
        )
