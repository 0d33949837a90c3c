"""The runs of a check at one number of steps a dispatch: uninterrupted, saved at every boundary, and gone on with."""

import dataclasses
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jaxloop.callback import name_of
from jaxloop.callbacks import Checkpoint
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.loop import Loop
from jaxloop.testing.folders import content
from jaxloop.testing.keeping import kept
from jaxloop.testing.making import Maker
from jaxloop.testing.outcome import Outcome, Witness, columns_of, leaves_of
from jaxloop.testing.training import Training
from jaxloop.training_loop import TrainingLoop

_MANY = 1_000_000
_WITNESS = "_LastWitness"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is gone on with.

    Attributes:
      checkpoint: the folder of the checkpoint.
      where: the place in words.
      snapshot: the files of the callbacks as they were at the save.
    """

    checkpoint: str
    where: str
    snapshot: str


class _LastWitness(Witness):
    """The witness, which is asked for its state last, so that it can copy the files that others have just written."""

    def __init__(self, files: Path, snapshots: Path):
        super().__init__()
        self._files, self._snapshots = files, snapshots

    def state(self) -> dict[str, Any]:
        self._snapshots.mkdir(parents=True, exist_ok=True)
        snapshot = self._snapshots / str(len([*self._snapshots.iterdir()]))
        shutil.copytree(self._files, snapshot)
        return super().state() | {"snapshot": str(snapshot)}


class _Last:
    """A compiled callback that does nothing, but whose companion comes after all others.

    It is the same object in all runs, so that no program depends on the witness.
    """

    companion: Any = None

    def __call__(self, loop: Loop, event: Any) -> Loop:
        return loop


class Runs:
    """Runs of the same training, with callbacks that are made again for each.

    Args:
      maker: of the callbacks.
      training: what is trained.
      steps: how many a dispatch takes.
      folder: for all that is written. The callbacks' own files are in `folder/files` in every run, since many keep
        their path; at the end of a run they are read.
    """

    def __init__(self, maker: Maker, training: Training, steps: int, folder: Path):
        self._maker, self._training, self._steps = maker, training, steps
        self._folder = folder
        self.files = folder / "files"
        self.ended = folder / "ended"
        self._last = _Last()
        self._compiled: dict[int, Any] = {}
        self._training_loop: TrainingLoop | None = None

    def whole(self) -> Outcome:
        """The run without an interruption, and without a save."""
        self._put(None)
        return self._run([])

    def saved(self) -> tuple[Outcome, list[Place]]:
        """The run that is saved at every boundary and between epochs; and the places that it was saved at."""
        self._put(None)
        outcome, places = self._saved("saved", None)
        shutil.copytree(self.files, self.ended)
        return outcome, places

    def resumed(self, place: Place, *, grown: bool) -> Outcome:
        """The run that goes on from a place.

        Args:
          place: where.
          grown: whether the callbacks' files are those of the end of the run, since it was killed some time after the
            save; or else as they were at the save.
        """
        self._put(self.ended if grown else Path(place.snapshot))
        return self._run([], self._only(place))

    def resumed_twice(self, place: Place) -> tuple[Place, Outcome]:
        """The run that goes on from a place, is saved again everywhere, and goes on from one of these saves too."""
        self._put(Path(place.snapshot))
        _, places = self._saved("saved again", self._only(place))
        second = places[len(places) // 2]
        self._put(Path(second.snapshot))
        return second, self._run([], self._only(second))

    def _saved(self, name: str, resume_from: Path | None) -> tuple[Outcome, list[Place]]:
        folders = [self._folder / name / each for each in ("boundaries", "epochs")]
        shutil.rmtree(self._folder / name, ignore_errors=True)
        checkpoints = [
            Checkpoint(folders[0], every=timedelta(microseconds=1), keep=_MANY),
            Checkpoint(folders[1], every="epoch", keep=_MANY),
        ]
        outcome = self._run(checkpoints, resume_from)
        found = [saved for folder in folders for saved in Store(folder).checkpoints()]
        found = [saved for saved in found if not _is_over(saved)]
        return outcome, sorted(map(_place, found), key=lambda place: int(Path(place.snapshot).name))

    def _run(self, checkpoints: Sequence[Checkpoint], resume_from: Path | None = None) -> Outcome:
        callbacks = self._made()
        witness = self._last.companion = _LastWitness(self.files, self._folder / "snapshots")
        spied = [_Bound(callback) if _is_bound_on_host(callback) else callback for callback in callbacks]
        loop, history = self._loop().fit(
            self._training.model(),
            self._training.epochs,
            callbacks=[*spied, *checkpoints, self._last],
            on="cpu",
            resume_from=resume_from,
        )
        return Outcome(
            told=witness.told,
            history=columns_of(history),
            leaves=leaves_of(loop),
            files=content(self.files),
            attributes=_attributes(spied),
        )

    def _made(self) -> list[Any]:
        """Fresh callbacks. A compiled one is made once: it is pure, as was checked, and its programs are kept."""
        made = self._maker.make(self.files)
        for index, callback in enumerate(made):
            if not hasattr(callback, "host_declaration") and not hasattr(callback, "companion"):
                made[index] = self._compiled.setdefault(index, callback)
        return made

    def _loop(self) -> TrainingLoop:
        """A training loop with the number of steps; of what the caller makes, a new one for each run."""
        if self._training_loop is None or not self._training.reusable:
            setup = self._training.training_loop().setup
            self._training_loop = TrainingLoop.of(dataclasses.replace(setup, steps_per_dispatch=self._steps))
        return self._training_loop

    def _put(self, files: Path | None) -> None:
        """Gives the callbacks these files, at the same path as ever."""
        shutil.rmtree(self.files, ignore_errors=True)
        if files is None:
            self.files.mkdir(parents=True)
        else:
            shutil.copytree(files, self.files)

    def _only(self, place: Place) -> Path:
        """A folder in which the checkpoint is the newest, as after a kill."""
        checkpoint, only = Path(place.checkpoint), self._folder / "from"
        shutil.rmtree(only, ignore_errors=True)
        shutil.copytree(checkpoint, only / checkpoint.name)
        for path in checkpoint.parent.glob("*.journal"):
            shutil.copy(path, only)
        return only


class _Bound:
    """A host callback with a method `bind`, which keeps what that gives."""

    def __init__(self, callback: Any):
        self._callback = self.bound = callback
        self.host_declaration = callback.host_declaration
        self.__qualname__ = name_of(callback)

    def bind(self, plan: Any) -> Any:
        self.bound = self._callback.bind(plan)
        return self.bound

    def __call__(self, loop: Any, event: Any) -> None:
        """Is not called: the engine calls what `bind` gives."""


def _is_bound_on_host(callback: Any) -> bool:
    return hasattr(callback, "host_declaration") and hasattr(callback, "bind")


def _attributes(callbacks: Sequence[Any]) -> dict[str, Any]:
    """What host callbacks keep, as `<name>: <attribute>`. Of one with a memory, only its public attributes."""
    found: dict[str, Any] = {}
    everyone = [*callbacks, *(callback.companion for callback in callbacks if hasattr(callback, "companion"))]
    for callback in everyone:
        if not hasattr(callback, "host_declaration"):
            continue
        bound = callback.bound if isinstance(callback, _Bound) else callback
        has_memory = callable(getattr(bound, "state", None)) and callable(getattr(bound, "resume", None))
        for name, value in kept(bound).items():
            if not (has_memory and name.startswith("_")):
                found[f"{name_of(callback)}: {name}"] = value
    return found


def _is_over(saved: Saved) -> bool:
    return saved.manifest()["about"]["place"]["moment"] == "fit_end"


def _place(saved: Saved) -> Place:
    about = saved.manifest()["about"]
    return Place(str(saved.path), about["where"], about["place"]["states"][_WITNESS]["snapshot"])
