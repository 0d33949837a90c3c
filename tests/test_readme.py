"""The README is one page, its example does what it says, and what it links to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "examples").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


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


def links(page: Path) -> list[str]:
    """What a page links to and does not lie on another machine."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not link.startswith(("http", "#"))]


def test_it_is_one_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_it_links_to_each_guide() -> None:
    guides = {f"examples/guides/{guide.name}" for guide in (ROOT / "examples" / "guides").glob("*.md")}
    assert guides <= set(links(README))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in links(page):
        path, _, heading = link.partition("#")
        linked = page.parent / path
        assert linked.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link
