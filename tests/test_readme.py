"""The README's example does what the README says it does."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    text = README.read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    shown = text.split("prints\n\n```\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})

    def shape(output: str) -> list[str]:
        """The lines with their measured numbers left out, which differ by machine and version."""
        return [re.sub(r"[\d.,]+(e[+-]\d+)?", "#", line) for line in output.splitlines()]

    printed = capsys.readouterr().out
    assert shape(printed)[-7:] == shape(shown)[-7:]
    assert len(printed.splitlines()) == len(shown.splitlines())
    assert (tmp_path / "run" / "log.csv").read_text(encoding="utf-8").splitlines()[0] in text
