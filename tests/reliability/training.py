"""The reference run: small, with everything that a resumed run could get wrong. A script too.

`python -m tests.reliability.training FOLDER '{"steps": 3, "every": 1, "resume": true}'` runs it as a child does.
"""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import nnx

import jaxloop as jl
from jaxloop import callbacks
from tests.reliability import outcomes
from tests.reliability.announcing import Announcer, announce_boundaries, announce_calls

EPOCHS, BATCHES, VALIDATION_BATCHES = 3, 7, 3
_BATCH, _FEATURES, _CLASSES = 8, 5, 3
_SAMPLES = _BATCH * BATCHES
_COMPILED = ("clip", "schedule", "ema", "early_stopping", "plateau")
_HOST = ("csv", "tensorboard", "bar")
#: The names of the callbacks: a run can have all of them or any one.
CALLBACKS = (*_COMPILED, *_HOST)
TRACE = "trace.txt"


@dataclass(frozen=True)
class Options:
    """What a reference run has.

    Attributes:
      steps: per dispatch.
      apart: whether a host callback reads the step, so that its stages are apart. Only with `steps=1`.
      callbacks: their names; the trace of events is always there.
      data: where the batches come from.
      epochs: how many there are.
      every: a `Checkpoint` saves so often: steps, or `"epoch"`. None: there is no such callback.
      resume: whether `fit` is told to resume from the checkpoints.
      announces: what is announced to the parent: nothing; the boundaries; or rows and events too. These need an
        observer, which wants its rows at once.
      calls: further points: (place of a function or method, point), such as `("json:dumps", "writing")`, which gives
        the points `writing begun` and `writing over`.
    """

    steps: int | Literal["auto"] = 1
    apart: bool = False
    callbacks: tuple[str, ...] = CALLBACKS
    data: Literal["epochs", "list", "grain", "torch"] = "epochs"
    epochs: int = EPOCHS
    every: int | Literal["epoch"] | None = None
    resume: bool = False
    announces: Literal["nothing", "boundaries", "all"] = "boundaries"
    calls: tuple[tuple[str, str], ...] = ()

    def as_arguments(self, folder: Path) -> list[str]:
        """The command line of a child with these options."""
        return ["-m", "tests.reliability.training", str(folder), json.dumps(dataclasses.asdict(self))]

    @staticmethod
    def of(text: str) -> "Options":
        """The options that a command line holds."""
        given = json.loads(text)
        calls = tuple((place, point) for place, point in given.get("calls", ()))
        return Options(**given | {"callbacks": tuple(given.get("callbacks", CALLBACKS)), "calls": calls})


