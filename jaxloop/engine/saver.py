"""When one checkpoint is due, and its writer, if this process writes."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import jax

from jaxloop.callbacks.checkpoint import Checkpoint
from jaxloop.checkpoint.leaves import Flat
from jaxloop.checkpoint.retention import best
from jaxloop.checkpoint.writer import Writer
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.session import Session
from jaxloop.loop import Loop
from jaxloop.measured import as_number, is_measured


class Saver:
    """When one checkpoint is due, and its writer, if this process writes."""

    def __init__(self, checkpoint: Checkpoint, session: Session, agreement: Agreement):
        origin = None if session.place is None else session.place.origin
        here = origin if origin is not None and origin.directory == checkpoint.directory.resolve() else None
        self._writer: Writer | None = None
        if session.placement.writes:
            self._writer = Writer(
                checkpoint.directory,
                keep=checkpoint.keep,
                best=checkpoint.best,
                journals=None if here is None else here.journals,
                going_on_from=None if here is None else here.ordinal,
            )
        self.journaled = {} if here is None else {name: size for name, (size, _) in here.journals.items()}
        every = checkpoint.every
        self._every_epoch = every == "epoch"
        self._steps = every if isinstance(every, int) else 0
        self._seconds = every.total_seconds() if isinstance(every, timedelta) else 0.0
        self._name, self._better = checkpoint.best or ("", None)
        best_value = None if self._writer is None else self._writer.best_value
        self._best: float | None = json.loads(agreement.texts(json.dumps(best_value))[0])
        self.saved(int(session.loop.step) - int(session.loop.first_step) if session.place is not None else 0)

    @property
    def writes(self) -> bool:
        """Whether this process writes it."""
        return self._writer is not None

    @property
    def by_clock(self) -> bool:
        """Whether it is due after so much time."""
        return self._seconds > 0

    @property
    def has_failed(self) -> bool:
        """Whether a save in the background has failed that was not told of."""
        return self._writer is not None and self._writer.failed is not None

    def expect(self, arrays: Sequence[jax.Array]) -> None:
        """See `Writer.expect`."""
        if self._writer is not None and all(array.is_fully_addressable for array in arrays):
            self._writer.expect(arrays)

    def write(self, flat: Flat, about: dict[str, Any], *, value: float | None, appended: Mapping[str, bytes]) -> None:
        """Begins a save; see `Writer.write`."""
        assert self._writer is not None
        self._writer.write(flat, about, value=value, appended=appended, wait=False)
        for name, content in appended.items():
            self.journaled[name] = self.journaled.get(name, 0) + len(content)

    def check(self) -> None:
        """See `Writer.check`."""
        if self._writer is not None:
            self._writer.check()

    def close(self) -> None:
        """See `Writer.close`."""
        if self._writer is not None:
            self._writer.close()

    def saved(self, steps: int) -> None:
        """Counts from here on: `steps` of the fit are saved."""
        self._next_step = (steps // self._steps + 1) * self._steps if self._steps else 0
        self._next_time = time.monotonic() + self._seconds

    def is_due(self, steps: int) -> bool:
        """Whether it is due after `steps` training steps of the fit; 0 if it is not in training."""
        return bool(self._steps) and steps >= self._next_step

    def is_due_by_clock(self) -> bool:
        """Whether so much time has passed since the last one."""
        return self._seconds > 0 and time.monotonic() >= self._next_time

    def is_due_after_epoch(self, value: float | None) -> bool:
        """Whether it is due between two epochs, of which the last had this value of the statistic that decides."""
        improved = best({0: self._best, 1: value}, self._better) == 1
        if improved:
            self._best = value
        return improved or self._every_epoch

    def value(self, loop: Loop) -> float | None:
        """The statistic that decides what is best; None if it is not measured."""
        statistic = loop.stats.get(self._name)
        return None if statistic is None or not is_measured(statistic) else float(as_number(statistic))
