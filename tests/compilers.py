"""Scripts that compile for a TPU or a GPU that is not there, each in a process of its own."""

import fcntl
import importlib.util
import tempfile
from pathlib import Path

import pytest

from tests.devices import run_elsewhere


def installed(extra: str) -> bool:
    """Whether the compiler of the extra `"tpu"` or `"cuda"` is installed."""
    if extra == "tpu":
        return importlib.util.find_spec("libtpu") is not None
    found = importlib.util.find_spec("jax_plugins")
    return found is not None and any(importlib.util.find_spec(f"jax_plugins.xla_cuda{one}") for one in (12, 13))


def run_compiling(script: str, extra: str, *, timeout: int = 600, **environment: str) -> str:
    """What `script` prints, where the compiler of the extra is installed. Elsewhere the test is skipped."""
    if not installed(extra):
        pytest.skip(f"the compiler is not installed: pip install '.[{extra}]'")
    with (Path(tempfile.gettempdir()) / "jaxloop_tests_of_libtpu").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # libtpu serves one process at a time
        return run_elsewhere(script, timeout, **{"JAX_PLATFORMS": "cpu"} | environment)
