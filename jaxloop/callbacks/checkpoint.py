"""When a run is saved, and what is kept: the options of its checkpoints. The engine saves."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxloop.callback import HostDeclaration
from jaxloop.checkpoint.disk import refuse_remote
from jaxloop.events import Event
from jaxloop.metrics import less_is_better
from jaxloop.path_argument import path_argument
from jaxloop.whole_number import whole_number

Every = Literal["epoch"] | int | timedelta
Better = Literal["min", "max"]


class Checkpoint:
    """Saves the whole run, so that the same command goes on from there, bit for bit, in another process.

    A checkpoint holds everything: model, optimizer, key, counters, metrics, what callbacks remember, rows that loggers
    were not told of yet, and where each logger was in its file. `fit(..., resume_from=directory)` goes on from the
    newest one that is whole. `restore(directory, training_loop, model)` only gives its loop.

    A run is saved after each epoch, or at the first dispatch that ends after every so many training steps or so much
    time; always when the fit is over; and when it must stop early, by SIGTERM or Ctrl-C. After SIGTERM the fit saves,
    and returns with `history.stopped == "preempted"`. Training does not wait for the disk: the arrays are copied on the
    device, and a thread writes the copy. If the thread has not finished the save before, the next one waits for it. A
    save that fails ends the fit with `CheckpointError` at the next boundary, or at the end of the fit.

    A checkpoint is written to a folder of another name, made durable, checked, and then renamed. Only after that are
    older ones deleted. Each is verified in full when it is loaded. A folder belongs to one fit, and has one writer at a
    time. Nothing in it is code.

    Args:
      directory: the folder of the checkpoints, on a file system of this machine. Folders are made.
      every: `"epoch"`, a number of training steps, at least 1, or a `timedelta`.
      keep: how many of the newest are kept, at least 1.
      best: the name of a statistic, such as `"validation_loss"`: the checkpoint after the epoch where it was best is
        kept too, and made if `every` makes none there. Less is better for losses, errors and perplexities, more for
        accuracies, precisions, recalls, `f1`, `auc`, `r2` and Matthews coefficients; for other names give
        `(name, "min")` or `(name, "max")`. A statistic that is NaN, infinite or not measured is never the best.

    Raises:
      ValueError, TypeError: an argument is outside of its bounds. At the start of a fit: `best` names no statistic.
      CheckpointError: at the start of a fit, another fit is writing to the folder, or it holds the checkpoints of a run
        that this fit does not go on from.

    Example:
      >>> callbacks = [jl.callbacks.Checkpoint("run/checkpoints", best="validation_loss")]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
      >>> loop, history = training_loop.fit(model, epochs=12, resume_from="run/checkpoints")
    """

    __slots__ = ("__weakref__", "best", "directory", "every", "keep")  # so that setting a misspelled attribute fails

    #: The engine calls it at no event: it saves after all callbacks, at boundaries.
    host_declaration = HostDeclaration(frozenset(), "stats")

    def __init__(
        self,
        directory: str | Path,
        *,
        every: Every = "epoch",
        keep: int = 2,
        best: str | tuple[str, Better] | None = None,
    ):
        self.directory = path_argument("Checkpoint: `directory`", directory, "run/checkpoints")
        refuse_remote(directory)
        self.every = _interval(every)
        self.keep = whole_number("Checkpoint: `keep`", keep)
        self.best = None if best is None else _judged(best)

    def __call__(self, loop: Any, event: Event) -> None:
        """Does nothing: the engine saves."""

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.directory)!r}, every={self.every!r}, keep={self.keep}, best={self.best!r})"


def checkpoints_among(callbacks: Sequence[Any]) -> list[Checkpoint]:
    """The checkpoints among host callbacks."""
    return [callback for callback in callbacks if isinstance(callback, Checkpoint)]


def _interval(every: Any) -> Every:
    if isinstance(every, timedelta):
        if every <= timedelta(0):
            raise ValueError(f"Checkpoint: `every` must be longer than nothing, got {every!r}.")
        return every
    if every == "epoch":
        return "epoch"
    if isinstance(every, (str, float, np.floating)):
        raise TypeError(
            f"Checkpoint: `every` must be 'epoch', a number of training steps or a timedelta, got {every!r}. For "
            "minutes write datetime.timedelta(minutes=10)."
        )
    return whole_number("Checkpoint: `every`", every)


def _judged(best: Any) -> tuple[str, Better]:
    """The statistic, and in which direction it improves."""
    if isinstance(best, tuple) and len(best) == 2 and isinstance(best[0], str) and best[1] in ("min", "max"):
        return best[0], best[1]
    if not isinstance(best, str):
        raise TypeError(f"Checkpoint: `best` must be the name of a statistic, or (name, 'max'), got {best!r}.")
    less = less_is_better(best)
    if less is None:
        raise ValueError(
            f"Checkpoint: whether less or more of {best!r} is better cannot be told from its name. Give "
            f"best=({best!r}, 'min') or best=({best!r}, 'max')."
        )
    return best, "min" if less else "max"
