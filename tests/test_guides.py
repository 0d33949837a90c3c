"""Each block of Python in the guides runs, and what it prints is what the guide says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxloop.testing import check_callback
from tests.callbacks import offline
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


def check_lines(guide: Path, printed: str) -> None:
    """Fails unless what was printed is, line by line, what the guide shows as text, but for a tenth in each number."""
    shown = "\n".join(re.findall(r"^```text\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    lines = [line for line in shown.splitlines() if line]
    assert len(printed.splitlines()) == len(lines), printed
    for line, expected in zip(printed.splitlines(), lines, strict=True):
        assert re.sub(_NUMBER, "#", line) == re.sub(_NUMBER, "#", expected)
        numbers, others = (list(map(float, re.findall(_NUMBER, text))) for text in (line, expected))
        assert numbers == pytest.approx(others, rel=0.1), line


_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
#: Guides that show a table of what they print; the others show it as text.
TABLES = ("memory.md", "metrics_and_losses.md", "scale.md", "trackers.md")
QUICK = ("data.md",)
TRACKERS = next(guide for guide in GUIDES if guide.name == "trackers.md")
#: Guides that need packages which the library itself does not.
NEEDS = {"models.md": ("equinox", "haiku")}


def guide_of(name: str) -> Path:
    (found,) = [guide for guide in GUIDES if guide.name == name]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory.md", "metrics_and_losses.md"])
def test_a_guide_prints_its_tables(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    guide = guide_of(name)
    exec(compile(blocks(guide), guide.name, "exec"), {})
    printed = capsys.readouterr().out
    if name != "memory.md" or jax.__version_info__ < (0, 11):  # its figures are those of one compiler
        check_printed(guide, printed)


@pytest.mark.slow
def test_the_guide_to_scale_prints_its_table_on_eight_devices() -> None:
    guide = guide_of("scale.md")
    check_printed(guide, run_on_devices(blocks(guide), 8))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(guide.name, marks=() if guide.name in QUICK else (pytest.mark.slow,))
        for guide in GUIDES
        if guide.name not in TABLES
    ],
)
def test_a_guide_prints_what_it_shows(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # of processes that a guide starts
    guide = guide_of(name)
    exec(compile(blocks(guide), guide.name, "exec"), {"__name__": "guide"})
    check_lines(guide, capsys.readouterr().out)


@pytest.fixture(scope="module")
def trackers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The names that the guide to trackers leaves, and what it prints, run once in a folder of its own, offline."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install '.[wandb]'")
    pytest.importorskip("sqlalchemy", reason="MLflow's databases need sqlalchemy: pip install '.[mlflow]'")
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        for name, value in offline.ENVIRONMENT.items():
            patched.setenv(name, value)
        patched.chdir(tmp_path_factory.mktemp("guide"))
        exec(compile(blocks(TRACKERS), TRACKERS.name, "exec"), names)
    return names, printed.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings(*offline.WARNINGS)
def test_the_guide_to_trackers_prints_its_table(trackers: tuple[dict[str, Any], str]) -> None:
    names, printed = trackers
    check_printed(TRACKERS, printed)
    assert len(names["lines"]) == len(names["history"].batches["step"]) + len(names["history"].epochs["epoch"])


@pytest.mark.slow
@pytest.mark.filterwarnings(*offline.WARNINGS)
def test_the_logger_in_the_guide_to_trackers_goes_on_after_a_kill(trackers: tuple[dict[str, Any], str]) -> None:
    check_callback(lambda folder: trackers[0]["JSONLogger"](folder / "log.jsonl"), every=3)
