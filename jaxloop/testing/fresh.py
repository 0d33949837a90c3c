"""Goes on with runs in a fresh process: `python -m jaxloop.testing.fresh FOLDER`, with what to do in `FOLDER/asked`."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxloop.testing.making import found, known_as, maker_of
from jaxloop.testing.outcome import Outcome
from jaxloop.testing.running import Place, Runs
from jaxloop.testing.training import Training

_CONFIGURED = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
_SECONDS = 1800


@dataclass(frozen=True)
class Resume:
    """One run to go on with.

    Attributes:
      place: where.
      grown: as in `Runs.resumed`.
      twice: whether it is interrupted once more.
    """

    place: Place
    grown: bool = False
    twice: bool = False


@dataclass(frozen=True)
class Resumed:
    """What came of it.

    Attributes:
      where: the place in words, with how the files were.
      outcome: of the run; None if it failed.
      error: what it raised, with its notes; empty if it did not fail.
    """

    where: str
    outcome: Outcome | None
    error: str = ""


def resume_all(runs: Runs, resumes: Sequence[Resume]) -> list[Resumed]:
    """Goes on with each, in this process."""
    return [_resumed(runs, resume) for resume in resumes]


class FreshProcess:
    """Another process that goes on with runs, while this one does something else.

    Args:
      given: what `check_callback` was given, see `making.maker_of`.
      training: what is trained.
      steps: how many a dispatch takes.
      folder: of the runs.
      resumes: what to go on with.
    """

    def __init__(self, given: Any, training: Training, steps: int, folder: Path, resumes: Sequence[Resume]):
        self._folder = folder
        asked = {
            "paths": [os.path.abspath(path) for path in sys.path],  # noqa: PTH100 an empty path is the folder at hand
            "config": {name: getattr(jax.config, name) for name in _CONFIGURED},
            "given": known_as(given),
            "training_loop": known_as(training.training_loop),
            "model": known_as(training.model),
            "epochs": training.epochs,
            "reusable": training.reusable,
            "steps": steps,
            "resumes": [dataclasses.asdict(resume) for resume in resumes],
        }
        (folder / "asked").write_text(json.dumps(asked))
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(asked["paths"])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxloop.testing.fresh", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> list[Resumed]:
        """What came of them. Waits.

        Raises:
          RuntimeError: the process failed as a whole.
        """
        _, said = self._process.communicate(timeout=_SECONDS)
        if self._process.returncode != 0:
            raise RuntimeError(
                f"check_callback: the process that goes on with the runs ended with {self._process.returncode}, and "
                f"said: {said[-4000:]}"
            )
        told = json.loads((self._folder / "results").read_text())
        return [Resumed(each["where"], each["outcome"] and Outcome(**each["outcome"]), each["error"]) for each in told]

    def end(self) -> None:
        """Ends it, if it still goes on."""
        self._process.kill()
        self._process.communicate()


def main(folder: Path) -> None:
    """Does what is asked, and writes `FOLDER/results`."""
    asked = json.loads((folder / "asked").read_text())
    for name, value in asked["config"].items():
        jax.config.update(name, value)
    training = Training(found(asked["training_loop"]), found(asked["model"]), asked["epochs"], asked["reusable"])
    runs = Runs(maker_of(found(asked["given"])), training, asked["steps"], folder)
    resumes = [Resume(Place(**each["place"]), each["grown"], each["twice"]) for each in asked["resumes"]]
    results = [dataclasses.asdict(resumed) for resumed in resume_all(runs, resumes)]
    (folder / "results").write_text(json.dumps(results))


def _resumed(runs: Runs, resume: Resume) -> Resumed:
    files = "its files as at the end of the run" if resume.grown else "its files as at the save"
    where = f"{resume.place.where}, {files}"
    try:
        if not resume.twice:
            return Resumed(where, runs.resumed(resume.place, grown=resume.grown))
        second, outcome = runs.resumed_twice(resume.place)
        return Resumed(f"{where}; and a second time at {second.where}", outcome)
    except Exception as error:
        return Resumed(where, None, told(error))


def told(error: BaseException) -> str:
    """An exception in a few lines: its type, its message and its notes."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
