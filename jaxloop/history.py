"""`History`: what a fit measured, by column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxloop.events import VALIDATION
from jaxloop.measured import as_number, is_measured
from jaxloop.plots import draw_history, save
from jaxloop.shown import table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Stopped = Literal["completed", "cancelled", "preempted"]
_EPOCHS_SHOWN = 5


@dataclass(frozen=True)
class History:
    """What a fit measured.

    The history of a run that was resumed from a checkpoint holds the rows of the whole run, as if it had not stopped;
    the time between is not in its seconds.

    An integer that a callback records has an exact column of int32 or uint32. All other statistics are floats. A NaN
    means that the statistic has diverged. A place where nothing was measured holds a special value: one particular
    NaN, the least int32, or the largest uint32. `jaxloop.measured.is_measured(column)` is False there.

    Where several groups of the optimizer have a learning rate, `learning_rate/<group>` stands for each of them.

    Attributes:
      epochs: one row per epoch: `epoch` (over the loop's life, counted from 1), each metric, each
        `validation_<metric>`, `learning_rate`, what callbacks recorded, `seconds` of the epoch, and
        `examples_per_second` of its training, without the time of compiling. On a chip that `jaxloop.chips` knows also
        `mfu`, the share of its largest FLOP/s; where the device tells also `peak_memory_bytes`, the most that it has
        had in use. See `jaxloop.speed`.
      batches: one row per training batch that was reported: `epoch`, `batch` (counted from 1), `step`, each metric (a
        mean over the phase so far), `learning_rate`, and what callbacks recorded.
      stopped: `"completed"`; `"cancelled"`; or `"preempted"`, where SIGTERM came and the run was saved.
      ending: what ended the fit before its last epoch, and what it gave back of an earlier one, such as `"Stopped after
        epoch 7 of 20: early_stopping (validation_loss did not improve for 5 epochs); the best model, of epoch 2, was
        restored"`; "" if there is nothing to say.
      compile_seconds: tracing and compiling of each program that this fit was the first to use. Of a resumed run it
        holds those of the last process only, and so does `timing`.
      timing: where the seconds of the fit went; together they are the whole fit. `"setup"` (reading the first batches,
        tracing once), `"compile"`, `"data"` (waiting for batches), `"dispatch"`, `"device"` (waiting for the device),
        `"events"` (compiled callbacks between steps), `"save"` (checkpoints, on the thread that trains), and
        `"callback <name>"` for each host callback.
      validation_sets: the names of what was validated on.
      validated_at_start: whether the first row of `epochs` is that of a validation before the first epoch.

    Example:
      >>> loop, history = training_loop.fit(model, epochs=2)
      >>> history.stopped, history.epochs["epoch"].tolist(), len(history.batches["loss"])
      ('completed', [1, 2], 16)
    """

    epochs: Mapping[str, np.ndarray]
    batches: Mapping[str, np.ndarray]
    stopped: Stopped
    compile_seconds: Mapping[str, float] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    validation_sets: tuple[str, ...] = (VALIDATION.name,)
    ending: str = ""
    validated_at_start: bool = False

    def to_pandas(self, rows: Literal["epochs", "batches"] = "epochs") -> "pandas.DataFrame":
        """The epochs, or the batches, as a table of the same columns.

        Args:
          rows: `"epochs"` or `"batches"`: which of the two.

        Returns:
          A new DataFrame, numbered from 0. What was not measured is a missing value. An integer column with missing
          values has pandas' dtype `Int32` or `UInt32`, which allow them.

        Raises:
          ValueError: `rows` is neither.
          ModuleNotFoundError: pandas is not installed.

        Example:
          >>> History({"epoch": np.array([1, 2]), "loss": np.array([0.5, 0.25])}, {}, "completed").to_pandas()
             epoch  loss
          0      1  0.50
          1      2  0.25
        """
        if rows not in ("epochs", "batches"):
            raise ValueError(f"History.to_pandas: `rows` must be 'epochs' or 'batches', got {rows!r}.")
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "History.to_pandas: it needs pandas, which is not installed. Install jaxloop with its extra `data`, "
                "as in `pip install 'jaxloop[data]'`, or only pandas."
            ) from error

        def made(column: np.ndarray) -> Any:
            missing = ~is_measured(column)
            whole = column.dtype.kind in "iu" and missing.any()
            return pandas.arrays.IntegerArray(np.array(column), missing) if whole else np.array(column)

        return pandas.DataFrame({name: made(column) for name, column in getattr(self, rows).items()})

    def plot(self, path: str | Path | None = None, *, names: Sequence[str] | None = None) -> "Figure":
        """A figure with a panel for each metric over the epochs, and a lower panel for a learning rate that is known.

        Each panel shows training and validation. If each batch was reported, a lighter curve shows training batch by
        batch: batch b of n in epoch e is at e - 1 + b / n. A dotted line marks the best epoch, and each panel's title
        gives the values in it. The best epoch has the lowest validation loss, or the lowest loss without validation.

        Args:
          path: where to save the figure too, in the format of the file's ending, such as `.png`. Folders are made.
          names: the columns to draw, such as `["loss", "gradient_norm"]`: metrics, or what callbacks recorded. None
            draws every metric.

        Returns:
          A matplotlib figure that pyplot does not know, so that no window opens.

        Raises:
          ValueError: there is no epoch to draw, or no such column.
          ModuleNotFoundError: matplotlib is not installed.

        Example:
          >>> losses = {"loss": np.array([2.0, 1.0]), "validation_loss": np.array([2.0, 1.5])}
          >>> figure = History({"epoch": np.array([1, 2])} | losses, {}, "completed").plot()
          >>> [panel.get_title(loc="left") for panel in figure.axes]
          ['loss']
        """
        figure = draw_history(self.epochs, self.batches, names, self.validation_sets)
        if path is not None:
            save(figure, path)
        return figure

    @property
    def diverged(self) -> tuple[int, int | None] | None:
        """The epoch and the batch at which the loss was not finite for the first time, counted from 1; None if never.

        The batch is None where batches were not reported. A later epoch may be finite again; this stays.

        Example:
          >>> History({"epoch": np.array([1, 2]), "loss": np.array([0.5, np.nan])}, {}, "completed").diverged
          (2, None)
        """
        for rows in (self.batches, self.epochs):
            losses = np.asarray(rows.get("loss", ()))
            wild = ~np.isfinite(losses) & is_measured(losses) if losses.size else losses
            if np.any(wild):
                first = int(np.argmax(wild))
                return int(rows["epoch"][first]), int(rows["batch"][first]) if "batch" in rows else None
        return None

    @property
    def _begun(self) -> int:
        """How many epochs with training have begun."""
        return max(0, len(self.epochs.get("epoch", ())) - self.validated_at_start)

    def _repr_html_(self) -> str:
        names = [name for name, column in self.epochs.items() if is_measured(column).any()]
        count = len(self.epochs.get("epoch", ()))
        rows = [
            [_said(self.epochs[name][index]) if is_measured(self.epochs[name][index]) else "-" for name in names]
            for index in range(max(0, count - _EPOCHS_SHOWN), count)
        ]
        title = f"History({self.stopped} after {self._begun} epochs)"
        return table(title, rows, header=names, notes=[self.ending] if self.ending else [])

    def __repr__(self) -> str:
        count = len(self.epochs.get("epoch", ()))
        last = {name: column[-1] for name, column in self.epochs.items() if name != "epoch"} if count else {}
        shown = ", ".join(f"{name} {_said(value)}" for name, value in last.items() if is_measured(value))
        epoch, batch = self.diverged or (0, None)
        wild = f"; loss not finite from epoch {epoch}{f', batch {batch},' if batch else ''} on" if epoch else ""
        return f"History({self.stopped} after {self._begun} epochs{wild}{'; last: ' + shown if shown else ''})"


def _said(statistic: Any) -> str:
    number = as_number(statistic)
    return str(number) if isinstance(number, int) else f"{number:.4g}"
