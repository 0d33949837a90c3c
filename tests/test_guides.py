"""Each block of Python in the guides runs, and what it prints is what the guide says."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.devices import run_on_devices

GUIDES = sorted((Path(__file__).parents[1] / "examples" / "guides").glob("*.md"))


def blocks(guide: Path) -> str:
    """The blocks of Python in a guide, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


def rows(text: str) -> list[list[str]]:
    """The rows of tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def number(cell: str) -> float | None:
    """The number that a cell begins with; None if it begins with a word."""
    found = re.match(r"[\d.]+(e[+-]\d+)?", cell)
    return None if found is None else float(found[0])


def check_printed(guide: Path, printed: str) -> None:
    """Fails if a row was printed that the guide does not show. Numbers may differ by a tenth: XLA changes."""
    shown = rows(guide.read_text(encoding="utf-8"))
    printed_rows = rows(printed)
    assert printed_rows
    for row in printed_rows:
        assert any(_alike(row, other) for other in shown), row


def _alike(row: list[str], other: list[str]) -> bool:
    def same(one: str, two: str) -> bool:
        a, b = number(one), number(two)
        return one == two if a is None or b is None else a == pytest.approx(b, rel=0.1)

    return len(row) == len(other) and all(map(same, row, other))


def test_there_are_guides() -> None:
    assert [guide.name for guide in GUIDES] == ["memory.md", "scale.md"]


def test_the_guide_to_memory_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks(GUIDES[0]), GUIDES[0].name, "exec"), names)
    check_printed(GUIDES[0], capsys.readouterr().out)


@pytest.mark.slow
def test_the_guide_to_scale_prints_its_table_on_eight_devices() -> None:
    check_printed(GUIDES[1], run_on_devices(blocks(GUIDES[1]), 8))
