"""The API pages hold each public name, with its source."""

import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import jaxloop as jl
from tests.test_public_names import ROOMS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_each_public_name_has_its_place(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    subprocess.run([ROOT / ".ci" / "docs", tmp_path], check=True, cwd=tmp_path, timeout=300)
    pages = {page: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    sections = set(re.findall(r'<section id="([^".]+)"', "".join(pages.values())))
    for room in ROOMS:
        names = importlib.import_module(room).__all__
        things = [name for name in names if not inspect.ismodule(getattr(importlib.import_module(room), name))]
        assert set(things) <= sections, room
    methods = {name for name in dir(jl.TrainingLoop) if not name.startswith("_")}  # some come from its base
    assert methods <= set(re.findall(r'id="(?:TrainingLoop|ByHand)\.(\w+)"', "".join(pages.values())))
    first = pages[tmp_path / "jaxloop.html"]
    assert "View Source" in first
    assert "Arguments:" in first
    assert "Submodules" in first
    assert not [page for page, text in pages.items() if '<span class="n">_jax</span>' in text]  # types by public names
    shapes = pages[tmp_path / "jaxloop" / "schedules" / "shapes.html"]
    sections = re.findall(r'<section id="(?:linear|cosine|exponential)">.*?</section>', shapes, re.DOTALL)
    assert ["docstring" in section for section in sections] == [True] * 3
    assert not re.findall(r'id="\w+\.host_declaration"', "".join(pages.values()))
