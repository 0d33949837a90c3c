"""What the loggers of experiment trackers share: an observer that makes points of a run, and has them sent."""

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

from jaxloop.callback import on_host
from jaxloop.callbacks.outbox import Outbox
from jaxloop.events import Event, Phase, Plan
from jaxloop.measured import as_number, is_measured
from jaxloop.speed import training_speed
from jaxloop.telling import warn
from jaxloop.views import Columns, LoopView

_ROWS_BY_DEFAULT = 1000  # of batches in a fit: more than a chart shows
_SECONDS_IF_PREEMPTED = 10.0
_SECONDS_BEFORE_THE_LAST_SAVE = 10.0
_SHARED_EVENTS = (
    *(Event.FIT_START, Event.EPOCH_START, Event.TRAINING_START, Event.BATCH_END),
    *(Event.TRAINING_END, Event.EPOCH_END, Event.FIT_END),
)


class Point(NamedTuple):
    """What a tracker is told of one moment.

    Attributes:
      kind: whether it is of a training batch or of an epoch.
      step: training batches taken over the loop's life.
      epoch: over the loop's life, counted from 1.
      time: when it came, in seconds since 1970.
      values: by name; a float may be NaN or infinite. What was not measured is not there.
    """

    kind: Literal["batch", "epoch"]
    step: int
    epoch: int
    time: float
    values: dict[str, float | int]


class Outage(Exception):
    """A tracker cannot be reached: training goes on without it."""


