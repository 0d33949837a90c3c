"""The harness of the fault tests: exact points, hard limits, and nothing left of a child."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reliability.pipes import PIPES
from tests.reliability.running import ROOT, at, run

#: Stands in for a fit.
COUNT = """
from tests.reliability.pipes import announce

for number in range(1, 6):
    print(number, flush=True)
    announce(f"step {number}")
print("over", flush=True)
"""


def test_a_child_goes_through_all_its_points(tmp_path: Path) -> None:
    ended = run(["-c", COUNT], tmp_path).expect(0)
    assert ended.points == [f"step {number}" for number in range(1, 6)]
    assert ended.stdout.split() == ["1", "2", "3", "4", "5", "over"]
    assert 0 < ended.cpu_seconds < 60


def test_a_kill_at_a_point_lets_nothing_happen_after_it(tmp_path: Path) -> None:
    ended = run(["-c", COUNT], tmp_path, decide=at("step 3")).expect(-signal.SIGKILL)
    assert ended.points == ["step 1", "step 2", "step 3"]
    assert ended.stdout.split() == ["1", "2", "3"]


def test_a_handler_runs_before_the_child_goes_on(tmp_path: Path) -> None:
    handler = "import signal\nsignal.signal(signal.SIGTERM, lambda number, frame: print('handled', flush=True))\n"
    ended = run(["-c", handler + COUNT], tmp_path, decide=at("step 3", signal.SIGTERM)).expect(0)
    assert ended.stdout.split() == ["1", "2", "3", "handled", "4", "5", "over"]


def test_a_point_can_be_chosen_among_like_ones(tmp_path: Path) -> None:
    twice = COUNT.replace('f"step {number}"', '"step"')
    ended = run(["-c", twice], tmp_path, decide=at("step", time=4)).expect(-signal.SIGKILL)
    assert ended.stdout.split() == ["1", "2", "3", "4"]


def test_a_child_that_runs_past_its_limit_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(100)
"""
    began = time.monotonic()
    ended = run(["-c", script], tmp_path, limit=2)
    assert ended.status is None
    assert time.monotonic() - began < 30
    _is_gone(int(ended.stdout))


def test_what_a_child_leaves_behind_is_killed(tmp_path: Path) -> None:
    script = "import os, time\nchild = os.fork()\nprint(child, flush=True) if child else time.sleep(100)"
    _is_gone(int(run(["-c", script], tmp_path).expect(0).stdout))


def _is_gone(process: int) -> None:
    for _ in range(200):  # it is buried by the init process, in its own time
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"{process} lives")


def test_a_failure_shows_what_the_child_said(tmp_path: Path) -> None:
    ended = run(["-c", COUNT + "raise KeyError('the fault')"], tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)ended with status 1, not with 0.*step 5.*over.*the fault"):
        ended.expect(0)
    late = run(["-c", "import time; print('begun', flush=True); time.sleep(100)"], tmp_path, limit=1)
    with pytest.raises(AssertionError, match=r"(?s)ran past its limit.*begun"):
        late.expect(0)


def test_a_child_whose_parent_is_gone_ends(tmp_path: Path) -> None:
    (reading, writing), (answers, ours) = os.pipe(), os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", COUNT],
        cwd=ROOT,
        env=os.environ | {PIPES: f"{writing},{answers}"},
        stdout=subprocess.DEVNULL,
        pass_fds=(writing, answers),
    )
    assert os.read(reading, 100) == b"step 1\n"
    for descriptor in (answers, ours, reading, writing):
        os.close(descriptor)
    assert child.wait(30) == 99


def test_without_a_parent_nothing_is_announced() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "over")
