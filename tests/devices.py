"""Scripts that need several devices: a process of their own, in which a CPU stands for as many."""

import os
import subprocess
import sys
from pathlib import Path


def run_on_devices(script: str, count: int, *, timeout: int = 300) -> str:
    """What `script` prints where JAX sees `count` CPU devices; what it raises there fails the test."""
    return run_elsewhere(script, timeout, XLA_FLAGS=f"--xla_force_host_platform_device_count={count}")


def run_elsewhere(script: str, timeout: int, **environment: str) -> str:
    """What `script` prints in a process of its own; what it raises there fails the test."""
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        cwd=root,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
