"""`TrainingLoop.fit`, bare and with loggers."""

import io
import tempfile
from pathlib import Path
from typing import Any

import jax

import jaxloop as jl
from benchmarks.contestants import Outcome, Turn
from benchmarks.workloads import Workload, loss_fn


def fit(workload: Workload, epochs: int, *, steps_per_dispatch: Any) -> Turn:
    """Plain `fit`: loss, accuracy, the history's row for each batch, and the console's line for each epoch."""
    training_loop = _training_loop(workload, steps_per_dispatch)
    callbacks = [jl.callbacks.ProgressBar(_Sink(terminal=False))]
    return lambda: _fitted(training_loop, workload, epochs, callbacks)


def logged_fit(workload: Workload, epochs: int, *, steps_per_dispatch: Any) -> Turn:
    """`fit` with a row for each batch in a CSV file and in TensorBoard's files, and a bar on a terminal."""
    training_loop = _training_loop(workload, steps_per_dispatch)
    bar = jl.callbacks.ProgressBar(_Sink(terminal=True))

    def turn() -> Outcome:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            loggers: list[Any] = [jl.callbacks.CSVLogger(Path(folder) / "log.csv")]
            tensorboard = getattr(jl.callbacks, "TensorBoardLogger", None)
            if tensorboard is not None:
                loggers.append(tensorboard(Path(folder) / "stats"))
            return _fitted(training_loop, workload, epochs, [bar, *loggers])

    return turn


def _training_loop(workload: Workload, steps_per_dispatch: Any) -> jl.TrainingLoop:
    """The training loop of a workload. It has no console of its own: a bar on a `_Sink` can replace it."""
    return jl.TrainingLoop(
        workload.training(),
        optimizer=workload.optimizer,
        loss_fn=loss_fn,
        metrics=["accuracy"],
        progress=False,
        steps_per_dispatch=steps_per_dispatch,
    )


def _fitted(training_loop: jl.TrainingLoop, workload: Workload, epochs: int, callbacks: list[Any]) -> Outcome:
    loop, history = training_loop.fit(workload.model, epochs, callbacks=callbacks)
    return Outcome(jax.tree.leaves(loop.model.params), history.epochs["loss"], history.epochs["accuracy"])


class _Sink(io.StringIO):
    """A stream that drops everything."""

    def __init__(self, *, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        return len(text)

    def isatty(self) -> bool:
        return self._terminal
