"""The console: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from jaxloop.callback import on_host
from jaxloop.events import Event, Phase, Plan
from jaxloop.views import Columns, LoopView

_REPAINT_SECONDS = 0.1
_FORMAT = "{desc} {n_fmt}/{total_fmt}{postfix} |{bar}| {rate_noinv_fmt}, {remaining} left"
_STARTS = {Event.TRAINING_START: Phase.TRAINING, Event.VALIDATION_START: Phase.VALIDATION}
_EVENTS = (*_STARTS, Event.TRAINING_END, Event.VALIDATION_END, Event.BATCH_END)


@on_host(*_EVENTS)
class ProgressBar:
    """Shows how a fit goes: epoch, batch, loss and metrics, and what is being compiled.

    On a terminal a bar for each phase, painted anew at most ten times a second; elsewhere (a pipe, a log file) one
    line for each phase when it is over. `TrainingLoop(progress=True)` brings one; give your own for another stream.

    Args:
      file: where it is written; standard output by default.
    """

    def __init__(self, file: TextIO | None = None):
        self.file = file

    def bind(self, plan: Plan) -> "_Progress":
        return _Progress(plan, self.file or sys.stdout)


@on_host(*_EVENTS)
class _Progress:
    """The display of one fit. What it shows is drawn from the loop, so a fit may begin anywhere."""

    def __init__(self, plan: Plan, file: TextIO):
        self._plan = plan
        self._file = file
        self._bar: Any = None
        self._terminal = file.isatty()
        self._began = self._painted = time.perf_counter()
        self._unpainted = 0

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event in _STARTS:
            self._start(loop, _STARTS[event])
        elif self._bar is not None:
            self._paint(loop.stats, loop.phase, self._unpainted)
            self._close_bar()
        else:
            self._print_line(loop)

    def rows(self, columns: Columns) -> None:
        self._unpainted += columns.count
        if self._bar is not None and time.perf_counter() - self._painted >= _REPAINT_SECONDS:
            last = columns.last()
            self._paint({name: last[name][0] for name in last}, columns.phase, self._unpainted)

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._began += seconds  # compiling is said by itself, and left out of the phase's time
        if self._bar is None:
            print(text, file=self._file, flush=True)
        else:
            self._bar.write(text, file=self._file)

    def close(self) -> None:
        self._close_bar()

    def _start(self, loop: LoopView, phase: Phase) -> None:
        self._began = time.perf_counter()
        self._unpainted = 0
        if self._terminal:
            title = self._title(loop) if phase is Phase.TRAINING else "validation".rjust(len(self._title(loop)))
            self._bar = tqdm(
                total=int(loop.batch_count),
                desc=title,
                file=self._file,
                dynamic_ncols=True,
                bar_format=_FORMAT,
                unit=" batches",
            )

    def _paint(self, stats: Any, phase: Phase, count: int) -> None:
        self._painted, self._unpainted = time.perf_counter(), 0
        self._bar.set_postfix_str(self._measured(stats, phase), refresh=False)
        self._bar.n += count
        self._bar.refresh()

    def _print_line(self, loop: LoopView) -> None:
        seconds = time.perf_counter() - self._began
        width = 2 * len(str(self._plan.batch_count)) + 1
        done = f"{int(loop.batch_index)}/{int(loop.batch_count)}".rjust(width)
        measured = self._measured(loop.stats, loop.phase)
        print(
            f"{self._title(loop)} {loop.phase.value:10} {done} batches in {seconds:.1f} s - {measured}",
            file=self._file,
            flush=True,
        )

    def _title(self, loop: LoopView) -> str:
        count = self._plan.epoch_count
        return f"Epoch {int(loop.epoch_index) + 1:{len(str(count))}}/{count}"

    def _measured(self, stats: Any, phase: Phase) -> str:
        return ", ".join(f"{name} {float(stats[phase.stat(name)]):.4f}" for name in self._plan.metrics)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
