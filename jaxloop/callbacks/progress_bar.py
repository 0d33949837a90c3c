"""The console: it follows a fit, and shows how that goes."""

import math
import time
from collections.abc import Mapping
from typing import Any, TextIO

from jaxloop.callback import on_host
from jaxloop.console.guarded import Guarded
from jaxloop.console.lines import EpochRow, Moment
from jaxloop.console.screen import Screen, screen_on
from jaxloop.console.times import Times
from jaxloop.events import Event, Phase, Plan
from jaxloop.measured import as_number, is_measured
from jaxloop.views import Columns, LoopView

_STARTS = {phase.start: phase for phase in Phase}
_ENDS = {phase.end: phase for phase in Phase}
_POSITION = ("epoch_index", "epoch_count", "batch_index", "batch_count")
_EVENTS = (Event.EPOCH_START, *_STARTS, Event.BATCH_END, *_ENDS, Event.EPOCH_END)


@on_host(*_EVENTS)
class ProgressBar:
    """Shows how a fit goes: a bar while it does, a row for each epoch, and what is being compiled.

    On a terminal and in a notebook the bar of a phase shows epoch, batches, loss and metrics, the learning rate,
    examples per second and the time left. It is painted anew at most ten times a second, and vanishes with the phase.
    What stays is a table: a row for each epoch, training and validation side by side, with `*` at the best so far, by
    the loss of validation or else of training. What has diverged is `nan`, which is never the best, and what was not
    measured `-`. Where there is little room, what matters least is left out.

    Elsewhere (a pipe, a log file) an epoch is one line of names and numbers, with `best` at its end; while it lasts
    longer than a minute, a line each minute says where it stands.

    `TrainingLoop(progress=True)` brings one; give your own for another stream. While a bar is on a terminal, what is
    printed to standard output comes to stand above it. A stream that fails, such as a pipe whose reader is gone or a
    full disk, is warned of once, and the fit goes on without; what it cannot encode is shown as `?`.

    Args:
      file: where it is written; standard output by default.

    Example:
      >>> callbacks = [jl.callbacks.ProgressBar(sys.stderr)]
      >>> training_loop = jl.TrainingLoop(..., callbacks=callbacks, progress=False)
    """

    __slots__ = ("__weakref__", "file")

    def __init__(self, file: TextIO | None = None):
        self.file = file

    def bind(self, plan: Plan) -> "_Progress":
        return _Progress(plan, Guarded(screen_on(self.file)))


@on_host(*_EVENTS)
class _Progress:
    """The display of one fit. What it shows is drawn from the loop, so it may come in anywhere."""

    rows_may_wait = True

    def __init__(self, plan: Plan, screen: Screen):
        self._plan = plan
        self._screen = screen
        self._times = Times()
        self._shown = -math.inf if screen.live else time.perf_counter()  # when there was something to see, last
        self._place: tuple[int, Phase] | None = None  # the epoch and the phase at hand, once seen
        self._batch_size = 0  # of this phase's rows, once there are some
        self._examples_per_second = math.nan  # of this epoch's training
        self._measured: dict[Phase, bool] = {}  # whether this epoch has measured it, as far as that was seen
        self._validates = False
        self._best: dict[str, float] = {}

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.EPOCH_START:
            self._measured = dict.fromkeys(Phase, False)
        elif event in _STARTS:
            self._start(loop, _STARTS[event])
        elif event in _ENDS:
            self._end(loop, _ENDS[event])
        elif event is Event.EPOCH_END:
            self._add_row(loop)

    def rows(self, columns: Columns) -> None:
        self._batch_size = columns.batch_size
        now = time.perf_counter()
        if now - self._shown >= self._screen.seconds:
            last = columns.last()
            row = {name: last[name][0] for name in last}
            index, count, batch_index, total = (int(row[name]) for name in _POSITION)
            self._show(columns.phase, (index, count, batch_index + 1, total), row, now)

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._times.leave_out(seconds)  # what took them is said by itself
        self._screen.write(text)

    def close(self) -> None:
        self._screen.close()

    def _start(self, loop: LoopView, phase: Phase) -> None:
        now = time.perf_counter()
        index, count, done, total = (int(getattr(loop, name)) for name in _POSITION)
        self._place = index, phase
        self._batch_size = 0
        self._times.begin(now, done)
        brief = self._times.expected(phase) < self._screen.seconds
        if self._screen.live and not (brief and now - self._shown < self._screen.seconds):
            self._show(phase, (index, count, done, total), {}, now)

    def _show(self, phase: Phase, position: tuple[int, int, int, int], stats: Mapping[str, Any], now: float) -> None:
        """Shows where a phase stands; `position` is epoch, their number, batches done, their number."""
        index, count, done, total = position
        if self._place != (index, phase):  # its start was not seen
            self._place = index, phase
            self._times.begin(now, done)
        in_epoch, in_fit = self._times.left(phase, now, done=done, total=total, epochs_to_come=count - index - 1)
        self._shown = now
        self._screen.show(
            Moment(
                phase=phase,
                epoch_index=index,
                epoch_count=count,
                done=done,
                total=total,
                measured=_measured({name: stats[phase.stat(name)] for name in self._plan.metrics} if stats else {}),
                learning_rate=float(stats.get("learning_rate", math.nan)),
                examples_per_second=self._pace(done, now),
                epoch_left=in_epoch,
                fit_left=in_fit,
            )
        )

    def _end(self, loop: LoopView, phase: Phase) -> None:
        now = time.perf_counter()
        self._measured[phase] = self._batch_size > 0 or _has(loop.stats, phase)
        if phase is Phase.TRAINING:
            self._examples_per_second = self._pace(int(loop.batch_index), now)
        self._times.end(phase, now)
        self._place = None
        self._batch_size = 0
        self._screen.hide()

    def _add_row(self, loop: LoopView) -> None:
        phases = [phase for phase in Phase if self._measured.get(phase, _has(loop.stats, phase))]
        names = [phase.stat(name) for phase in phases for name in self._plan.metrics]
        measured = _measured({name: loop.stats[name] for name in names})
        self._validates |= Phase.VALIDATION in phases
        row = EpochRow(
            epoch_index=int(loop.epoch_index),
            epoch_count=int(loop.epoch_count),
            seconds=self._times.end_epoch(),
            metrics=self._plan.metrics,
            measured=measured,
            validated=self._validates,
            best=self._is_best(measured),
            learning_rate=float(loop.stats.get("learning_rate", math.nan)),
            examples_per_second=self._examples_per_second,
        )
        self._measured, self._examples_per_second = {}, math.nan
        self._shown = time.perf_counter()
        self._screen.add(row)

    def _pace(self, done: int, now: float) -> float:
        """Examples per second in the phase at hand."""
        return self._batch_size / self._times.seconds_per_batch(now, done) if self._batch_size else math.nan

    def _is_best(self, measured: Mapping[str, float]) -> bool:
        """Whether the loss is the best so far: that of validation once there has been one, else of training."""
        name = Phase.VALIDATION.stat("loss") if self._validates else "loss"
        loss = measured.get(name, math.nan)
        if math.isfinite(loss) and loss < self._best.get(name, math.inf):
            self._best[name] = loss
            return True
        return False


def _has(stats: Mapping[str, Any], phase: Phase) -> bool:
    """Whether there are statistics of `phase`."""
    return bool(is_measured(stats[phase.stat("loss")]))


def _measured(stats: Mapping[str, Any]) -> dict[str, float]:
    """Those of `stats` that were measured, as Python numbers; what has diverged is among them."""
    return {name: as_number(value) for name, value in stats.items() if is_measured(value)}
