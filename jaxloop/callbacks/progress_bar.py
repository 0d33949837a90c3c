"""The console: it shows the progress of a fit."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

from jaxloop.callback import on_host
from jaxloop.console.diverged import diverged_in
from jaxloop.console.guarded import Guarded
from jaxloop.console.lines import EpochRow, Moment, moment_line, timing_line
from jaxloop.console.screen import Screen, screen_on
from jaxloop.console.times import Times
from jaxloop.events import TRAINING, Event, Phase, Plan, Split
from jaxloop.hyperparameters import RATE, is_rate
from jaxloop.measured import as_number, is_measured
from jaxloop.views import Columns, LoopView

#: How much is shown: nothing, or a line for each epoch, or also the bar and what was compiled, or also each phase.
Detail = bool | Literal["quiet", "verbose"]

_STARTS = tuple(phase.start for phase in Phase)
_ENDS = tuple(phase.end for phase in Phase)
_POSITION = ("epoch_index", "epoch_count", "batch_index", "batch_count")
_EVENTS = (Event.EPOCH_START, *_STARTS, Event.BATCH_END, *_ENDS, Event.EPOCH_END)


@on_host(*_EVENTS)
class ProgressBar:
    """Shows the progress of a fit: a bar for the current phase, a row for each epoch, and what is being compiled.

    On a terminal and in a notebook the bar of a phase shows epoch, batches, loss and metrics, the learning rate,
    examples per second and the time left. It is drawn at most ten times a second, and removed at the end of the phase.
    A table stays: one row for each epoch, with training and validation side by side, and `*` at the best epoch so far.
    The best epoch has the lowest validation loss, or the lowest loss without validation. A statistic that has diverged
    is `nan`, and never the best. The first loss that is not finite is told at once, with epoch and batch. One that was
    not measured is `-`. If the terminal is narrow, the least important columns are left out.

    Elsewhere (a pipe, a log file) each epoch is one line of names and numbers, with `best` at its end. During an epoch
    that takes longer than a minute, a line each minute says how far it is.

    While a program is compiled, the bar says so. Elsewhere a line does, if it takes longer than ten seconds.

    `TrainingLoop(progress=True)` adds one itself, unless a callback is one. Give your own for another stream. While
    there is a bar on a terminal, text that is printed to standard output, and warnings, appear above it. If the stream
    fails, for example a full disk or a pipe without a reader, one warning says so, and the fit goes on without the
    console. A character that the stream cannot encode appears as `?`.

    A run that is resumed from a checkpoint goes on with the best epoch and the times of before. On a terminal and in a
    notebook the header of the table is written again.

    Args:
      file: the stream to write to; standard output by default.
      detail: `"quiet"` shows only the lines of the epochs, of what ended the fit, and of what is unusual. `"verbose"`
        also shows a line for each phase, and at the end where the time went.

    Raises:
      ValueError: `detail` is none of the three.

    Example:
      >>> callbacks = [jl.callbacks.ProgressBar(sys.stderr)]
      >>> training_loop = jl.TrainingLoop(
      ...     epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks, progress=False
      ... )
    """

    __slots__ = ("__weakref__", "detail", "file")  # so that setting a misspelled attribute is an error

    def __init__(self, file: TextIO | None = None, *, detail: Literal["quiet", "normal", "verbose"] = "normal"):
        if detail not in ("quiet", "normal", "verbose"):
            raise ValueError(f"ProgressBar: `detail` must be 'quiet', 'normal' or 'verbose', got {detail!r}.")
        self.file = file
        self.detail: Literal["quiet", "normal", "verbose"] = detail

    @classmethod
    def of(cls, progress: Detail, given: Sequence[Any] = ()) -> "list[ProgressBar]":
        """The console that `TrainingLoop(progress=)` means: one; none where a callback is one already."""
        if progress is False or any(isinstance(each, cls) and each.file in (None, sys.stdout) for each in given):
            return []
        return [cls(detail="normal" if progress is True else progress)]

    def bind(self, plan: Plan) -> "_Progress":
        return _Progress(plan, Guarded(screen_on(self.file)), detail=self.detail)


def checked_progress(where: str, progress: Any) -> Detail:
    """How much the console shows.

    Raises:
      ValueError: it is not one of its choices.
    """
    if progress is True or progress is False or (isinstance(progress, str) and progress in ("quiet", "verbose")):
        return progress
    raise ValueError(
        f"{where}: `progress` must be True, False, 'quiet' (only a line for each epoch, and for what ended the fit) or "
        f"'verbose' (also a line for each phase, and where the time went), got {progress!r}."
    )


@on_host(*_EVENTS)
class _Progress:
    """The display of one fit. It takes everything from the loop, so it may begin in the middle of a fit."""

    rows_may_wait = True

    def __init__(self, plan: Plan, screen: Screen, *, detail: str = "normal"):
        self.quiet = detail == "quiet"  # so that it is told of nothing that is routine
        self._verbose = detail == "verbose"
        self._plan = plan
        self._screen = screen
        self._times = Times(plan.splits)
        self._shown = -math.inf if screen.live else time.perf_counter()  # the last time at which something was shown
        self._place: tuple[int, Split] | None = None  # the current epoch and phase, once seen
        self._batch_size = 0  # of the rows of this phase; 0 before the first
        self._examples_per_second = math.nan  # of the training of this epoch
        self._measured: dict[Split, bool] = {}  # whether this epoch has measured the phase, for phases that were seen
        self._validates: list[Split] = []  # the sets on which an epoch was validated
        self._best: dict[str, float] = {}
        self._diverged: set[Split] = set()  # those whose loss was not finite, which is told once

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.EPOCH_START:
            self._measured = dict.fromkeys(self._plan.splits, False)
        elif event in _STARTS:
            self._start(loop)
        elif event in _ENDS:
            self._end(loop)
        elif event is Event.EPOCH_END:
            self._add_row(loop)

    def rows(self, columns: Columns) -> None:
        self._batch_size = columns.batch_size
        diverged = diverged_in(columns)
        if diverged is not None and columns.split not in self._diverged:
            self._diverged.add(columns.split)
            self._screen.write(str(diverged))
        now = time.perf_counter()
        if now - self._shown >= self._screen.seconds and not self.quiet:
            last = columns.last()
            row = {name: last[name][0] for name in last}
            index, count, batch_index, total = (int(row[name]) for name in _POSITION)
            self._show(columns.split, (index, count, batch_index + 1, total), row, now)

    def compiling(self, text: str) -> None:
        if not self.quiet:
            self._screen.wait_for(text)

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._times.leave_out(seconds)  # compiling has its own line, and must not slow the pace of the batches
        self._screen.wait_for(None)
        if text:
            self._screen.write(text)

    def timed(self, seconds: Mapping[str, float]) -> None:
        if self._verbose:
            self._screen.write(timing_line(seconds))

    def state(self) -> dict[str, Any]:
        """What `resume` needs: what the coming rows depend on. Nothing that was shown is in it."""
        rate = self._examples_per_second
        return {
            "times": self._times.state(time.perf_counter()),
            "place": None if self._place is None else [self._place[0], self._place[1].name],
            "batch_size": self._batch_size,
            "examples_per_second": None if math.isnan(rate) else rate,
            "measured": {split.name: measured for split, measured in self._measured.items()},
            "validates": [split.name for split in self._validates],
            "best": dict(self._best),
        }

    def resume(self, loop: LoopView, state: Mapping[str, Any]) -> None:
        """Goes on from where `state` was given."""
        self._times.resume(state["times"], time.perf_counter())
        self._place = None if state["place"] is None else (state["place"][0], Split.named(state["place"][1]))
        self._batch_size = state["batch_size"]
        rate = state["examples_per_second"]
        self._examples_per_second = math.nan if rate is None else rate
        self._measured = {Split.named(name): measured for name, measured in state["measured"].items()}
        self._validates, self._best = list(map(Split.named, state["validates"])), dict(state["best"])

    def close(self) -> None:
        self._screen.close()

    def _start(self, loop: LoopView) -> None:
        now, split = time.perf_counter(), loop.split
        assert split is not None
        index, count, done, total = (int(getattr(loop, name)) for name in _POSITION)
        self._place = index, split
        self._batch_size = 0
        self._times.begin(now, done)
        brief = self._times.expected(split) < self._screen.seconds
        # A phase that should be over before the next drawing gets no bar at its start.
        if self._screen.live and not self.quiet and not (brief and now - self._shown < self._screen.seconds):
            self._show(split, (index, count, done, total), {}, now)

    def _show(self, split: Split, position: tuple[int, int, int, int], stats: Mapping[str, Any], now: float) -> None:
        """Shows how far a phase is; `position` is the epoch, the number of epochs, batches done, number of batches."""
        index, count, done, total = position
        if self._place != (index, split):  # the start of the phase was not seen
            self._place = index, split
            self._times.begin(now, done)
        in_epoch, in_fit = self._times.left(split, now, done=done, total=total, epochs_to_come=count - index - 1)
        self._shown = now
        self._screen.show(
            Moment(
                split=split,
                epoch_index=index,
                epoch_count=count,
                done=done,
                total=total,
                measured=_measured({name: stats[split.stat(name)] for name in self._plan.metrics} if stats else {}),
                **_rates(stats),
                examples_per_second=self._pace(done, now),
                epoch_left=in_epoch,
                fit_left=in_fit,
            )
        )

    def _end(self, loop: LoopView) -> None:
        now, split = time.perf_counter(), loop.split
        assert split is not None
        self._measured[split] = self._batch_size > 0 or _has(loop.stats, split)
        pace = self._pace(int(loop.batch_index), now)
        if split == TRAINING:
            self._examples_per_second = pace
        self._times.end(split, now)
        self._place = None
        self._batch_size = 0
        self._screen.hide()
        if self._verbose:
            self._screen.write(moment_line(self._moment(split, loop, pace)))

    def _moment(self, split: Split, loop: LoopView, pace: float) -> Moment:
        """What a phase has come to."""
        index, count, done, total = (int(getattr(loop, name)) for name in _POSITION)
        stats = {name: loop.stats[split.stat(name)] for name in self._plan.metrics if split.stat(name) in loop.stats}
        return Moment(
            split=split,
            epoch_index=index,
            epoch_count=count,
            done=done,
            total=total,
            measured=_measured(stats),
            **_rates(loop.stats),
            examples_per_second=pace,
        )

    def _add_row(self, loop: LoopView) -> None:
        known, splits = self._measured, self._plan.splits
        seen = [split for split in splits if (known[split] if split in known else _has(loop.stats, split))]
        names = [split.stat(name) for split in seen for name in self._plan.metrics]
        measured = _measured({name: loop.stats[name] for name in names})
        self._validates = [split for split in splits[1:] if split in seen or split in self._validates]
        row = EpochRow(
            epoch_index=int(loop.epoch_index),
            epoch_count=int(loop.epoch_count),
            seconds=self._times.end_epoch(),
            metrics=self._plan.metrics,
            measured=measured,
            validated=tuple(self._validates),
            best=self._is_best(measured),
            **_rates(loop.stats),
            examples_per_second=self._examples_per_second,
        )
        self._measured, self._examples_per_second = {}, math.nan
        self._shown = time.perf_counter()
        self._screen.add(row)

    def _pace(self, done: int, now: float) -> float:
        """Examples per second in the current phase."""
        return self._batch_size / self._times.seconds_per_batch(now, done) if self._batch_size else math.nan

    def _is_best(self, measured: Mapping[str, float]) -> bool:
        """Whether the loss is the best so far: over the first set of validation if there was any, else of training."""
        name = self._validates[0].stat("loss") if self._validates else "loss"
        loss = measured.get(name, math.nan)
        if math.isfinite(loss) and loss < self._best.get(name, math.inf):
            self._best[name] = loss
            return True
        return False


def _rates(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rates, as `Moment` and `EpochRow` take them."""
    groups = {name: float(stats[name]) for name in sorted(stats) if is_rate(name) and name != RATE}
    return {
        "learning_rate": float(stats.get(RATE, math.nan)),
        "group_rates": {name.removeprefix(f"{RATE}/"): rate for name, rate in groups.items()},
    }


def _has(stats: Mapping[str, Any], split: Split) -> bool:
    """Whether the statistics of a split are measured."""
    name = split.stat("loss")
    return name in stats and bool(is_measured(stats[name]))


def _measured(stats: Mapping[str, Any]) -> dict[str, float]:
    """The measured ones of `stats` as Python numbers; a NaN that has diverged is among them."""
    return {name: as_number(value) for name, value in stats.items() if is_measured(value)}
