"""A chain of children: the same command again and again, each child ended at another point of its progress."""

import dataclasses
import random
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxloop.checkpoint.store import Store
from tests.reliability.running import Ended
from tests.reliability.training import Options

#: A point that stands for each boundary.
BOUNDARY = r"step \d+|validation \d+ of epoch \d+"
#: Functions whose calls are points, and what they are called.
CALLS = (
    ("jaxloop.engine.setup:resumed", "resuming"),
    ("jaxloop.checkpoint.store:restore", "reading arrays"),
    ("jaxloop.engine.host:Host.resume", "going on"),
    ("jaxloop.callbacks.tensorboard_logger:cut_back", "cutting points"),
    ("jaxloop.files.line_file:LineFile.cut", "cutting rows"),
    ("jaxloop.programs.programs:Program.compile", "compiling"),
    ("jaxloop.files.line_file:LineFile.write", "writing rows"),
    ("jaxloop.files.event_file:EventFile.write", "writing points"),
    ("jaxloop.engine.host:Host.states", "keeping states"),
    ("jaxloop.checkpoint.writer:snapshot", "copying"),
    ("jaxloop.checkpoint.writer:prepare", "preparing"),
    ("orbax.checkpoint:PyTreeCheckpointHandler.save", "writing arrays"),
    ("orbax.checkpoint:PyTreeCheckpointHandler.finalize", "merging arrays"),
    ("jaxloop.checkpoint.journal:Journal.append", "appending"),
    ("jaxloop.checkpoint.commit:sums", "summing"),
    ("jaxloop.checkpoint.commit:write_synced", "writing the manifest"),
    ("jaxloop.checkpoint.commit:sync_folders", "syncing"),
    ("jaxloop.checkpoint.writer:commit", "committing"),
    ("jaxloop.checkpoint.writer:discard", "discarding"),
    ("jaxloop.checkpoint.commit:remove", "removing"),
)
#: Points within a save: after the copies, within Orbax's write, before and after the manifest, before and after the
#: rename, and while an older checkpoint is removed.
IN_A_SAVE = (
    "copying over",
    "preparing begun",
    "writing arrays begun",
    "merging arrays begun",
    "merging arrays over",
    "appending begun",
    "appending over",
    "summing over",
    "writing the manifest begun",
    "writing the manifest over",
    "syncing over",
    "committing over",
    "discarding begun",
    "removing begun",
    "removing over",
)
#: Those at which a resumed run goes on, once each.
AT_A_RESUME = (
    "resuming begun",
    "reading arrays over",
    "going on begun",
    "cutting points begun",
    "cutting points over",
    "cutting rows begun",
    "cutting rows over",
    "going on over",
)
#: Those of logs, compiling and steps.
ELSEWHERE = (
    "compiling begun",
    "writing rows begun",
    "writing rows over",
    "writing points begun",
    "writing points over",
    "keeping states begun",
    BOUNDARY,
)


@dataclass
class End:
    """Ends a child: at the `time`-th such point after `after`, or at the boundary at which its patience ends.

    Attributes:
      point: as it is announced, or a pattern of that.
      time: counted from 1.
      after: a point from which on is counted; empty for the start.
      patience: so many boundaries; None has no end.
      sent: the signal.
      met: where it was sent; None if it was not.
    """

    point: str
    time: int = 1
    after: str = ""
    patience: int | None = None
    sent: signal.Signals = signal.SIGKILL
    met: str | None = None

    def __post_init__(self) -> None:
        self._begun, self._count, self._boundaries = not self.after, 0, 0

    def __call__(self, announced: str) -> signal.Signals | None:
        self._boundaries += bool(re.fullmatch(BOUNDARY, announced))
        self._begun = self._begun or announced == self.after
        self._count += self._begun and self.is_at(announced)
        if self.met is None and (self._count == self.time or self._boundaries == self.patience):
            self.met = announced
            return self.sent
        return None

    def is_at(self, announced: str) -> bool:
        """Whether it is such a point."""
        return bool(re.fullmatch(self.point, announced))


def ends(count: int, points: Sequence[str], *, seed: int, patience: int, **options: Any) -> list[End]:
    """So many ends, at each of the points equally often, in a random order that only the seed decides."""
    draw = random.Random(seed)
    chosen = [points[number % len(points)] for number in range(count)]
    draw.shuffle(chosen)
    times = [1 if point in AT_A_RESUME else draw.randint(1, 2) for point in chosen]
    return [End(point, time, patience=patience, **options) for point, time in zip(chosen, times, strict=True)]


def chained(
    train: Callable[..., Ended], folder: Path, options: Options, ends: Sequence[End], *, status: int = -signal.SIGKILL
) -> Ended:
    """Runs the same command until it finishes, each child but the last with its end; gives the last child.

    After each child, the newest checkpoint must be whole, and not be older than that of the child before.

    Raises:
      AssertionError: a child ended otherwise than with `status`, or the run was over before all ends were met.
    """
    command = dataclasses.replace(options, resume=True, announces="all", calls=CALLS)
    newest = 0
    for number, end in enumerate(ends):
        child = train(folder, command, decide=end)
        assert end.met is not None, f"child {number} ended before {end}: {child.points[-5:]}\n{child.stderr[-3000:]}"
        child.expect(status)
        newest = _newest(folder, newest)
    return train(folder, command).expect(0)


def _newest(folder: Path, before: int) -> int:
    """The ordinal of the newest checkpoint, which must be whole."""
    saved = Store(folder / "checkpoints").checkpoints()
    if not saved:
        assert before == 0, "there was a checkpoint, and now there is none"
        return 0
    assert saved[-1].ordinal >= before
    saved[-1].verify()
    return saved[-1].ordinal