class Tracker(Protocol):
    """A tracker's library, as `Tracking` uses it.

    Attributes:
      may_lose: how many of the last points that it has taken it may lose if the process is killed.
    """

    may_lose: int

    def begin(self, known: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        """Begins a run.

        Args:
          known: of the fit, besides what the user has given as `config`.
          names: the names that points of each kind may have.

        Raises:
          Outage: it cannot be reached.
        """
        ...

    def go_on(self, kept: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        """Goes on in the run of which `kept` was given, from another process."""
        ...

    def send(self, points: Sequence[Point]) -> None:
        """Sends points, of which some may have been sent before: it leaves these out. It runs on a thread."""
        ...

    def kept(self) -> dict[str, Any]:
        """What `go_on` needs, as JSON."""
        ...

    def end(self, how: str) -> None:
        """Ends the run, on that thread; `how` as `ended` of `on_host` has it."""
        ...


@on_host(*_SHARED_EVENTS)
class Tracking:
    """The log of one fit in a tracker.

    Args:
      who: the logger, for messages.
      tracker: where points go.
      plan: of the fit.
      every: training batches from one point of a batch to the next; None for as many as make `_ROWS_BY_DEFAULT`.
      timeout: seconds that `close` waits at most.
    """

    rows_may_wait = True

    def __init__(self, who: str, tracker: Tracker, plan: Plan, *, every: int | None, timeout: float):
        self.__name__ = who
        self._who, self._tracker, self._plan, self._timeout = who, tracker, plan, timeout
        self._every = every or max(1, math.ceil(plan.total_steps / _ROWS_BY_DEFAULT))
        self._by_batch = plan.report == "batch"
        self._outbox: Outbox | None = None
        self._names: dict[str, list[str]] = {}
        self._recent: list[Point] = []  # those that the tracker has taken, and may lose
        self._kept: Mapping[str, Any] | None = None  # of a run that cannot be reached now, for a later process
        self._how = "failed"
        self._warned = False
        self._latest: Columns | None = None  # of the training in this epoch
        self._counted = 0
        self._compiling = 0.0
        self._began = self._training_began = 0.0
        self._speed: dict[str, float] = {}

    def __call__(self, loop: LoopView, event: Event) -> None:
        now = time.perf_counter()
        if event is Event.FIT_START:
            self._name(loop)
            self._open(lambda: self._tracker.begin(_known(self._plan), self._names))
        elif event is Event.EPOCH_START:
            self._began, self._speed = now, {}
        elif event is Event.TRAINING_START:
            self._training_began, self._compiling, self._counted = now, 0.0, 0
        elif event is Event.TRAINING_END:
            self._speed = training_speed(self._latest, self._counted, now - self._training_began - self._compiling)
        elif event is Event.EPOCH_END:
            self._put(self._of_epoch(loop, now))
        elif event is Event.FIT_END and self._outbox is not None:
            # Once a checkpoint says that the run is over, no later process goes on in it, and sends what still waits.
            self._outbox.send_now(min(self._timeout, _SECONDS_BEFORE_THE_LAST_SAVE))
        self._tell_failure()

    def rows(self, columns: Columns) -> None:
        if columns.phase is not Phase.TRAINING:
            return
        self._latest = columns
        self._counted += columns.count
        if self._by_batch and self._outbox is not None:
            steps, every = columns["step"], self._every
            if (int(steps[-1]) + 1) // every > int(steps[0]) // every:  # most dispatches of a long fit hold no such row
                self._put((columns.chosen((steps + 1) % every == 0), time.time()))

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self._compiling += seconds

    def state(self) -> dict[str, Any]:
        """What `resume` needs. It does not wait: points that are not known to be safe are a part of it."""
        now = time.perf_counter()
        return {
            "tracker": self._kept if self._outbox is None else self._tracker.kept(),
            "points": [_plain(point) for point in self._not_safe()],
            "counted": self._counted,
            "training_seconds": now - self._training_began - self._compiling,
            "epoch_seconds": now - self._began,
            "speed": self._speed,
            "latest": None if self._latest is None else self._latest.last().to_json(),
        }

    def resume(self, loop: LoopView, state: Mapping[str, Any]) -> None:
        """Goes on in the same run of the tracker, in place of FIT_START."""
        self._name(loop)
        kept = state["tracker"]
        if kept is None:  # it could not be reached then
            self._open(lambda: self._tracker.begin(_known(self._plan), self._names))
        else:
            self._open(lambda: self._tracker.go_on(kept, self._names))
        points = [_point(point) for point in state["points"]]
        if self._outbox is None:
            self._kept, self._recent = kept, points
        for point in points:
            self._put(point)
        now = time.perf_counter()
        self._began, self._training_began = now - state["epoch_seconds"], now - state["training_seconds"]
        self._counted, self._speed = state["counted"], dict(state["speed"])
        self._latest = None if state["latest"] is None else Columns.from_json(state["latest"])

    def ended(self, how: str) -> None:
        self._how = how

    def close(self) -> None:
        outbox, self._outbox = self._outbox, None
        if outbox is None:
            return
        seconds = min(self._timeout, _SECONDS_IF_PREEMPTED) if self._how == "preempted" else self._timeout
        if self._warned:
            outbox.take_failure()  # one of before, after which all may have gone well
        in_time = outbox.close(lambda: self._tracker.end(self._how), seconds)
        left, failure = len(self._points(outbox.waiting())), outbox.take_failure()
        if left or not in_time or failure is not None:
            why = "" if failure is None else f", {failure!r}"
            late = "" if in_time else f" in {seconds:g} s (see `timeout`)"
            warn(f"{self._who}: the run could not be ended{late}{why}. {left} points are not known to be sent.")

    def _open(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except Outage as outage:
            warn(f"{self._who}: {outage}. Training goes on, and this fit is not logged there.")
            return
        self._outbox = Outbox(self._who, self._send)
        self._outbox.start()

    def _send(self, entries: Sequence[Any]) -> None:
        points = self._points(entries)
        self._tracker.send(points)
        if self._tracker.may_lose:
            self._recent = [*self._recent, *points][-self._tracker.may_lose :]

    def _not_safe(self) -> list[Point]:
        """The points that may not be there after a kill. Those that are sent meanwhile can be in it twice."""
        waiting = self._points(self._outbox.waiting()) if self._outbox is not None else []
        return [*self._recent, *waiting]

    def _name(self, loop: LoopView) -> None:
        """Sets which names the points have: those of validation have none by batch."""
        others = sorted(set(loop.stats) - set(self._plan.statistics))
        self._names = {"batch": [*self._plan.metrics, *others], "epoch": [*self._plan.statistics, *others]}

    def _put(self, entry: Any) -> None:
        if self._outbox is not None:
            self._outbox.put(entry)

    def _of_epoch(self, loop: LoopView, now: float) -> Point:
        stats = {name: loop.stats[name] for name in self._names["epoch"] if is_measured(loop.stats[name])}
        values = {"seconds": now - self._began, **self._speed, **{name: as_number(it) for name, it in stats.items()}}
        return Point("epoch", int(loop.step), int(loop.epoch), time.time(), values)

    def _points(self, entries: Sequence[Any]) -> list[Point]:
        """The points of entries: rows of batches with their time, or a point."""
        return [
            point for entry in entries for point in ([entry] if isinstance(entry, Point) else self._of_rows(*entry))
        ]

    def _of_rows(self, columns: Columns, when: float) -> Iterator[Point]:
        found = {name: (columns[name].tolist(), is_measured(columns[name])) for name in self._names["batch"]}
        for row, (step, epoch) in enumerate(zip(columns["step"].tolist(), columns["epoch"].tolist(), strict=True)):
            values = {name: column[row] for name, (column, measured) in found.items() if measured[row]}
            yield Point("batch", step + 1, epoch, when, values)

    def _tell_failure(self) -> None:
        """Warns once of a round that has failed: on this thread, where a user's filters of warnings count."""
        if self._warned or self._outbox is None:
            return
        failure = self._outbox.take_failure()
        if failure is not None:
            self._warned = True
            warn(
                f"{self._who}: points could not be sent, {failure!r}. They are kept and tried again; training goes on.",
            )


def require(who: str, package: str, extra: str) -> None:
    """Refuses to go on without a package.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{who}: it needs {package}, which is not installed. Install jaxloop with its extra `{extra}`, as in "
            f"`pip install 'jaxloop[{extra}]'`."
        )


def plain_config(who: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A user's `config` as plain Python: mappings, lists, numbers, bools, strings and None.

    Raises:
      TypeError: a value is none of these.
    """

    def plain(path: str, value: Any) -> Any:
        value = value.item() if isinstance(value, (np.generic, jax.Array)) and value.ndim == 0 else value
        if isinstance(value, Mapping):
            return {str(name): plain(f"{path}/{name}", item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(f"{path}/{index}", item) for index, item in enumerate(value)]
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise TypeError(
            f"{who}: `config` must hold numbers, bools, strings, and lists or mappings of these, got {value!r} at "
            f"{path[1:]!r}. Write it as a string."
        )

    return plain("", dict(config or {}))


def _known(plan: Plan) -> dict[str, Any]:
    """What a run is told of the fit."""
    try:
        version = metadata.version("jaxloop")
    except metadata.PackageNotFoundError:  # a source tree that was not installed
        version = "unknown"
    return {
        "jaxloop": version,
        "jax": jax.__version__,
        "epochs": plan.epoch_count,
        "batches_per_epoch": plan.batch_count,
        "total_steps": plan.total_steps,
    }


def _plain(point: Point) -> list[Any]:
    """A point as JSON holds it, which has no NaN."""
    values = {name: value if isinstance(value, int) else float(value).hex() for name, value in point.values.items()}
    return [*point[:4], values]


def _point(plain: Sequence[Any]) -> Point:
    """The point of which `plain` is the `_plain`."""
    kind, step, epoch, when, values = plain
    exact = {name: float.fromhex(value) if isinstance(value, str) else value for name, value in values.items()}
    return Point(kind, step, epoch, when, exact)
