"""The oracle sees each thing that a resume could lose, and names it."""

import json
from pathlib import Path

import pytest

from tests.reliability.mutations import CASES, MUTATIONS
from tests.reliability.oracle import recorded
from tests.reliability.running import run


@pytest.fixture(scope="module")
def lines(compiled: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the oracle finds, by what is lost."""
    folder: Path = tmp_path_factory.mktemp("mutations")
    recorded(folder, CASES, compiled)
    run(["-m", "tests.reliability.mutations", str(folder)], folder, limit=300.0, environment=compiled).expect(0)
    return json.loads((folder / "mutations.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_oracle_names_what_is_lost(lines: dict[str, list[str]], name: str) -> None:
    mutation, found = MUTATIONS[name], lines[name]
    assert bool(found) == bool(mutation.expected), found
    missing = [start for start in mutation.expected if not any(line.startswith(start) for line in found)]
    assert not missing, found
    assert not [line for line in found if line.startswith(mutation.equal)] or not mutation.equal, found
