"""Scripts that need several devices: a process of their own, in which a CPU stands for as many."""

import os
import subprocess
import sys
from pathlib import Path


def run_on_devices(script: str, count: int, *, timeout: int = 300) -> str:
    """What `script` prints where JAX sees `count` CPU devices; what it raises there fails the test."""
    root = Path(__file__).parents[1]
    flags = f"--xla_force_host_platform_device_count={count}"
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root)},
        cwd=root,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
