"""What the fault tests share: one folder for what their children compile."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.cases import Case
from tests.reliability.oracle import Consulted, consulted
from tests.reliability.outcomes import outcome
from tests.reliability.running import Decide, Ended, compiled_in, nothing, run
from tests.reliability.training import Options


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables by which the children of this run of the tests compile each program once."""
    return compiled_in(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def train(compiled: dict[str, str]) -> Callable[..., Ended]:
    """Runs the reference run in a folder, as a child: `train(folder, Options(...), decide=at("step 5"))`."""

    def train(folder: Path, options: Options, *, decide: Decide = nothing, limit: float = 120.0) -> Ended:
        return run(options.as_arguments(folder), folder, decide=decide, limit=limit, environment=compiled)

    return train


@pytest.fixture(scope="session")
def uninterrupted(train: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Gives the outcome of the reference run that nothing happens to, by its options; each is run once."""
    known: dict[Options, Any] = {}

    def uninterrupted(options: Options) -> Any:
        if options not in known:
            folder = tmp_path_factory.mktemp("uninterrupted")
            train(folder, options).expect(0)
            known[options] = outcome(folder)
        return known[options]

    return uninterrupted


@pytest.fixture(scope="session")
def consult(compiled: dict[str, str]) -> Callable[[Path, dict[str, Case]], Consulted]:
    """Asks the oracle about cases: `consult(folder, {"name": Case(...)})`."""
    return functools.partial(consulted, environment=compiled)
