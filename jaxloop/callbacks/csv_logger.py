"""A CSV file with a row for each batch that reports statistics."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxloop.callback import on_host
from jaxloop.durable import is_same_place
from jaxloop.errors import CheckpointError
from jaxloop.events import Event, Phase, Plan
from jaxloop.files.decimals import lines
from jaxloop.files.line_file import LineFile
from jaxloop.files.waiting import WaitingRows
from jaxloop.hyperparameters import is_rate
from jaxloop.path_argument import path_argument
from jaxloop.telling import warn
from jaxloop.views import Columns, LoopView

_EVENTS = (Event.FIT_START, Event.BATCH_END, Event.TRAINING_END, Event.VALIDATION_END)


@on_host(*_EVENTS)
class CSVLogger:
    """Writes statistics as CSV, which pandas reads without options.

    Columns: `epoch` (over the loop's life) and `batch`, both counted from 1; each metric, a mean over the phase so far;
    `phase`; `step`, the number of training batches taken; `learning_rate`, or `learning_rate/<group>` for each of
    several groups of the optimizer; and what callbacks recorded. A statistic that has diverged is `nan`, one that was
    not measured is an empty cell, and integers are written in full. With `report="batch"` every batch of training and
    validation has a row; with `report="epoch"` only the last batch of each phase.

    Rows are written once a second, at the end of a phase (at most ten times a second), when 8192 rows wait, and at the
    end of the fit, however it ends. If the process is killed, only the rows since the last write are lost.

    The fit of a new model starts with an empty file. A fit that continues from a loop appends; first it removes a row
    that a kill has cut off. Only one fit can write a file at a time. If a write fails, for example on a full disk, a
    warning says so, the earlier rows stay whole, and training goes on without the log.

    A run that is resumed from a checkpoint writes what an uninterrupted run would have written: rows that came after
    the checkpoint are cut off, and come again. So the file must still begin with the rows of the checkpoint. With
    another path the rows from then on become a new log there, and a warning says so; if the file was moved there, it
    is continued. A log that had failed before the checkpoint goes on too, and a warning says which rows are missing.

    Args:
      path: the path of the file; it must end in `.csv`. Folders are made.

    Raises:
      ValueError: the path does not end in `.csv`.
      CheckpointError: a run is resumed, and the file is gone, or no longer begins with the rows of the checkpoint.
      FileExistsError: at the start of a fit, there is something at the path that is not such a log. A run is resumed
        with another path, where there are rows already.
      BlockingIOError: at the start of a fit, another fit or logger is writing the file.

    Example:
      >>> callbacks = [jl.callbacks.CSVLogger("run/log.csv")]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    __slots__ = ("__weakref__", "path")  # so that setting a misspelled attribute is an error

    def __init__(self, path: str | Path = "run/log.csv"):
        self.path = path_argument("CSVLogger: `path`", path, "run/log.csv")
        if self.path.suffix != ".csv":
            raise ValueError(f"CSVLogger: `path` must end in .csv, got {str(path)!r}.")

    def bind(self, plan: Plan) -> "_CSVLog":
        return _CSVLog(self.path, plan)

    def __repr__(self) -> str:
        return f"CSVLogger({str(self.path)!r})"


@on_host(*_EVENTS)
class _CSVLog:
    """The file of one fit."""

    rows_may_wait = True
    __name__ = "CSVLogger"  # what a user has written

    def __init__(self, path: Path, plan: Plan):
        self._path = path
        self._plan = plan
        self._file: LineFile | None = None
        self._recorded: list[str] = []  # the names of statistics that are not metrics, the learning rates first
        self._last: Columns | None = None  # the latest rows of this phase
        self._waiting = WaitingRows()
        self._failed = False
        self._mark: tuple[int, int] | None = None  # of the file, as a checkpoint holds it

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.FIT_START:
            header = self._header(loop)
            self._opened(lambda: self._begin(header, going_on=int(loop.step) > 0))
            return
        now = time.perf_counter()
        if self._plan.report == "epoch" and self._last is not None:
            self._add(self._last.last(), now)
        self._last = None
        if self._waiting.are_due(now, phase_ended=True):
            self._write_waiting()

    def rows(self, columns: Columns) -> None:
        self._last = columns
        if self._plan.report == "batch":
            now = time.perf_counter()
            self._add(columns, now)
            if self._waiting.are_due(now):
                self._write_waiting()

    def state(self) -> dict[str, Any]:
        """What `resume` needs. The rows so far are in the file then, and outlive the machine."""
        self._write_waiting()
        if self._file is not None:
            try:
                self._file.sync()
                self._mark = self._file.mark()
            except OSError as error:
                self._fail(error)
        last = self._last if self._plan.report == "epoch" else None
        return {
            "path": str(self._path),
            "mark": None if self._mark is None else list(self._mark),
            "failed": self._failed,
            "last": None if last is None else last.last().to_json(),
        }

    def resume(self, loop: LoopView, state: Mapping[str, Any]) -> None:
        """Continues the log from where `state` was given, in place of FIT_START."""
        header, same = self._header(loop), is_same_place(state["path"], self._path)
        if same and not self._path.exists():
            raise CheckpointError(
                f"CSVLogger: {str(self._path)!r} is gone, and the resumed run must go on after its rows. Put the file "
                "back, or give another path, where a new log begins."
            )
        self._last = None if state["last"] is None else Columns.from_json(state["last"])
        self._opened(lambda: self._go_on(header, state, same_place=same))

    def close(self) -> None:
        try:
            self._write_waiting()
        finally:
            self._end()

    def _add(self, columns: Columns, now: float) -> None:
        if self._waiting.split not in (None, columns.split):
            self._write_waiting()
        self._waiting.add(columns, now)

    def _write_waiting(self) -> None:
        waiting = self._waiting.together()
        if waiting is None:
            return
        if self._file is not None:
            try:
                self._file.write(self._lines(waiting[0]))
            except OSError as error:
                self._fail(error)
        self._waiting.clear(time.perf_counter())  # after the write: if Ctrl-C interrupts it, `close` tries it again

    def _fail(self, error: OSError) -> None:
        """Ends the log with a warning."""
        self._failed = True
        with suppress(OSError):
            if self._file is not None:
                self._mark = self._file.mark()
        with suppress(OSError):
            self._end()
        warn(
            f"CSVLogger: {str(self._path)!r} cannot be written, {error}. The earlier rows are whole; "
            "training goes on, and this fit writes no more.",
        )

    def _end(self) -> None:
        """Closes the file. Later rows are not written."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _header(self, loop: LoopView) -> str:
        """The first line of the file; sets which statistics besides metrics have a column."""
        own = set(self._plan.statistics)
        self._recorded = sorted(set(loop.stats) - own, key=lambda name: (not is_rate(name), name))
        names = ["epoch", "batch", *self._plan.metrics, "phase", "step", *self._recorded]
        return ",".join(map(_quoted, names)) + "\n"

    def _opened(self, prepare: Callable[[], None]) -> None:
        """Opens the file, which no other may write then, and calls `prepare`. If that fails, the file is released."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                f"CSVLogger: the folder of {str(self._path)!r} cannot be made, {error}. Give another path."
            ) from error
        if self._path.exists() and not self._path.is_file():
            raise FileExistsError(f"CSVLogger: {str(self._path)!r} is not a file. Give another path.")
        try:
            self._file = LineFile(self._path)
        except BlockingIOError:
            raise BlockingIOError(
                f"CSVLogger: {str(self._path)!r} is being written by another fit or logger, in this process or "
                "another. Give each a path of its own."
            ) from None
        try:
            prepare()
        except BaseException:
            self._end()
            raise
        self._waiting.start(time.perf_counter())

    def _begin(self, header: str, *, going_on: bool) -> None:
        """Prepares the file for rows: continues the log in it, or begins a new one."""
        assert self._file is not None
        if going_on and self._check(header, going_on=True):
            self._file.cut_torn_line()
            return
        self._check(header, going_on=False)
        self._file.empty()
        try:
            self._file.write(header.encode())
        except OSError as error:
            raise type(error)(
                f"CSVLogger: {str(self._path)!r} cannot be written, {error}. Give another path."
            ) from error

    def _go_on(self, header: str, state: Mapping[str, Any], *, same_place: bool) -> None:
        """Cuts the file to what it was at the checkpoint; or begins a new log, if the path is another one now.

        A log that had failed, and could not even be read at the checkpoint, has no mark: it goes on after its last row.
        """
        assert self._file is not None
        path, mark = str(self._path), state["mark"]
        known = mark is not None and self._file.begins_with((mark[0], mark[1]))
        if mark is not None and known:
            self._check(header, going_on=True)
            self._file.cut(mark[0])
        elif same_place and mark is not None:
            raise CheckpointError(
                f"CSVLogger: {path!r} does not begin with the {mark[0]} bytes that it had at the checkpoint: it has "
                f"{self._file.size}, or others. It was left untouched. Put the file of then back, or give another "
                "path, where a new log begins."
            )
        elif not same_place and self._file.size > len(header.encode()):
            raise FileExistsError(
                f"CSVLogger: the run was logged to {state['path']!r}, and at {path!r} there is another file already. "
                "It was left untouched. Give the path of before, or one where there is no file."
            )
        else:
            self._begin(header, going_on=same_place)
        if not (known or same_place):
            warn(
                f"CSVLogger: the run was logged to {state['path']!r}. A new log begins at {path!r}, without the rows "
                "of before."
            )
        elif state["failed"]:
            warn(
                f"CSVLogger: {path!r} could not be written before the checkpoint. It goes on now, but rows of before "
                f"are missing after its byte {self._file.size}."
            )

    def _check(self, header: str, *, going_on: bool) -> bool:
        """Whether the file holds a log already.

        Raises:
          FileExistsError: it holds something else, or a log of other columns, to which rows cannot be appended.
        """
        assert self._file is not None
        found = self._file.first_line()
        if not found.endswith(b"\n") and header.encode().startswith(found):  # empty, or a header that was cut off
            return False
        expected = header.encode() if going_on else b"epoch,batch,"
        if found != expected and not (not going_on and found.startswith(expected)):
            raise FileExistsError(
                f"CSVLogger: {str(self._path)!r} begins with {found[:80]!r}, which is not "
                f"{'the header of this run' if going_on else 'a log of this kind'}, {header.strip()!r}. "
                "It was left untouched; move it away or give another path."
            )
        return True

    def _lines(self, columns: Columns) -> bytes:
        split = columns.split
        taken = 1 if split.phase is Phase.TRAINING else 0
        cells: list[Any] = [columns["epoch"], columns["batch_index"] + 1]
        cells += [columns[split.stat(name)] for name in self._plan.metrics]
        cells += [split.name, columns["step"] + taken]
        cells += [columns[name] for name in self._recorded]
        return lines(cells, columns.count)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name
