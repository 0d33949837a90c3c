"""Saving: the moments at which a run is saved, and what a checkpoint of it holds besides the loop."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxloop.asking import Ask
from jaxloop.callbacks.checkpoint import Checkpoint
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.plain import plain
from jaxloop.engine.boundary import Boundary
from jaxloop.engine.host import Host
from jaxloop.engine.place import Place
from jaxloop.engine.saver import Saver
from jaxloop.engine.session import Progress, Session
from jaxloop.events import TRAINING, Event, Split
from jaxloop.loop import Loop
from jaxloop.programs.fit_trace import Moment
from jaxloop.recorder import Recorder
from jaxloop.wire import WireLayout


class Saves:
    """The checkpoints of one fit: each decides when it is due, and all hold the same.

    On several processes all take part, since arrays may be divided between them, and the first one writes.

    Args:
      session: of the fit.
      progress: of the fit.
      host: whose states are saved.
      recorder: of the history.
      checkpoints: what the user wants; at least one.

    Raises:
      CheckpointError: a folder has another writer, or holds the checkpoints of another run.
      ValueError: there is no statistic of the name that decides what is best.
    """

    def __init__(
        self,
        session: Session,
        progress: Progress,
        host: Host,
        recorder: Recorder,
        checkpoints: Sequence[Checkpoint],
    ):
        self._session = session
        self._agreement = progress.agreement
        self._host = host
        self._recorder = recorder
        self._run = session.identity()
        moments = session.trace.moments.values()
        self._traced = {name for loop in moments for name in loop.callback_state}  # others come of host callbacks
        self._fused: dict[Split, int] = dict(session.place.fused) if session.place is not None else {}
        self._names: Sequence[str] = ()
        self._done = 0  # training steps of the fit before the phase at hand
        self._split = TRAINING
        self._savers: list[Saver] = []
        try:
            with self._agreement.together():  # only one process opens the folders
                for checkpoint in checkpoints:
                    _check_best(checkpoint, session)
                    self._savers.append(Saver(checkpoint, session, self._agreement))
            progress.due = self._due_by_clock
        except BaseException:
            self.close()
            raise

    def enter(self, split: Split, layout: WireLayout, loop: Loop) -> None:
        """Begins a phase, or goes on in it."""
        if not self._names and self._savers:  # in the first one, while the steps are compiled
            self._savers[0].expect(flattened(loop).arrays)
        self._split, self._names = split, layout.names
        taken = int(loop.batch_index) if split == TRAINING else 0
        self._done = int(loop.step) - int(loop.first_step) - taken

    def are_due(self, position: int) -> bool:
        """Whether a checkpoint is due at a boundary of the phase, or one has failed. It is asked at each boundary."""
        if self._agreement.several and self._agreement.heard & Ask.SAVE:
            return True
        steps = self._done + position if self._split == TRAINING else 0
        return any(self._is_due(saver, steps) for saver in self._savers)

    def at(self, boundary: Boundary, *, now: bool) -> None:
        """Saves at a boundary what is due, or everything if it must be `now`. Waits for the device.

        Raises:
          CheckpointError: an earlier save has failed.
        """
        steps = self._done + boundary.position if self._split == TRAINING else 0
        due = [saver for saver in self._savers if self._is_due(saver, steps) or now]
        self._check()
        if not due:
            return
        self._fused[self._split] = boundary.fused
        loop = boundary.loop()
        place = self._place(loop, self._split, boundary.position, boundary.rows_in_flight())
        for saver in due:
            self._save(saver, loop, place)
        self._agreement.saved()

    def after_epoch(self, loop: Loop, *, now: bool) -> None:
        """Saves between two epochs what is due, or everything if it must be `now`."""
        self._check()
        values = [(saver, saver.value(loop)) for saver in self._savers]
        due = [(saver, value) for saver, value in values if saver.is_due_after_epoch(value) or now]
        if due:
            place = self._place(loop, None)  # once for all: callbacks write what waits when they are asked for a state
            for saver, value in due:
                self._save(saver, loop, place, value)

    def finished(self, loop: Loop) -> None:
        """Saves the run that is over, and waits until that is on the disk."""
        self._check()
        place = self._place(loop, Event.FIT_END)
        for saver in self._savers:
            self._save(saver, loop, place)
        self.end()

    def end(self) -> None:
        """Waits until all that was saved is on the disk, as `close`. If a save has failed, all processes raise."""
        with self._agreement.together():
            self.close()

    def close(self) -> None:
        """Waits for what is being written, and lets others write to the folders.

        Raises:
          CheckpointError: a save has failed that was not told of.
        """
        savers, self._savers = self._savers, []
        failure: BaseException | None = None
        for saver in savers:
            try:
                saver.close()
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _check(self) -> None:
        with self._agreement.together():
            for saver in self._savers:
                saver.check()

    def _due_by_clock(self) -> bool:
        """Whether this process writes, and its clock says that a checkpoint is due, or a save has failed.

        The others must be told of it.
        """
        return any(saver.has_failed or saver.is_due_by_clock() for saver in self._savers if saver.writes)

    def _is_due(self, saver: Saver, steps: int) -> bool:
        if saver.is_due(steps):
            return True
        if self._agreement.several:  # clocks differ, so what counts is what all have heard
            return saver.by_clock and bool(self._agreement.heard & Ask.SAVE)
        return saver.has_failed or saver.is_due_by_clock()

    def _place(self, loop: Loop, moment: Moment, position: int = 0, rows: Sequence[np.ndarray] = ()) -> Place:
        requests = self._agreement.all_of(self._host.requests)
        if self._agreement.several:
            rows = [np.concatenate([row[:1] & 1, row[1:]]) for row in rows]  # what was asked for is in `requests`
        with self._agreement.together():  # only some processes have this callback, or that loader
            states, marks = self._host.states(), self._marks(loop, moment, position)
        return Place(
            moment,
            position,
            rows,
            names=self._names,
            requests=requests,
            fused=self._fused,
            states=states,
            marks=marks,
        )

    def _save(self, saver: Saver, loop: Loop, place: Place, value: float | None = None) -> None:
        saver.saved(int(loop.step) - int(loop.first_step))
        flat = flattened(loop)
        if self._agreement.several:
            flat = replace(flat, arrays=self._session.placement.on_first_process(flat.arrays))
        with self._agreement.together():
            if saver.writes:
                appended = self._recorder.written(saver.journaled)
                saver.write(flat, self._about(loop, place), value=value, appended=appended)
        self._host.ledger.lap("save")

    def _about(self, loop: Loop, place: Place) -> dict[str, Any]:
        """What a checkpoint says of the run besides its leaves, for JSON."""
        memory = loop.callback_state.keys() - self._traced
        return {
            "run": self._run,
            "place": place.described(),
            "static": {
                "lasting": sorted(loop.lasting),
                "evaluated": sorted(loop.evaluated),
                "memory": {name: plain(loop.callback_state[name]) for name in memory},
            },
            "placement": self._session.placement.describe(),
            "step": int(loop.step),
            "epoch": int(loop.epoch),
            "where": _where(loop, place),
            "saved_at": time.time(),
            "versions": {"jax": jax.__version__},
        }

    def _marks(self, loop: Loop, moment: Moment, position: int) -> dict[str, Any]:
        """How the data find the place again."""
        source = self._session.source
        begun = int(loop.epoch)  # epochs that have begun: the next one has this index
        marks: dict[str, Any] = {}
        if moment == TRAINING:
            marks["training"] = source.mark(begun - 1, position)
        elif moment is not Event.FIT_END:
            marks["training"] = source.mark(begun, 0)
        for split, feed in self._session.feeds.validation.items():
            marks[split.name] = feed.batches.mark(position if moment == split else 0)
        everywhere = [json.loads(text) for text in self._agreement.texts(json.dumps(marks))]
        return marks if all(other == marks for other in everywhere) else {"processes": everywhere}


def _check_best(checkpoint: Checkpoint, session: Session) -> None:
    known = session.loop.stats
    if checkpoint.best is not None and checkpoint.best[0] not in known:
        raise ValueError(
            f"Checkpoint: `best` must be a statistic that is measured, got {checkpoint.best[0]!r}; there are "
            f"{', '.join(sorted(known))}. Check `metrics`, or give the training loop `validation`."
        )


def _where(loop: Loop, place: Place) -> str:
    """The place in words."""
    if place.finished:
        return "the run is over"
    if place.split is None:
        return f"after epoch {int(loop.epoch_index)} of {int(loop.epoch_count)}"
    position = f"{place.split.name} batch {place.position} of {int(loop.batch_count)}"
    return f"epoch {int(loop.epoch_index) + 1} of {int(loop.epoch_count)}, {position}"
