"""What the tests of the examples share: running a script as a user does, and where the data are."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

RunExample = Callable[..., str]
SameCurve = Callable[..., pd.DataFrame]
GoesOn = Callable[..., str]


@pytest.fixture(scope="session")
def run_example() -> RunExample:
    """Runs a script of examples/ in a folder of its own choice and gives back what it printed.

    With `devices` a CPU stands for as many.
    """

    def run(script: str, *flags: str, folder: Path, fails: bool = False, devices: int = 1) -> str:
        command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags]
        several = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        environment = os.environ | (several if devices > 1 else {})
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture
def same_curve(run_example: RunExample, tmp_path: Path) -> SameCurve:
    """Runs a script by single steps, then with three in a dispatch: their CSVs must agree, in every bit by default.

    `same_curve(script, *flags, tolerance=0.0)` gives back the rows of single steps. Unless the flags say otherwise, it
    takes two epochs and five batches in a phase, which three do not divide. The tolerance is relative.
    """

    def run(script: str, *flags: str, tolerance: float = 0.0) -> pd.DataFrame:
        curves = []
        for steps in (1, 3):
            folder = tmp_path / f"steps_{steps}"
            folder.mkdir()
            options = ["--epochs=2", "--limit-batches=5", *flags, f"--steps-per-dispatch={steps}", "--csv=log.csv"]
            run_example(script, *options, folder=folder)
            curves.append(pd.read_csv(folder / "log.csv"))
        single, fused = curves
        pd.testing.assert_frame_equal(fused, single, rtol=tolerance, atol=0)
        return single

    return run


@pytest.fixture
def goes_on(run_example: RunExample, tmp_path: Path) -> GoesOn:
    """Ends a script by SIGTERM and runs it again: its CSV and its last lines must be those of an uninterrupted run.

    `goes_on(script, *flags, after="Epoch  3/", last=1)` sends SIGTERM once a line that begins with `after` is printed.
    `last` is how many lines at the end tell the results. It gives back what the run that went on has printed.
    """

    def run(script: str, *flags: str, after: str, last: int = 1) -> str:
        whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
        results = run_example(script, *flags, f"--csv={whole}", folder=tmp_path).splitlines()[-last:]
        options = [*flags, f"--csv={parts}", f"--checkpoint-dir={tmp_path / 'checkpoints'}"]

        ended = _ended_by_sigterm(script, *options, after=after, folder=tmp_path)
        assert "SIGTERM has come" in ended.splitlines()[-1]
        assert 0 < parts.stat().st_size < whole.stat().st_size

        printed = run_example(script, *options, folder=tmp_path)
        assert printed.splitlines()[-last:] == results
        assert parts.read_bytes() == whole.read_bytes()

        again = run_example(script, *options, f"--plot={tmp_path / 'plot.png'}", folder=tmp_path)
        assert again.splitlines()[-last:] == results
        assert "Epoch" not in again
        assert parts.read_bytes() == whole.read_bytes()
        assert (tmp_path / "plot.png").stat().st_size > 0
        return printed

    return run


def _ended_by_sigterm(script: str, *flags: str, after: str, folder: Path) -> str:
    """What a script printed that SIGTERM has ended."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        printed = []
        for line in child.stdout:
            printed.append(line)
            if line.startswith(after):
                child.send_signal(signal.SIGTERM)
    assert child.returncode == 0, "".join(printed)
    return "".join(printed)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets that JAXLOOP_DATA names; without it the test is skipped."""
    named = os.environ.get("JAXLOOP_DATA")
    if not named:
        pytest.skip("JAXLOOP_DATA is not set: it names the folder that holds the data sets")
    return Path(named)


def _with(data_dir: Path, *folders: str) -> Path:
    """The data directory; where it lacks one of the folders the test is skipped."""
    for name in folders:
        if not (data_dir / name).is_dir():
            pytest.skip(f"JAXLOOP_DATA, {str(data_dir)!r}, has no folder {name}")
    return data_dir


@pytest.fixture(scope="session")
def mnist_dir(data_dir: Path) -> Path:
    """The folder that holds the folder mnist."""
    return _with(data_dir, "mnist")


@pytest.fixture(scope="session")
def cifar10_dir(data_dir: Path) -> Path:
    """The folder that holds the folder cifar10."""
    return _with(data_dir, "cifar10")


@pytest.fixture(scope="session")
def vocab_dir(data_dir: Path) -> Path:
    """The folder that holds the folder vocab."""
    return _with(data_dir, "vocab")


@pytest.fixture(scope="session")
def cola_dir(data_dir: Path) -> Path:
    """The folder that holds the folders cola and vocab."""
    return _with(data_dir, "cola", "vocab")


@pytest.fixture(scope="session")
def text_dir(data_dir: Path) -> Path:
    """The folder that holds the folders wikitext2 and vocab."""
    return _with(data_dir, "wikitext2", "vocab")
