"""Scripts that need several processes: each is started with virtual devices of its own, and they know of each other."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The library of collectives writes to stdout by itself: that goes to stderr.
_PREAMBLE = """
import os
import sys

sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    coordinator_address="127.0.0.1:{port}", num_processes={count}, process_id={index}, initialization_timeout=60
)
"""
# A collective that one process never joins ends all of them, long before the time limit of a test.
_FLAGS = (
    "--xla_force_host_platform_device_count={devices} --xla_cpu_collective_call_warn_stuck_timeout_seconds=10 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=20"
)


@dataclass(frozen=True)
class Ran:
    """What became of one process.

    Attributes:
      returncode: negative if a signal ended it; -9 also if the time was over.
      stdout, stderr: what it wrote.
    """

    returncode: int
    stdout: str
    stderr: str


def run_on_processes(
    script: str,
    count: int = 2,
    devices: int = 4,
    timeout: float = 120,
    *,
    arguments: Sequence[str] = (),
) -> list[Ran]:
    """Runs `script` in `count` processes at once, each with `devices` CPU devices. At the time limit all are killed.

    JAX is initialized when the script begins, so `jax.process_index()` says which process it is. The backend is not
    started yet.

    Args:
      script: Python; it may be indented as a whole.
      count: of processes.
      devices: of each process.
      timeout: seconds, for all of them together.
      arguments: `sys.argv[1:]` of each.

    Returns:
      What became of each process, in their order.
    """
    root, port = Path(__file__).parents[1], _free_port()
    environment = os.environ | {
        "XLA_FLAGS": _FLAGS.format(devices=devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    with tempfile.TemporaryDirectory(prefix="jaxloop-processes-") as folder, contextlib.ExitStack() as stack:
        started: list[tuple[subprocess.Popen[bytes], Path, Path]] = []
        try:
            for index in range(count):
                preamble = _PREAMBLE.format(port=port, count=count, index=index)
                # Files, since a process that fills a pipe that nobody reads would wait for ever.
                out, error = Path(folder, f"{index}.out"), Path(folder, f"{index}.err")
                files: dict[str, Any] = {
                    "stdout": stack.enter_context(out.open("wb")),
                    "stderr": stack.enter_context(error.open("wb")),
                }
                command = [sys.executable, "-c", preamble + textwrap.dedent(script), *arguments]
                process = subprocess.Popen(command, env=environment, cwd=root, stdin=subprocess.DEVNULL, **files)
                started.append((process, out, error))
            _wait([process for process, _, _ in started], timeout)
        finally:
            for process, _, _ in started:
                process.kill()
                process.wait()
        return [Ran(process.returncode, _text(out), _text(error)) for process, out, error in started]


def check_all_ended_well(ran: Sequence[Ran]) -> None:
    """Fails the test if a process did not end with 0; what each wrote is told."""
    told = "\n".join(
        f"--- process {index}: {one.returncode}\n{one.stdout[-4000:]}\n{one.stderr[-8000:]}"
        for index, one in enumerate(ran)
    )
    assert all(one.returncode == 0 for one in ran), told


def _wait(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> None:
    end = time.monotonic() + timeout
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
