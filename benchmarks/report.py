"""What was measured as a table to read and as JSON to keep, with the kind of machine that it holds for."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from benchmarks.contestants import REFERENCE, Contestant
from benchmarks.measuring import Quartiles, ratios

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Row:
    """One contestant's result in one workload.

    Attributes:
      workload: its name.
      contestant: its name.
      microseconds: of a step, over the rounds.
      ratio: against the reference, round by round.
      rival: the other contestant it is compared with, or None.
      rival_ratio: against that one, or None.
      seconds: of each turn.
    """

    workload: str
    contestant: str
    microseconds: Quartiles
    ratio: Quartiles
    rival: str | None
    rival_ratio: Quartiles | None
    seconds: Sequence[float]


def rows_of(
    workload: str, contestants: Sequence[Contestant], seconds: dict[str, list[float]], *, step_count: int
) -> list[Row]:
    """A row for each contestant.

    Args:
      workload: its name.
      contestants: those that took part.
      seconds: of each turn, by contestant.
      step_count: how many steps a turn had.
    """
    rows = []
    for contestant in contestants:
        own = seconds[contestant.name]
        rival = contestant.rival if contestant.rival in seconds else None
        rows.append(
            Row(
                workload=workload,
                contestant=contestant.name,
                microseconds=Quartiles.of([1e6 * turn / step_count for turn in own]),
                ratio=Quartiles.of(ratios(own, seconds[REFERENCE])),
                rival=rival,
                rival_ratio=None if rival is None else Quartiles.of(ratios(own, seconds[rival])),
                seconds=own,
            )
        )
    return rows


def machine() -> dict[str, Any]:
    """What the numbers hold for: kind of processor and device, and versions. Nothing that names the machine."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": f"{device.platform} ({device.device_kind})",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: medians, and quartiles in brackets."""
    cells = [("workload", "contestant", "us/step", f"x {REFERENCE}", "x another")]
    cells += [(row.workload, row.contestant, _microseconds(row), _ratio(row.ratio), _rival(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_json(rows: Sequence[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """All there is, each turn's seconds included, ready for `json.dump`."""
    return {"machine": machine(), "settings": settings, "rows": [asdict(row) for row in rows]}


def _microseconds(row: Row) -> str:
    digits = 1 if row.microseconds.median < 1000 else 0
    low, median, high = (f"{value:.{digits}f}" for value in asdict(row.microseconds).values())
    return f"{median} [{low}, {high}]"


def _ratio(ratio: Quartiles) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _rival(row: Row) -> str:
    return "" if row.rival_ratio is None else f"{_ratio(row.rival_ratio)} of {row.rival}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
