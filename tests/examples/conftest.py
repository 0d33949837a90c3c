"""What the tests of the examples share: running a script as a user does, and where the data are."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

RunExample = Callable[..., str]


@pytest.fixture(scope="session")
def run_example() -> RunExample:
    """Runs a script of examples/ in a folder of its own choice and gives back what it printed."""

    def run(script: str, *flags: str, folder: Path, fails: bool = False) -> str:
        command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets that JAXLOOP_DATA names; without it the test is skipped."""
    named = os.environ.get("JAXLOOP_DATA")
    if not named:
        pytest.skip("JAXLOOP_DATA is not set: it names the folder that holds the data sets")
    return Path(named)


@pytest.fixture(scope="session")
def mnist_dir(data_dir: Path) -> Path:
    """The folder that holds the folder mnist; where there is none the test is skipped."""
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"JAXLOOP_DATA, {str(data_dir)!r}, has no folder mnist")
    return data_dir
