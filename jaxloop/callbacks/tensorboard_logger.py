"""Event files for TensorBoard: a folder for each fit, with training and validation apart."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxloop.callback import HostDeclaration, Reads
from jaxloop.durable import is_same_place
from jaxloop.errors import CheckpointError
from jaxloop.events import TRAINING, Event, Phase, Plan, Split
from jaxloop.files.event_file import EventFile, ScalarRows
from jaxloop.files.event_folder import cut_back, event_files, folder_of, has_run, new_run
from jaxloop.files.png import require_pillow
from jaxloop.files.summaries import histograms, images, plain_hyperparameters, scalars, session_end, session_start
from jaxloop.files.waiting import WaitingRows
from jaxloop.loop import Loop
from jaxloop.measured import as_floats, is_measured
from jaxloop.path_argument import path_argument
from jaxloop.speed import training_speed
from jaxloop.telling import warn
from jaxloop.views import Columns
from jaxloop.whole_number import whole_number

_EVENTS = (
    *(Event.FIT_START, Event.TRAINING_START, Event.BATCH_END),
    *(Event.TRAINING_END, Event.VALIDATION_END, Event.EPOCH_END, Event.FIT_END),
)


class TensorBoardLogger:
    """Writes event files for TensorBoard. To view them: `tensorboard --logdir run/tensorboard/stats`.

    Each fit has a folder below `root`, named by its time. In it are `train` and `validation`, or a folder for each of
    several sets of validation; that of a set called `train` is `train-set`. Tags are the same, so one chart has all:

    - By epoch, counted from 1 over the loop's life as everywhere: `epoch/<metric>` in both folders. In `train` also
      `epoch/learning_rate`, if the optimizer exposes it; what callbacks recorded, with its value at the end of the
      epoch; and `epoch/examples_per_second`, `epoch/mfu` and `epoch/peak_memory_bytes` as `History.epochs` has them.
    - By training batch, at the number of training batches taken, which is `step` in CSV and `History`:
      `batch/<metric>`, each a mean over the epoch so far; `batch/learning_rate`; and what callbacks recorded. With
      `report="epoch"` there are none.

    The format holds numbers as float32: a whole number above 2**24 is rounded. CSV and `History` keep it exactly. What
    an epoch has not measured has no point at that epoch. At a batch it is NaN, like what has diverged.

    Rows are written once a second, at the end of a phase (at most ten times a second), when 8192 rows wait, and at the
    end of the fit, however it ends. What is written outlives the process, and no write waits for the disk. If a write
    fails, for example on a full disk, a warning says so, the earlier records stay readable, and training goes on
    without the logger.

    A run that is resumed from a checkpoint goes on in its folder, and has the points of an uninterrupted run. Points
    that came after the checkpoint are cut off, and come again in a new file. A TensorBoard that was open all the time
    may show them twice, until it is started again. With another `root`, to which the folder was not moved, the rest
    of the run has a new folder there, and a warning says so.

    Args:
      root: the folder in which each fit makes its own.
      weight_histograms: write histograms of the parameters, `weights/<path>`, after every so many epochs. This copies
        the loop once an epoch, and costs nothing in a step.
      gradient_histograms: write histograms of the gradient, `gradients/<path>`, after every so many training steps.
        This reads the step, so training takes one step per dispatch, cut in two, even with another
        `steps_per_dispatch`.
      images: `(loop) -> {tag: image}`, called after each epoch with a copy of the loop; images as in `ImageSaver`. It
        needs Pillow.
      hyperparameters: numbers, bools and strings by name. TensorBoard's tab HPARAMS shows them with the last metrics.

    Raises:
      TypeError, ValueError: an argument is of a wrong type, or outside of its bounds.
      ModuleNotFoundError: at the start of a fit, Pillow is needed and not installed.
      CheckpointError: a run is resumed, and its folder is gone, or a file in it is gone or shorter than it was.
      OSError: at the start of a fit, the folder cannot be made.

    Example:
      >>> callbacks = [jl.callbacks.TensorBoardLogger(hyperparameters={"batch_size": 128})]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    # So that setting a misspelled attribute is an error.
    __slots__ = ("__weakref__", "gradient_histograms", "hyperparameters", "images", "root", "weight_histograms")

    def __init__(
        self,
        root: str | Path = "run/tensorboard/stats",
        *,
        weight_histograms: int | None = None,
        gradient_histograms: int | None = None,
        images: Callable[[Loop], Mapping[str, Any]] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
    ):
        for name, value in (("weight_histograms", weight_histograms), ("gradient_histograms", gradient_histograms)):
            if value is not None:
                whole_number(f"TensorBoardLogger: `{name}`", value)
        if images is not None and not callable(images):
            raise TypeError(f"TensorBoardLogger: `images` must be a function of the loop, got {images!r}.")
        self.root = path_argument("TensorBoardLogger: `root`", root, "run/tensorboard")
        self.weight_histograms, self.gradient_histograms = weight_histograms, gradient_histograms
        self.images = images
        self.hyperparameters = plain_hyperparameters(hyperparameters or {})

    @property
    def host_declaration(self) -> HostDeclaration:
        """It observes rows, and reads more only at the events where an option needs it."""
        deeper: list[tuple[Event, Reads]] = []
        if self.weight_histograms is not None or self.images is not None:
            deeper.append((Event.EPOCH_END, "loop"))
        if self.gradient_histograms is not None:
            deeper.append((Event.UPDATE_START, "step"))
        return HostDeclaration(frozenset({*_EVENTS, *dict(deeper)}), "stats", tuple(deeper))

    def bind(self, plan: Plan) -> "_Run":
        if self.images is not None:
            require_pillow("TensorBoardLogger: `images`")  # at the start of the fit, not at the first image
        return _Run(self, plan)

    def __repr__(self) -> str:
        return f"TensorBoardLogger({str(self.root)!r})"


