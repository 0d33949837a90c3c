"""Runs a script as a child with a hard limit, and ends or signals it at a point of its progress."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.pipes import PIPES

ROOT = Path(__file__).parents[2]
_POLL = 0.05  # seconds
_SHOWN = 6000  # characters of each stream, in a failure

#: Is told of each point that the child announces. What it gives is sent to the child before it may go on.
Decide = Callable[[str], signal.Signals | None]


@dataclass(frozen=True)
class Ended:
    """A child that has ended.

    Attributes:
      status: what it exited with; the negative number of the signal that killed it; None if it ran past its limit.
      points: what it announced, in order.
      cpu_seconds: of the child and those of its own children that it has waited for.
      stdout: what it wrote.
      stderr: what it wrote there.
    """

    status: int | None
    points: list[str]
    cpu_seconds: float
    stdout: str
    stderr: str

    def expect(self, status: int) -> "Ended":
        """Itself, if it ended so.

        Raises:
          AssertionError: it ended otherwise; the message holds all that it said.
        """
        if self.status != status:
            how = "ran past its limit" if self.status is None else f"ended with status {self.status}"
            raise AssertionError(
                f"the child {how}, not with {status}, after {self.points[-5:]}\n"
                f"--- standard output\n{self.stdout[-_SHOWN:]}\n--- standard error\n{self.stderr[-_SHOWN:]}"
            )
        return self


def at(point: str, sent: signal.Signals = signal.SIGKILL, *, time: int = 1) -> Decide:
    """Sends a signal when the child is at `point`.

    Args:
      point: as it is announced, to the letter.
      sent: the signal. The child is answered after it, so a handler of Python's runs before it goes on.
      time: the how many-th such point, counted from 1.
    """
    count = 0

    def decide(announced: str) -> signal.Signals | None:
        nonlocal count
        count += announced == point
        return sent if announced == point and count == time else None

    return decide


def compiled_in(folder: Path) -> dict[str, str]:
    """Variables by which children keep what they compile in a folder, so that only the first of them compiles.

    A child that is killed while it writes there would leave half a file. Points are announced on the thread that
    compiles, so that no kill at a point comes then.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def nothing(point: str) -> None:
    """Lets the child go on."""


def run(
    command: Sequence[str],
    folder: Path,
    *,
    decide: Decide = nothing,
    limit: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Runs Python with the arguments `command`, and kills all that is left of it, whatever happens.

    Args:
      command: such as `["-m", "tests.reliability.training", ...]` or `["-c", script]`.
      folder: where its output is kept, in `stdout` and `stderr`, which are replaced.
      decide: what happens at the points that it announces.
      limit: seconds. Then it is killed, and its `status` is None.
      environment: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("stdout", "stderr")]
    (points_out, points_in), (answers_out, answers_in) = os.pipe(), os.pipe()
    ours, theirs = (points_out, answers_in), (points_in, answers_out)
    found_in = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {"PYTHONPATH": found_in, "JAX_PLATFORMS": "cpu", PIPES: f"{points_in},{answers_out}"}
    try:
        with paths[0].open("wb") as stdout, paths[1].open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | variables | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=theirs,
                start_new_session=True,
            )
        points: list[str] = []
        try:
            in_time = _followed(process.pid, ours, decide, time.monotonic() + limit, points)
        finally:
            status, cpu_seconds = _buried(process)
    finally:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)
    said = [path.read_text(errors="replace") for path in paths]
    return Ended(status if in_time else None, points, cpu_seconds, *said)


def _followed(child: int, pipes: tuple[int, int], decide: Decide, end: float, points: list[str]) -> bool:
    """Answers the child until it ends, and notes its points; False if that is not by `end`."""
    read, answer = pipes
    begun = b""
    while time.monotonic() < end:
        ready, _, _ = select.select([read], [], [], _POLL)
        if not ready:
            if _is_over(child):
                return True
            continue
        *lines, begun = (begun + os.read(read, 4096)).split(b"\n")
        for line in lines:
            points.append(line.decode())
            sent = decide(points[-1])
            if sent is not None:
                os.kill(child, sent)
            if sent is not signal.SIGKILL:
                os.write(answer, b".")
    return False


def _is_over(child: int) -> bool:
    """Whether it has ended. Its number stays taken until it is buried."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _buried(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Kills the child and all that it has started; gives its status and its CPU seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
