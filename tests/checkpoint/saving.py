"""A tiny run to save, and what makes checkpoints of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.checkpoint.leaves import flattened, rebuilt
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.checkpoint.writer import Writer


def tree(seed: int = 0) -> dict[str, Any]:
    """Arrays, a typed key and a host scalar."""
    random = np.random.default_rng(seed)
    return {
        "params": {"kernel": jnp.asarray(random.normal(size=(4, 3)).astype(np.float32)), "bias": jnp.zeros(3)},
        "key": jax.random.key(seed),
        "step": np.int32(seed),
    }


def save(directory: Path, count: int = 1, *, keep: int = 10, **options: Any) -> list[Saved]:
    """Saves `tree(1)`, `tree(2)`, ... and a journal that grows by a letter with each."""
    writer = Writer(directory, keep=keep, **options)
    try:
        for number in range(1, count + 1):
            letter = {"rows": bytes([96 + number])}
            writer.write(flattened(tree(number)), {"step": number}, value=None, appended=letter, wait=True)
    finally:
        writer.close()
    return Store(directory).checkpoints()


def load(saved: Saved, template: Any = None) -> Any:
    """The tree of a checkpoint, after it was verified."""
    return rebuilt(saved.manifest()["leaves"], saved.arrays(), tree() if template is None else template)


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, to see that nothing was touched."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def write(writer: Writer, number: int, **options: Any) -> None:
    """Saves `tree(number)`, and waits unless told otherwise."""
    writer.write(flattened(tree(number)), {"step": number}, **({"wait": True} | options))


def ordinals(directory: Path) -> list[int]:
    return [saved.ordinal for saved in Store(directory).checkpoints()]


def ran(script: str, directory: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Runs `script` with the directory as its argument, in a process of its own."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
