"""The example of several processes: what it prints and writes, and that it goes on with another number of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

SCRIPT = Path(__file__).parents[2] / "examples" / "multihost.py"


def begun(*flags: str, folder: Path) -> "subprocess.Popen[str]":
    """The script in a session of its own, so that all its processes can be ended with it."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def printed(process: "subprocess.Popen[str]", seconds: float = 240) -> list[str]:
    """The lines that it prints, in order; it must end well in time."""
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out
    # The library of collectives writes to stdout too.
    return sorted(line for line in out.splitlines() if not line.startswith("[Gloo]"))


def test_two_processes_that_sigterm_ends_go_on_as_one_and_learn_what_one_learns(tmp_path):
    alone = printed(begun("--epochs=4", "--folder=alone", folder=tmp_path))
    assert "Process 0 of 1: 1 devices, writes the files" in alone

    two = begun("--epochs=4", "--folder=shared", "--processes=2", folder=tmp_path)
    assert two.stdout is not None
    before = []
    for line in two.stdout:
        before.append(line.rstrip())
        if line.startswith("Epoch 2/4"):
            two.send_signal(signal.SIGTERM)
            break
    ended = printed(two)
    text = "\n".join(before)  # what two processes and Gloo print at once may stand in one line
    assert "Process 0 of 2: 4 devices, writes the files" in text
    assert "Process 1 of 2: 4 devices, writes nothing" in text
    assert not any("accuracy" in line for line in ended if line.startswith("Validation"))
    assert any(line.startswith("SIGTERM has come: the run was saved") for line in ended)
    rows = pd.read_csv(tmp_path / "shared" / "log.csv")
    assert len(rows) < len(pd.read_csv(tmp_path / "alone" / "log.csv"))

    after = printed(begun("--epochs=4", "--folder=shared", folder=tmp_path))
    assert any(line.startswith("Goes on from checkpoint") for line in after)
    assert [line for line in after if line.startswith("Validation accuracy")]
    curves = [pd.read_csv(tmp_path / name / "log.csv") for name in ("shared", "alone")]
    pd.testing.assert_frame_equal(*curves, rtol=2e-3, atol=5e-3)
