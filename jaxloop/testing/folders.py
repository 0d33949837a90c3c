"""What lies in a folder, file by file: bytes; of event files the points, since their times and names always differ."""

import re
from pathlib import Path
from typing import Any

_RUN = re.compile(r"\d{8}-\d{6}(-\d+)?")
_EVENTS = "events.out.tfevents."
_CLOCKS = ("seconds", "per_second", "mfu", "memory_bytes")  # what a tag ends with if it is of a clock, or of a device


def content(folder: Path) -> dict[str, list[str]]:
    """The lines of each file, by its path in the folder.

    A line is shown as Python writes bytes, so that text can be read, and none is lost. All event files of one folder
    are one, `events`, and its lines are their points, tag by tag: when rows are written, and so in which order with
    other tags, depends on the clock. A folder named by a time is called `<time 1>`, by its rank.
    """
    times = sorted({part for path in folder.rglob("*") for part in path.parts if _RUN.fullmatch(part)})
    found: dict[str, list[str]] = {}
    points: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = [
            f"<time {times.index(part) + 1}>" if part in times else part for part in path.relative_to(folder).parts
        ]
        if path.name.startswith(_EVENTS):
            points.setdefault("/".join([*parts[:-1], "events"]), []).extend(_points(path))
        else:
            found["/".join(parts)] = [repr(line)[1:] for line in path.read_bytes().splitlines(keepends=True)]
    ordered = {name: sorted(told, key=lambda point: point[0]) for name, told in points.items()}  # stable within a tag
    return found | {name: [text for _, text in told] for name, told in ordered.items()}


def _points(path: Path) -> list[tuple[str, str]]:
    """The points of an event file, each as its tag and a text."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    points: list[tuple[str, str]] = []
    records, whole = _records(path.read_bytes())
    for record in records:
        event: Any = Event.FromString(record)
        points += [(value.tag, f"{_said(value)} at step {event.step}") for value in event.summary.value]
    return points if whole else [*points, ("", "a record that is cut off")]


def _said(value: Any) -> str:
    if value.tag.endswith(_CLOCKS):
        return value.tag
    if value.WhichOneof("value") == "simple_value":
        return f"{value.tag} {value.simple_value!r}"
    return f"{value.tag} {value.SerializeToString()!r}"


def _records(data: bytes) -> tuple[list[bytes], bool]:
    """The records of an event file, and whether they are all of it.

    Each is eight bytes of length, four of checksum, the content, four of checksum.
    """
    records, place = [], 0
    while place + 12 <= len(data):
        end = place + 16 + int.from_bytes(data[place : place + 8], "little")
        if end > len(data):
            break
        records.append(data[place + 12 : end - 4])
        place = end
    return records, place == len(data)
