"""One writer has the lock, in this process or another, and it ends with that writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxloop.checkpoint.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from jaxloop.checkpoint.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
#: A process that takes the lock, forks a child that outlives it, and dies without letting go.
FORK = """
import os, sys, time
from pathlib import Path
from jaxloop.checkpoint.lock import Lock
lock = Lock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(0.2)
os._exit(1)
"""


def started(script: str, path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_a_second_writer_in_this_process_waits_for_no_one(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        Lock(tmp_path / "lock")
    lock.release()
    lock.release()
    Lock(tmp_path / "lock").release()


def test_another_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    with started(HOLD, tmp_path / "lock") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            Lock(tmp_path / "lock")
        process.kill()
        process.wait(timeout=30)
    Lock(tmp_path / "lock").release()


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    with started(FORK, tmp_path / "lock") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.wait(timeout=30)
            Lock(tmp_path / "lock").release()
        finally:
            os.kill(child, signal.SIGKILL)
