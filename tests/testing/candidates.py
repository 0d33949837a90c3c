"""Callbacks to check: some that go on after a kill, and one for each way in which a callback can fail to."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxloop as jl
from jaxloop import Event


def average(folder: Path) -> Any:
    return jl.callbacks.ema(0.9, evaluate=True)


def stopping(folder: Path) -> Any:
    return jl.callbacks.early_stopping(patience=1, restore_best=True)


def csv(folder: Path) -> Any:
    return jl.callbacks.CSVLogger(folder / "log.csv")


def tensorboard(folder: Path) -> Any:
    return jl.callbacks.TensorBoardLogger(folder / "stats", weight_histograms=2)


@jl.on_host(Event.BATCH_END, Event.EPOCH_END)
class Counting:
    """Counts rows, and loses the count."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def __call__(self, loop: Any, event: Event) -> None:
        if event is Event.EPOCH_END:
            (self.folder / f"epoch {int(loop.epoch)}.txt").write_text(f"{self.count} rows\n")
        else:
            self.count += 1


class CountingOn(Counting):
    """The same with a memory."""

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def resume(self, loop: Any, state: dict[str, Any]) -> None:
        self.count = state["count"]


class CountingInSets(CountingOn):
    """Its memory is no JSON."""

    def state(self) -> dict[str, Any]:
        return {"count": {self.count}}


@jl.on_host(Event.FIT_START, Event.BATCH_END)
class Appending:
    """A log that is durable, and is cut when the run goes on."""

    def __init__(self, folder: Path):
        self.path = folder / "log.txt"

    def __call__(self, loop: Any, event: Event) -> None:
        if event is Event.BATCH_END:
            with self.path.open("a") as file:
                file.write(f"{loop.phase.value} {int(loop.step)} {loop.stats['loss']!r}\n")
                file.flush()
                os.fsync(file.fileno())

    def state(self) -> dict[str, Any]:
        return {"size": self.path.stat().st_size if self.path.exists() else 0}

    def resume(self, loop: Any, state: dict[str, Any]) -> None:
        if self.path.exists():
            os.truncate(self.path, state["size"])


class AppendingTwice(Appending):
    """Does not cut what comes again."""

    def resume(self, loop: Any, state: dict[str, Any]) -> None:
        pass


class AppendingLate(Appending):
    """Has not written all when it is asked for its state."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._waiting = ""

    def __call__(self, loop: Any, event: Event) -> None:
        if event is Event.BATCH_END:
            self._waiting += f"{loop.phase.value} {int(loop.step)} {loop.stats['loss']!r}\n"

    def close(self) -> None:
        with self.path.open("a") as file:
            file.write(self._waiting)


class WritingWhenAsked(Appending):
    """Saving it changes its file."""

    def state(self) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write("saved\n")
        return super().state()


@jl.on_host(Event.UPDATE_START, reads="loop")
class Noisy:
    """Changes the loop by random numbers of its own."""

    def __init__(self, folder: Path):
        self._random = np.random.default_rng(0)

    def __call__(self, loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.with_hyperparameter("learning_rate", jnp.float32(self._random.uniform(0.01, 0.02)))


def counting_in_a_variable(folder: Path) -> Any:
    """A compiled callback that counts its calls, which are few: it is called only while it is traced."""
    seen = 0

    def counted(loop: jl.Loop, event: Event) -> jl.Loop:
        nonlocal seen
        seen += 1
        return loop.record("seen", seen) if event is Event.UPDATE_START else loop

    return counted


def watching_in_a_variable(folder: Path) -> Any:
    """One that only writes its calls down."""
    events: list[Event] = []

    def watched(loop: jl.Loop, event: Event) -> jl.Loop:
        events.append(event)
        return loop

    return watched


def remembering(loop: jl.Loop, event: Event) -> jl.Loop:
    """Remembers for this fit only, which is enough: a run that goes on is in the same fit."""
    loop = loop.remember("batches", jnp.zeros((), jnp.int32))
    if event is Event.BATCH_END:
        count = loop.callback_state["batches"] + 1
        return loop.replace(callback_state=loop.callback_state | {"batches": count})
    return loop


_lost = {"count": 0}


@jl.on_host(Event.EPOCH_END)
def counting_in_the_module(loop: Any, event: Event) -> None:
    _lost["count"] += 1
