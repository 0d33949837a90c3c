"""A profile of some steps of a fit, for TensorBoard and Perfetto."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxloop.callback import on_host
from jaxloop.events import Event, Phase, Plan
from jaxloop.path_argument import path_argument
from jaxloop.views import Columns, LoopView

_EVENTS = (Event.FIT_START, Event.TRAINING_START, Event.BATCH_END, Event.TRAINING_END, Event.FIT_END)


@on_host(*_EVENTS)
class Profiler:
    """Traces host and device during a window of training steps, with `jax.profiler`.

    The window consists of whole dispatches: all that contain one of its steps. The trace begins before the first of
    them is sent and ends when the last is done. Whatever else happens in between, such as a validation, is in the
    trace. Nothing waits for the device.

    The profiler is an observer: it learns of a dispatch when that is done and the next one is already sent. Before the
    first two dispatches it does not know how long they are. So a window that begins in them is moved to after them, and
    keeps its length. Then no compiling is in the trace. A window from step 0 or 1 is not moved: its trace begins with
    the fit. If the fit ends inside of the window, the trace is shorter. If it ends before the window, there is no
    trace. Every fit is traced, each into its own folder below `directory`.

    A run that is resumed from a checkpoint goes on counting its steps. A trace that was running at the checkpoint has
    ended with its process, and is not continued. If its window still had steps, another trace of so many begins, once
    the profiler learns of a dispatch. A window that is over is not traced again.

    The trace marks the sending of each dispatch as a step, `training`, with the number of its first step. There is one
    mark too many if another callback makes the run take one step per dispatch, since the profiler then learns of each
    step at once.

    To view it, run `tensorboard --logdir run/profile`, with xprof installed; or open `perfetto_trace.json.gz`, in
    `run/profile/plugins/profile/<time>`, on ui.perfetto.dev.

    Args:
      directory: the folder of the traces. Folders are made.
      steps: (first, end): training steps of the fit, counted from 0, without `end`.
      python: whether to trace calls of Python functions too, which slows the host down.

    Raises:
      ValueError: `steps` is not a pair of whole numbers with the second larger than the first.
      OSError: at the start of a fit, the folder cannot be made.
      RuntimeError: when the window begins, another trace is running.

    Example:
      >>> callbacks = [jl.callbacks.Profiler(steps=(100, 110))]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    __slots__ = ("__weakref__", "directory", "python", "steps")  # so that setting a misspelled attribute is an error

    def __init__(self, directory: str | Path = "run/profile", steps: tuple[int, int] = (10, 20), python: bool = False):
        if not (_are_two_whole_numbers(steps) and 0 <= steps[0] < steps[1]):
            raise ValueError(
                "Profiler: `steps` must be (first, end), two whole numbers with 0 <= first < end, such as (10, 20), "
                f"got {steps!r}."
            )
        self.directory = path_argument("Profiler: `directory`", directory, "run/profile")
        self.steps = (int(steps[0]), int(steps[1]))
        self.python = python

    def bind(self, plan: Plan) -> "_Profile":
        return _Profile(self.directory, self.steps, self.python)

    def __repr__(self) -> str:
        return f"Profiler({str(self.directory)!r}, steps={self.steps})"


@on_host(*_EVENTS)
class _Profile:
    """The trace of one fit."""

    __name__ = "Profiler"  # what a user has written

    def __init__(self, directory: Path, steps: tuple[int, int], python: bool):
        self._directory = directory
        self._steps = steps
        self._first, self._end = steps
        self._python = python
        self._tracing = self._over = False
        self._mark: Any = None
        self._done = 0  # training steps of the fit that are known to be done
        self._left = 0  # steps of this phase that are not known to be done
        self._per_dispatch = 1

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.FIT_START:
            _make(self._directory)
        elif event is Event.TRAINING_START:
            self._left = int(loop.batch_count)
            self._consider(sent=0)
        elif event is Event.TRAINING_END:
            self._unmark()
        else:
            self.close()

    def rows(self, columns: Columns) -> None:
        if columns.phase is not Phase.TRAINING:
            return
        self._done += columns.count  # also after the window: a resumed run may have another one
        self._left -= columns.count
        self._per_dispatch = max(self._per_dispatch, columns.count)
        if self._over:
            return
        if self._tracing and self._done >= self._end:
            self.close()
        else:
            self._consider(sent=min(self._per_dispatch, self._left))

    def state(self) -> dict[str, Any]:
        """What `resume` needs."""
        return {
            "steps": list(self._steps),
            "window": [self._first, self._end],
            "done": self._done,
            "left": self._left,
            "per_dispatch": self._per_dispatch,
            "tracing": self._tracing,
            "over": self._over,
        }

    def resume(self, loop: LoopView, state: Mapping[str, Any]) -> None:
        """Goes on from where `state` was given; with another window, with that."""
        _make(self._directory)
        self._done, self._left, self._per_dispatch = state["done"], state["left"], state["per_dispatch"]
        same = state["steps"] == list(self._steps)
        if same:
            (self._first, self._end), self._over = state["window"], state["over"]
        if state["tracing"] or not same:  # of a window that has begun, the steps that are left
            self._first = max(self._first, self._done)
        self._over = self._over or self._done >= self._end

    def close(self) -> None:
        """Ends the trace, if there is one. In this fit no other begins."""
        self._over = True
        self._unmark()
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def _consider(self, *, sent: int) -> None:
        """Begins the trace if it must hold the next dispatch, or one that is sent before rows come again.

        Args:
          sent: the number of steps that are sent and not known to be done.
        """
        self._unmark()
        if self._over or self._left <= sent:  # no more dispatches in this phase
            return
        # Rows come one dispatch late: this is the last chance for a window that begins in the next two dispatches.
        if not self._tracing and self._first < self._done + 2 * self._per_dispatch:
            self._begin(self._done + sent)
        if self._tracing:
            self._mark = jax.profiler.StepTraceAnnotation("training", step_num=self._done + sent)
            self._mark.__enter__()

    def _begin(self, next_step: int) -> None:
        self._end += max(0, next_step - self._first)  # a window that is moved keeps its length
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = int(self._python)
        try:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True, profiler_options=options)
        except RuntimeError as error:
            self._over = True
            raise RuntimeError(
                f"Profiler: the trace cannot begin, {error} Stop the other one first, or leave one of the two out."
            ) from error
        self._tracing = True

    def _unmark(self) -> None:
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None


def _are_two_whole_numbers(steps: Any) -> bool:
    return (
        isinstance(steps, (tuple, list))
        and len(steps) == 2
        and all(isinstance(step, (int, np.integer)) and not isinstance(step, bool) for step in steps)
    )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"Profiler: the folder {str(directory)!r} cannot be made, {error}. Give another path."
        ) from error
