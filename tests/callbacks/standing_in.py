"""A tracker that stands in for those of others: it writes points to a file of lines, or fails as it is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxloop.callback import on_host
from jaxloop.callbacks.tracking import Outage, Point, Tracking
from jaxloop.events import Event, Plan
from jaxloop.speed import MEASURED_OUTSIDE

CLOCKS = frozenset(MEASURED_OUTSIDE)


def said(point: Point) -> str:
    """A point as a line, without what is of a clock."""
    values = " ".join(f"{name}={value!r}" for name, value in sorted(point.values.items()) if name not in CLOCKS)
    return f"{point.kind} step {point.step} epoch {point.epoch} {values}"


class InFile:
    """A tracker whose run is a file."""

    may_lose = 0

    def __init__(self, path: Path):
        self.path = path
        self.names: Mapping[str, Sequence[str]] = {}
        self.known: Mapping[str, Any] = {}

    def begin(self, known: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        self.known, self.names = known, names
        self.path.write_text("running\n")

    def go_on(self, kept: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        self.names = names
        lines = Path(kept["path"]).read_text().splitlines()
        self.path.write_text("".join(f"{line}\n" for line in lines if not line.startswith("end")))

    def send(self, points: Sequence[Point]) -> None:
        there = set(self.path.read_text().splitlines())
        new = [said(point) for point in points if said(point) not in there]
        with self.path.open("a") as file:
            file.write("".join(f"{line}\n" for line in new))

    def kept(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def end(self, how: str) -> None:
        with self.path.open("a") as file:
            file.write(f"end {how}\n")


class Failing(InFile):
    """A tracker that fails so many times before it takes anything; None is for ever."""

    def __init__(self, path: Path, times: int | None, begins: bool = True):
        super().__init__(path)
        self.times, self.begins = times, begins

    def begin(self, known: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        if not self.begins:
            raise Outage("the tracker cannot be reached")
        super().begin(known, names)

    def go_on(self, kept: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        if not self.begins:
            raise Outage("the tracker cannot be reached")
        super().go_on(kept, names)

    def send(self, points: Sequence[Point]) -> None:
        if self.times is None or self.times > 0:
            self.times = None if self.times is None else self.times - 1
            raise OSError("no network")
        super().send(points)


@on_host(Event.FIT_START)
class FileLogger:
    """A logger on such a tracker."""

    host_declaration = Tracking.host_declaration  # type: ignore[attr-defined]

    def __init__(self, path: Path, **options: Any):
        self.options = {"tracker": InFile, "every": 1, "timeout": 30.0} | options
        self.path = path

    def bind(self, plan: Plan) -> Tracking:
        options = dict(self.options)
        return Tracking("FileLogger", options.pop("tracker")(self.path), plan, **options)

    def __call__(self, loop: Any, event: Event) -> None:
        raise AssertionError("it must be bound first")


def in_folder(folder: Path) -> FileLogger:
    """A logger below a folder, for `check_callback`."""
    return FileLogger(folder / "run.txt")
