"""Trackers that stay on this machine: their environment for tests, and what their own readers find."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxloop.files.wandb_file import history, records

#: So that nothing leaves the machine, whatever the environment says: no account, an address where nobody listens.
ENVIRONMENT: Mapping[str, str] = {
    "WANDB_MODE": "offline",
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "WANDB_API_KEY": "0" * 40,
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
#: Warnings of theirs, which are errors here.
WARNINGS = ("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning")


def rows(folder: Path) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """What the files of offline runs below a folder hold: rows by step, and by epoch; each must be there once."""
    found: tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]] = ({}, {})
    for path in files(folder):
        for row in history(path):
            axis = "epoch" if "epoch" in row else "step"
            by_axis = found[axis == "epoch"]
            assert row[axis] not in by_axis, f"{axis} {row[axis]} is there twice"
            kept = {name: value for name, value in row.items() if name.startswith(("batch/", "epoch/"))}
            by_axis[row[axis]] = kept
    return found


def files(folder: Path) -> list[Path]:
    """The files of offline runs below a folder, in order of time."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def wait_for_end(path: Path) -> None:
    """Waits until the file of a run that is finished is whole: W&B's own process writes it a moment later."""
    end = time.monotonic() + 60
    while not any(of_kind(path, "exit")):
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.05)


def of_kind(path: Path, kind: str) -> Iterator[Any]:
    """The messages of one kind in the file of a run."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    for message in records(path):
        record = Record.FromString(message)
        if record.WhichOneof("record_type") == kind:
            yield getattr(record, kind)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row as floats: JSON has NaN as text."""
    return {name: float(value) for name, value in values.items()}
