"""The observer that collects what a fit measures, for its `History`."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxloop.callback import on_host
from jaxloop.errors import CorruptCheckpointError
from jaxloop.events import Event, Phase, Plan
from jaxloop.history import History, Stopped
from jaxloop.measured import UNMEASURED, as_number, with_nan
from jaxloop.speed import training_speed
from jaxloop.views import Columns, LoopView

_JOURNALS = ("batches", "epochs")


@on_host(Event.BATCH_END, Event.EPOCH_START, Event.TRAINING_START, Event.TRAINING_END, Event.EPOCH_END)
class Recorder:
    """Collects the rows of one fit; `history(...)` gives them.

    A checkpoint must not hold all rows again. So `state` gives only what is small, and `written` gives what has come
    to two journals, which are files that only grow: `"batches"`, the bits of the rows, and `"epochs"`, a line of JSON
    for each epoch, with every value in its dtype and by its bits.
    """

    rows_may_wait = True

    def __init__(self, plan: Plan, compile_seconds: Mapping[str, float]):
        self._plan = plan
        self._compile_seconds = compile_seconds
        self._bits = bytearray()  # the reported rows; see `Columns.bits`
        self._epochs: list[dict[str, Any]] = []
        self._lines = bytearray()  # of the journal of epochs
        self._began = self._training_began = 0.0
        self._compiling = 0.0
        self._by_batch = plan.report == "batch"
        self._counted = 0  # training rows in this epoch so far
        self._speed: dict[str, float] = {}  # of the training in this epoch, once it is over
        self._last: Columns | None = None  # the latest training rows
        self._before: Columns | None = None  # the last row before a resume: later ones have its order of columns

    def rows(self, columns: Columns) -> None:
        if columns.phase is Phase.TRAINING:
            if self._before is not None:
                columns = columns.placed_as(self._before)
            self._counted += columns.count
            self._last = columns
            if self._by_batch:
                self._bits += columns.bits()

    def __call__(self, loop: LoopView, event: Event) -> None:
        now = time.perf_counter()
        if event is Event.EPOCH_START:
            self._began, self._speed = now, {}
        elif event is Event.TRAINING_START:
            self._training_began, self._counted = now, 0
            self._compiling = sum(self._compile_seconds.values())
        elif event is Event.TRAINING_END:
            speed = training_speed(self._last, self._counted, self._training_seconds(now))
            self._speed = {"examples_per_second": 0.0} | speed
            if not self._by_batch and self._counted and self._last is not None:
                self._bits += self._last.last().bits()
        elif event is Event.EPOCH_END:
            row = {name: _kept(loop.stats[name]) for name in _in_order(self._plan, loop.stats)}
            clocks = {"seconds": now - self._began, "examples_per_second": float(UNMEASURED), **self._speed}
            row = {"epoch": int(loop.epoch), **row, **clocks, **row}  # what a callback has recorded as `mfu` stays
            self._epochs.append(row)
            self._lines += _line(row)

    def state(self) -> dict[str, Any]:
        """What `resume` needs besides the journals, with the lengths that these have now."""
        now = time.perf_counter()
        return {
            "counted": self._counted,
            "speed": {name: _exact(value) for name, value in self._speed.items()},
            "epoch_seconds": now - self._began,
            "training_seconds": self._training_seconds(now),
            "last": None if self._last is None else self._last.last().to_json(),
            "journals": {name: len(journal) for name, journal in self._journals().items()},
        }

    def written(self, since: Mapping[str, int]) -> dict[str, bytes]:
        """What each journal holds after its first `since[name]` bytes; only these are copied."""
        return {name: bytes(journal[since.get(name, 0) :]) for name, journal in self._journals().items()}

    def resume(self, loop: Any, state: Mapping[str, Any], journals: Mapping[str, bytes]) -> None:
        """Goes on from where `state` was given.

        Args:
          loop: at the checkpoint.
          state: as `state` gave it.
          journals: all that `written` gave until then, by name. What came later is left out.

        Raises:
          CorruptCheckpointError: a journal is shorter than it was.
        """
        for name, size in state["journals"].items():
            if len(journals[name]) < size:
                raise CorruptCheckpointError(
                    f"History: the journal of {name} must hold the {size} bytes that it had at the checkpoint, and has "
                    f"{len(journals[name])}. Put the file of then back, or resume from an earlier checkpoint."
                )
        batches, epochs = (journals[name][: state["journals"][name]] for name in _JOURNALS)
        self._bits, self._lines = bytearray(batches), bytearray(epochs)
        self._epochs = [_row(line) for line in epochs.splitlines()]
        self._last = self._before = None if state["last"] is None else Columns.from_json(state["last"])
        speed = state["speed"] if "speed" in state else {"examples_per_second": state["rate"]}  # older checkpoints
        self._counted, self._speed = state["counted"], {name: float(_number(kept)) for name, kept in speed.items()}
        now = time.perf_counter()
        self._began, self._training_began = now - state["epoch_seconds"], now - state["training_seconds"]
        self._compiling = sum(self._compile_seconds.values())

    def history(self, stopped: Stopped) -> History:
        """What was collected."""
        names = dict.fromkeys(name for row in self._epochs for name in row)  # another device may tell more, or less
        epochs = {name: np.array([row.get(name, float(UNMEASURED)) for row in self._epochs]) for name in names}
        compiling = dict(self._compile_seconds)
        sets = self._plan.validation_sets
        return History(epochs, self._batches(), stopped, compiling, validation_sets=sets)

    def _journals(self) -> dict[str, bytearray]:
        return dict(zip(_JOURNALS, (self._bits, self._lines), strict=True))

    def _training_seconds(self, now: float) -> float:
        """The seconds since this training began, without those of compiling."""
        return now - self._training_began - (sum(self._compile_seconds.values()) - self._compiling)

    def _batches(self) -> dict[str, np.ndarray]:
        if self._last is None:
            return {}
        rows = self._last.with_bits(self._bits)
        evaluated = set(self._plan.statistics) - set(self._plan.metrics)
        names = [name for name in _in_order(self._plan, rows.stats) if name not in evaluated]
        position = {"epoch": rows["epoch"], "batch": rows["batch_index"] + 1, "step": rows["step"] + 1}
        return position | with_nan({name: rows[name] for name in names})


def _kept(statistic: Any) -> Any:
    """A statistic of an epoch: an integer in its own dtype, anything else as a Python float."""
    number = np.asarray(statistic)
    return number[()] if number.dtype.kind in "iu" else as_number(number)


def _line(row: Mapping[str, Any]) -> bytes:
    """The line of an epoch in its journal."""
    return json.dumps({name: _exact(value) for name, value in row.items()}).encode() + b"\n"


def _row(line: bytes) -> dict[str, Any]:
    """The row of which `line` is the `_line`."""
    return {name: _number(exact) for name, exact in json.loads(line).items()}


def _exact(value: Any) -> list[str]:
    """A number as its dtype and its bits: JSON has no NaN, and no integer types."""
    number = np.asarray(value)
    return [number.dtype.str, number.tobytes().hex()]


def _number(exact: Sequence[str]) -> np.generic:
    """The number of which `exact` is the `_exact`."""
    return np.frombuffer(bytes.fromhex(exact[1]), np.dtype(exact[0]))[0]


def _in_order(plan: Plan, stats: Any) -> list[str]:
    """The names of the statistics: the metrics in their order, then those of validation, then the others."""
    metrics = [name for name in plan.statistics if name in stats]
    return [*metrics, *sorted(set(stats) - set(metrics))]
