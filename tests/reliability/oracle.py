"""The oracle: a run is saved at every boundary; each save is resumed in another process, and the outcomes compared.

`consulted` does it, by two children. The first, `python -m tests.reliability.oracle record FOLDER`, runs the cases in a
file without checkpoints and with them, and keeps the folder of a run as it is after each save. The second, `... resume
FOLDER`, resumes them all.
"""

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax

import jaxloop as jl
from jaxloop.checkpoint.writer import Writer
from jaxloop.engine import delivery
from jaxloop.engine.saving import Saves
from tests.reliability.cases import Case, Fits
from tests.reliability.outcomes import differences, outcome
from tests.reliability.running import run

CASES = "cases.json"
_LOGS = ("log.csv", "other.csv", "trace.txt", "tensorboard", "images")
_TORN = b"2,training,3"
_SHOWN = 6


@dataclass(frozen=True)
class Consulted:
    """What the oracle says.

    Attributes:
      resumes: how many there were.
      faults: a line for each difference: the case, the place, and what differs.
      places: where each case was saved, in words.
      cpu_seconds: of both children.
    """

    resumes: int
    faults: list[str]
    places: dict[str, list[str]]
    cpu_seconds: float


def assert_none(consulted: Consulted) -> None:
    """The oracle has found no fault."""
    shown = "\n  ".join(consulted.faults[:40])
    assert not consulted.faults, f"{len(consulted.faults)} faults in {consulted.resumes} resumes:\n  {shown}"


def consulted(folder: Path, cases: Mapping[str, Case], environment: Mapping[str, str]) -> Consulted:
    """Saves each case everywhere, and resumes it from everywhere.

    Args:
      folder: for files; what the runs leave is removed.
      cases: by their names.
      environment: variables of the children.
    """
    saved, saving_seconds = recorded(folder, cases, environment)
    again, seconds = _child("resume", folder, environment)
    faults = [f"{name}, saving changed {line}" for name, result in saved.items() for line in result["saving"]]
    for name, result in again.items():
        places = saved[name]["places"]
        for number, lines in sorted(result["found"].items(), key=lambda item: int(item[0])):
            faults += [f"{name}, save {number}, {places[int(number)]}: {line}" for line in lines]
        shutil.rmtree(folder / name)
    resumes = sum(len(result["found"]) for result in again.values())
    places = {name: result["places"] for name, result in saved.items()}
    return Consulted(resumes, faults, places, saving_seconds + seconds)


def recorded(folder: Path, cases: Mapping[str, Case], environment: Mapping[str, str]) -> tuple[dict[str, Any], float]:
    """What `record` gives of each case, called in a child; and the child's CPU seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CASES).write_text(json.dumps({name: case.to_json() for name, case in cases.items()}))
    return _child("record", folder, environment)


def _child(command: str, folder: Path, environment: Mapping[str, str]) -> tuple[dict[str, Any], float]:
    child = ["-m", "tests.reliability.oracle", command, str(folder)]
    ended = run(child, folder, limit=900.0, environment=environment).expect(0)
    return json.loads((folder / f"{command}.json").read_text()), ended.cpu_seconds


def record(folder: Path, case: Case) -> dict[str, Any]:
    """Runs a case, and keeps the run's folder after each save.

    Returns:
      `saving`: what differs between the run that saved and the one that did not. `places`: each save in words.
    """
    fits = Fits(case)
    expected = taken(folder / "plain", *fits.fit(folder / "plain"))
    with _saving_everywhere(folder / "run", folder / "copies") as places:
        saved = taken(folder / "run", *fits.fit(folder / "run", saves=True))
    (folder / "expected.json").write_text(json.dumps(expected))
    return {"saving": differences(expected, saved), "places": places}


def resume(folder: Path, case: Case, *, only: list[int] | None = None) -> dict[str, Any]:
    """Resumes each copy; gives what differs from the run that was not interrupted, by the number of the save.

    The logs of every other copy are as a later kill would leave them: with rows of after the save, the last one torn.
    Some of the resumed runs go on to save.
    """
    fits = Fits(case)
    copies = sorted((folder / "copies").iterdir())
    order = list(range(len(copies))) if only is None else only
    random.Random(len(copies)).shuffle(order)  # nothing that one leaves may help the next
    found = {}
    for number in order:
        torn = number % 2 == 1 and number + 1 < len(copies)  # nothing comes after the last
        later = copies[min(number + 1 + number % 4, len(copies) - 1)] if torn else None
        found[number] = resumed(fits, folder, copies[number], later, saves=number % 5 == 0)[:_SHOWN]
    return {"found": found}


def resumed(fits: Fits, folder: Path, copy: Path, later: Path | None = None, *, saves: bool = False) -> list[str]:
    """What differs if a copy is resumed."""
    again = folder / "again"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(copy, again)
    if later is not None:
        _put_later_logs(again, later)
    expected = json.loads((folder / "expected.json").read_text())
    return differences(expected, taken(again, *fits.fit(again, saves=saves, resume=True)))


def taken(folder: Path, loop: jl.Loop, history: jl.History) -> dict[str, Any]:
    """All that is compared of a run."""
    other = folder / "other.csv"
    images = sorted(folder.glob("images/*"))
    return outcome(folder, loop, history) | {
        "static": {"lasting": sorted(loop.lasting), "evaluated": sorted(loop.evaluated), "stop": int(loop.stop)},
        "other": other.read_text().splitlines() if other.exists() else [],
        "images": {image.name: hashlib.sha256(image.read_bytes()).hexdigest() for image in images},
    }


@contextmanager
def _saving_everywhere(run: Path, copies: Path) -> Iterator[list[str]]:
    """Every boundary of a fit with checkpoints is saved, whatever `every` says, and copied at once."""
    places: list[str] = []
    write, at, after_epoch = Writer.write, Saves.at, Saves.after_epoch
    copies.mkdir(parents=True)

    def written(self: Writer, tree: Any, about: dict[str, Any], **options: Any) -> None:
        write(self, tree, about, **options | {"wait": True})  # pyright: ignore[reportArgumentType]
        shutil.copytree(run, copies / f"{len(places):03}")
        place = about["place"]
        places.append(f"{about['where']}, {len(place['rows'])} rows in flight, requests {place['requests']}")

    with ExitStack() as stack:
        for owner, name, replaced in (
            (Writer, "write", written),
            (Saves, "are_due", lambda self, position: True),
            (Saves, "at", lambda self, boundary, *, now: at(self, boundary, now=True)),
            (Saves, "after_epoch", lambda self, loop, *, now: after_epoch(self, loop, now=True)),
        ):
            stack.enter_context(mock.patch.object(owner, name, replaced))
        yield places


def _put_later_logs(again: Path, later: Path) -> None:
    for name in _LOGS:
        log = later / name
        if log.is_dir():
            shutil.copytree(log, again / name, dirs_exist_ok=True)
        elif log.exists():
            (again / name).write_bytes(log.read_bytes() + _TORN)


def _prepare(case: Case) -> None:
    """Sets what holds for the whole process."""
    jax.config.update("jax_enable_x64", case.x64)
    delivery._SECONDS_TOGETHER = 1e9 if case.patient else 0.1  # pyright: ignore[reportPrivateUsage]


def main() -> None:
    """Does what the command line says with each case in a file, and writes down what came of it."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    results = {}
    for name, text in json.loads((folder / CASES).read_text()).items():
        case = Case.of(text)
        _prepare(case)
        results[name] = {"record": record, "resume": resume}[command](folder / name, case)
    (folder / f"{command}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
