"""The results as a table to read and as JSON to keep, with the kind of machine on which they were measured."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.contestants import REFERENCE, Contestant
from benchmarks.measuring import ratios
from benchmarks.workloads import Workload
from jaxloop.benchmarking.measurement import Quartiles

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "keras", "torch", "lightning")


@dataclass(frozen=True)
class Row:
    """One contestant's result in one workload.

    Attributes:
      workload: the name of the workload.
      contestant: the name of the contestant.
      microseconds: the time of a step, over the iterations.
      ratio: the time relative to the reference, iteration by iteration.
      rival: the other contestant that it is compared with, or None.
      rival_ratio: the time relative to the rival, or None.
      batch_size: the number of examples in a step.
      steps: the number of steps in a turn.
      seconds: the time of each turn.
    """

    workload: str
    contestant: str
    microseconds: Quartiles
    ratio: Quartiles
    rival: str | None
    rival_ratio: Quartiles | None
    batch_size: int
    steps: int
    seconds: Sequence[float]


def rows_of(
    workload: Workload, contestants: Sequence[Contestant], seconds: dict[str, list[float]], *, epochs: int
) -> list[Row]:
    """A row for each contestant.

    Args:
      workload: what was trained.
      contestants: the contestants that took part.
      seconds: the time of each turn, by contestant.
      epochs: the number of epochs in a turn.
    """
    rows, steps = [], epochs * workload.step_count
    for contestant in contestants:
        own = seconds[contestant.name]
        rival = contestant.rival if contestant.rival in seconds else None
        rows.append(
            Row(
                workload=workload.name,
                contestant=contestant.name,
                microseconds=Quartiles.of([1e6 * turn / steps for turn in own]),
                ratio=Quartiles.of(ratios(own, seconds[REFERENCE])),
                rival=rival,
                rival_ratio=None if rival is None else Quartiles.of(ratios(own, seconds[rival])),
                batch_size=workload.batch_size,
                steps=steps,
                seconds=own,
            )
        )
    return rows


def machine() -> dict[str, Any]:
    """The kind of processor and device, and the versions. Nothing in it identifies the machine."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": f"{device.platform} ({device.device_kind})",
        "python": platform.python_version(),
        **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The rows as a Markdown table with these of `COLUMNS`, by default `DEFAULT_COLUMNS`."""
    chosen = [COLUMNS[name] for name in columns or DEFAULT_COLUMNS]
    titles = tuple(title for title, _ in chosen)
    return markdown([titles, *(tuple(cell(row) for _, cell in chosen) for row in rows)])


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_json(rows: Sequence[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """All results with the seconds of each turn, ready for `json.dump`."""
    return {"machine": machine(), "settings": settings, "rows": [asdict(row) for row in rows]}


def spread(quartiles: Quartiles, digits: int) -> str:
    """A median with so many digits, and its quartiles in brackets."""
    return f"{quartiles.median:.{digits}f} [{quartiles.low:.{digits}f}, {quartiles.high:.{digits}f}]"


def _microseconds(row: Row) -> str:
    return spread(row.microseconds, 1 if row.microseconds.median < 1000 else 0)


def _rival(row: Row) -> str:
    return "" if row.rival_ratio is None else f"{spread(row.rival_ratio, 2)} of {row.rival}"


def _deviation(row: Row) -> str:
    return f"{100 * np.std(row.seconds) / np.mean(row.seconds):.1f}%"


#: The columns for `--columns`: the title, and the cell of a row. A spread is a median, with quartiles in brackets.
COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "workload": ("workload", lambda row: row.workload),
    "contestant": ("contestant", lambda row: row.contestant),
    "time": ("us/step", _microseconds),
    "seconds": ("seconds", lambda row: spread(Quartiles.of(list(row.seconds)), 3)),
    "ratio": (f"x {REFERENCE}", lambda row: spread(row.ratio, 2)),
    "rival": ("x another", _rival),
    "fastest": ("fastest us/step", lambda row: f"{1e6 * min(row.seconds) / row.steps:.1f}"),
    "deviation": ("deviation", _deviation),
    "steps_per_second": ("steps/s", lambda row: f"{1e6 / row.microseconds.median:.0f}"),
    "examples_per_second": ("examples/s", lambda row: f"{1e6 * row.batch_size / row.microseconds.median:.0f}"),
    "steps": ("steps", lambda row: str(row.steps)),
    "iterations": ("iterations", lambda row: str(len(row.seconds))),
}
DEFAULT_COLUMNS = ("workload", "contestant", "time", "ratio", "rival")
COLD_COLUMNS = ("workload", "contestant", "seconds", "ratio", "rival")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