class Network(nnx.Module):
    """Two layers, with batch norm and dropout: it has batch statistics and a stream of random numbers."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(_FEATURES, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(8, _CLASSES, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.norm(self.first(input)))))


def fit(folder: Path, options: Options) -> tuple[jl.Loop, jl.History]:
    """Runs the reference run in `folder`, which holds its logs, and its checkpoints in `checkpoints`."""
    checkpoints = folder / "checkpoints"
    more: list[Any] = []
    if options.every is not None:
        more = [callbacks.Checkpoint(checkpoints, every=options.every)]  # type: ignore[attr-defined]
    resumes: dict[str, Any] = {"resume_from": checkpoints} if options.resume else {}
    with (folder / "bar.txt").open("a", encoding="utf-8") as bar:
        training_loop = jl.TrainingLoop(
            training=_training(options.data),
            validation=jl.in_batches(_samples(_BATCH * VALIDATION_BATCHES - 3, seed=1), _BATCH),
            optimizer=optax.inject_hyperparams(optax.adamw)(learning_rate=0.01, weight_decay=0.1),
            loss_fn=jl.losses.softmax_cross_entropy,
            metrics=["accuracy"],
            callbacks=[*_callbacks(folder, options, bar), *more],
            steps_per_dispatch=options.steps,
            progress=False,
        )
        return training_loop.fit(Network(nnx.Rngs(0)), options.epochs, seed=1, **resumes)


def _callbacks(folder: Path, options: Options, bar: Any) -> list[Any]:
    rise_and_fall = [
        jl.ScheduleSegment(jl.shapes.linear, start_rate=0.01, end_rate=0.1, step_count=5),
        jl.ScheduleSegment(jl.shapes.cosine, end_rate=0.0),
    ]
    made = {
        "clip": lambda: callbacks.clip_by_global_norm(0.5),
        "schedule": lambda: callbacks.learning_rate_scheduler(jl.make_schedule(rise_and_fall)),
        "ema": lambda: callbacks.ema(0.9, evaluate=True),
        "early_stopping": lambda: callbacks.early_stopping(patience=100, restore_best=True),
        # It reduces each epoch after the first, and what no schedule sets.
        "plateau": lambda: callbacks.reduce_on_plateau(patience=1, min_delta=100.0, hyperparameter="weight_decay"),
        "csv": lambda: callbacks.CSVLogger(folder / "log.csv"),
        "tensorboard": lambda: callbacks.TensorBoardLogger(folder / "tensorboard"),
        "bar": lambda: callbacks.ProgressBar(bar),
    }
    listed = [made[name]() for name in options.callbacks]
    if options.apart:
        listed.append(cut)
    if options.announces == "all":
        listed.append(Announcer())
    return [*listed, Trace(folder / TRACE)]


@jl.on_host(jl.Event.UPDATE_START, jl.Event.INFERENCE_PREDICTION_END, reads="step")
def cut(loop: Any, event: jl.Event) -> None:
    """Cuts the step, so that its stages are apart."""


@jl.on_host(*(event for event in jl.Event if not event.in_step), jl.Event.BATCH_END)
class Trace:
    """Writes a line for each event and row, with the bits of its loss. It resumes as all that writes must."""

    rows_may_wait = True

    def __init__(self, path: Path):
        self._path = path
        self._file: Any = None

    def __call__(self, loop: Any, event: jl.Event) -> None:
        if event is jl.Event.FIT_START:
            self._open(0)
        self._write(event.name, loop.epoch, loop.batch_index, loop.step, loop.stats["loss"])

    def rows(self, columns: Any) -> None:
        for index in range(columns.count):
            loss = columns.split.stat("loss")
            values = [columns[name][index] for name in ("epoch", "batch_index", "step", loss)]
            self._write(f"{columns.split.name} row", *values)

    def state(self) -> dict[str, Any]:
        os.fsync(self._file.fileno())
        return {"size": self._file.tell()}

    def resume(self, loop: Any, state: dict[str, Any]) -> None:
        self._open(state["size"])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, size: int) -> None:
        os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY))
        os.truncate(self._path, size)
        self._file = self._path.open("ab", buffering=0)

    def _write(self, what: str, epoch: Any, batch: Any, step: Any, loss: Any) -> None:
        bits = np.float32(loss).tobytes().hex()
        self._file.write(f"{what} epoch {epoch} batch {batch} step {step} loss {bits}\n".encode())


def _samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, 5])
    inputs = random.normal(size=(count, _FEATURES)).astype(np.float32)
    return inputs, random.integers(0, _CLASSES, count).astype(np.int32)


def _training(data: str) -> Any:
    """Three or more shuffled epochs of which no two are alike."""
    inputs, targets = _samples(_SAMPLES, seed=0)
    epochs = jl.TrainingEpochs((inputs, targets), _BATCH, seed=3)
    if data == "epochs":
        return epochs
    if data == "list":
        return [list(epochs[index]) for index in range(2 * EPOCHS)]
    pairs = list(zip(inputs, targets, strict=True))
    if data == "grain":
        import grain

        shuffled = grain.MapDataset.source(pairs).seed(3).shuffle().repeat()
        return jl.repeat(shuffled.batch(_BATCH), batch_count=BATCHES)
    import torch  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(3)
    return jl.repeat(torch.utils.data.DataLoader(pairs, _BATCH, shuffle=True, generator=generator))  # type: ignore[arg-type]


def main() -> None:
    """Runs it as the command line says, and keeps what is to be compared."""
    folder, options = Path(sys.argv[1]), Options.of(sys.argv[2])
    if options.announces != "nothing":
        announce_boundaries()
    for place, point in options.calls:
        announce_calls(place, point)
    outcomes.keep(folder, *fit(folder, options))


if __name__ == "__main__":
    main()