class _Run:
    """The files of one fit."""

    __name__ = "TensorBoardLogger"  # what a user has written
    rows_may_wait = logs_last = True  # also where it reads the loop, for histograms

    def __init__(self, options: TensorBoardLogger, plan: Plan):
        self.host_declaration = options.host_declaration
        self._options, self._plan = options, plan
        self._folder: Path | None = None
        self._files: dict[str, EventFile] = {}
        self._encoders: dict[tuple[str, ...], ScalarRows] = {}
        self._recorded: list[str] = []  # the names of statistics that are not metrics
        self._failed = self._completed = False
        self._by_batch = plan.report == "batch"
        self._began = self._compiling = 0.0
        self._counted = 0  # rows in this phase so far
        self._latest: Columns | None = None
        self._waiting = WaitingRows()

    def __call__(self, loop: Any, event: Event) -> None:
        if event is Event.FIT_START:
            self._open(loop)
        elif event is Event.TRAINING_START:
            self._began, self._compiling = time.perf_counter(), 0.0
        elif event is Event.UPDATE_START:
            self._look_at_gradient(loop)
        elif event in (Event.TRAINING_END, Event.VALIDATION_END):
            self._end_phase(loop, loop.split)
        elif event is Event.EPOCH_END:
            self._end_epoch(loop)
        elif event is Event.FIT_END:
            self._completed = True

    def rows(self, columns: Columns) -> None:
        self._counted += columns.count
        self._latest = columns
        if self._by_batch and columns.phase is Phase.TRAINING:
            now = time.time()
            self._waiting.add(columns, now)
            if self._waiting.are_due(now):
                self._write_waiting()

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._compiling += seconds

    def state(self) -> dict[str, Any]:
        """What `resume` needs. The points so far are in the files then, and outlive the machine."""
        assert self._folder is not None
        self._write_waiting()
        for folder in self._files:
            self._write(folder, EventFile.sync)
        return {
            "root": str(self._options.root),
            "folder": self._folder.name,
            "files": event_files(self._folder, self._plan.splits),
            "failed": self._failed,
            "completed": self._completed,
            "counted": self._counted,
            "training_seconds": time.perf_counter() - self._began - self._compiling,
            "latest": None if self._latest is None else self._latest.last().to_json(),
        }

    def resume(self, loop: Any, state: Mapping[str, Any]) -> None:
        """Continues the files from where `state` was given, in place of FIT_START."""
        root = self._options.root
        folder = root / state["folder"]
        if has_run(root, state["folder"]):
            self._name_recorded(loop)
            self._go_on(folder, state)
        elif is_same_place(state["root"], root):
            raise CheckpointError(
                f"TensorBoardLogger: the folder {str(folder)!r} is gone, and the resumed run must go on in it. Put it "
                "back, or give another `root`, where a new one is made."
            )
        else:
            self._open(loop)
            warn(
                f"TensorBoardLogger: the run was logged below {state['root']!r}. The rest of it goes to "
                f"{str(self._folder)!r}, without the points of before."
            )
        self._completed, self._counted = state["completed"], state["counted"]
        self._began, self._compiling = time.perf_counter() - state["training_seconds"], 0.0
        self._latest = None if state["latest"] is None else Columns.from_json(state["latest"])

    def close(self) -> None:
        if self._folder is None:
            return
        try:
            self._write_waiting()
            if self._options.hyperparameters:
                self._write("", lambda file: file.add(session_end(self._completed), 0))
            for folder in self._files:
                self._write(folder, EventFile.close)
        finally:
            self._close_all()

    def _go_on(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Cuts the files in `folder` to what they were. What comes is written to new files."""
        self._files = cut_back(folder, state["files"], self._plan.splits)
        self._folder = folder
        self._waiting.start(time.time())
        if state["failed"]:
            warn(
                f"TensorBoardLogger: {str(folder)!r} could not be written before the checkpoint. It goes on now, but "
                "points of before are missing."
            )

    def _name_recorded(self, loop: Any) -> None:
        own = set(self._plan.statistics)
        self._recorded = sorted(set(loop.stats) - own)

    def _open(self, loop: Any) -> None:
        self._name_recorded(loop)
        root = self._options.root
        try:
            folder = new_run(root)
            self._files["train"] = EventFile(folder / "train")
        except OSError as error:
            raise type(error)(
                f"TensorBoardLogger: no folder can be made below {str(root)!r}, {error}. Give another `root`."
            ) from error
        self._folder = folder
        self._waiting.start(time.time())
        if self._options.hyperparameters:
            folders = list(map(folder_of, self._plan.splits))
            metrics = [(folder, f"epoch/{name}") for folder in folders for name in self._plan.metrics]
            summary = session_start(self._options.hyperparameters, metrics)
            self._write("", lambda file: file.add(summary, 0))

    def _end_phase(self, loop: Any, split: Split) -> None:
        if self._waiting.are_due(time.time(), phase_ended=True):
            self._write_waiting()
        if self._counted and self._latest is not None:
            values = {name: loop.stats[split.stat(name)] for name in self._plan.metrics}
            if split == TRAINING:
                seconds = time.perf_counter() - self._began - self._compiling
                speed = training_speed(self._latest, self._counted, seconds)
                values |= {name: value for name, value in speed.items() if name not in loop.stats}
            self._write_summary(folder_of(split), scalars(_of_epoch(values)), loop)
        self._counted = 0

    def _end_epoch(self, loop: Any) -> None:
        options = self._options
        recorded = {name: loop.stats[name] for name in self._logged(loop.stats)}
        self._write_summary("train", scalars(_of_epoch(recorded)), loop)
        if options.weight_histograms is not None and int(loop.epoch) % options.weight_histograms == 0:
            self._write_summary("train", histograms("weights", loop.model.params), loop)
        if options.images is not None:
            self._write_summary("train", images(options.images(loop)), loop)

    def _look_at_gradient(self, loop: Any) -> None:
        taken = int(loop.step)
        if taken % (self._options.gradient_histograms or 1) == 0:
            gradient = histograms("gradients", loop.gradient)
            self._write("train", lambda file: file.add(gradient, taken + 1))

    def _logged(self, stats: Mapping[str, Any]) -> list[str]:
        """The names of the other statistics; without the learning rate if the optimizer does not expose it."""
        return [name for name in self._recorded if name != "learning_rate" or is_measured(stats[name]).any()]

    def _write_summary(self, folder: str, summary: Any, loop: Any) -> None:
        """Writes the summary of an epoch if it holds anything."""
        if summary.value:
            self._write(folder, lambda file: file.add(summary, int(loop.epoch)))

    def _write_waiting(self) -> None:
        waiting = self._waiting.together()
        if waiting is None:
            return
        self._waiting.clear(time.time())  # before the write: a write that has failed is not tried again
        columns, times = waiting
        names = [*self._plan.metrics, *self._logged(columns)]
        values = np.stack([as_floats(columns[name]) for name in names], axis=1)
        records = self._encoder([f"batch/{name}" for name in names]).encode(times, columns["step"] + 1, values)
        self._write("train", lambda file: file.write(records))

    def _encoder(self, tags: list[str]) -> ScalarRows:
        key = tuple(tags)
        return self._encoders.get(key) or self._encoders.setdefault(key, ScalarRows(tags))

    def _write(self, folder: str, write: Callable[[EventFile], None]) -> None:
        """Calls `write` with the file in a folder of the run. If this fails, it warns, and ends all writing."""
        if self._failed:
            return
        assert self._folder is not None
        try:
            if folder not in self._files:
                self._files[folder] = EventFile(self._folder / folder)
            write(self._files[folder])
        except OSError as error:
            self._failed, self._by_batch = True, False
            self._close_all()
            warn(
                f"TensorBoardLogger: {str(self._folder / folder)!r} cannot be written, {error}. What was written "
                "before is whole; training goes on, and this fit writes no more.",
            )

    def _close_all(self) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()


def _of_epoch(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were measured, by their tags."""
    return {f"epoch/{name}": value for name, value in values.items() if is_measured(value)}
