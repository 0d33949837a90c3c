"""What the fault tests share: one folder for what their children compile."""

from collections.abc import Callable
from pathlib import Path

import pytest

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
