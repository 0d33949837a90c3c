"""What is compared of two runs, all of it by its bits: the loop, the history without clocks, and the files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxloop as jl

KEPT = "outcome.json"
_CLOCKS = ("seconds", "examples_per_second")


def keep(folder: Path, loop: jl.Loop, history: jl.History) -> None:
    """Keeps what a run has given, for `outcome`: called in the process of the run."""
    text = json.dumps({"loop": _leaves(loop), "history": _columns(history), "stopped": history.stopped}, indent=1)
    part = folder / f"{KEPT}.part"
    part.write_text(text)
    part.replace(folder / KEPT)


def outcome(folder: Path, loop: jl.Loop | None = None, history: jl.History | None = None) -> dict[str, Any]:
    """All that is compared of the run in `folder`, as JSON has it.

    Args:
      folder: of the run, with its logs.
      loop: what it gave; None if that was kept there.
      history: likewise.
    """
    if loop is not None and history is not None:
        keep(folder, loop, history)
    kept = json.loads((folder / KEPT).read_text())
    return kept | {
        "csv": _text(folder / "log.csv").splitlines(),
        "trace": _text(folder / "trace.txt").splitlines(),
        "points": _points(folder / "tensorboard"),
    }


def differences(one: Any, other: Any) -> list[str]:
    """Where two outcomes differ, a line each; none if all bits are equal."""
    return list(_differences("", one, other))


def _differences(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            here = f"{path}/{name}"
            if name not in one or name not in other:
                yield f"{here}: only in the {'first' if name in one else 'second'}"
            else:
                yield from _differences(here, one[name], other[name])
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} against {len(other)}"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            if left != right:  # only the first: all after it may be shifted
                yield from _differences(f"{path}[{index}]", left, right)
                break
    elif one != other:
        yield f"{path}: {one!r} against {other!r}"


def _leaves(tree: Any) -> dict[str, Any]:
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        kind = str(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = _bits(leaf) | {"kind": kind, "weak": getattr(leaf, "weak_type", False)}
    return found


def _columns(history: jl.History) -> dict[str, Any]:
    tables: dict[str, Mapping[str, np.ndarray]] = {"epochs": history.epochs, "batches": history.batches}
    return {
        name: {column: _bits(values) for column, values in table.items() if column not in _CLOCKS}
        for name, table in tables.items()
    }


def _bits(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bits": array.tobytes().hex()}


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1") if path.exists() else ""


def abandoned(folder: Path) -> list[dict[str, Any]]:
    """The points of fits in `folder` before the last: those that were killed before anything was saved."""
    return [_points_of(fit) for fit in _fits(folder / "tensorboard")[:-1]]


def _points(root: Path) -> dict[str, Any]:
    """Each point that TensorBoard shows of the last fit, by phase and tag: [step, bits].

    A fit that is killed before its first checkpoint leaves its folder, and the next one begins another.
    """
    return {f"fit 0/{name}": points for fit in _fits(root)[-1:] for name, points in _points_of(fit).items()}


def _fits(root: Path) -> list[Path]:
    """The folder of each fit, which is named by its clock."""
    return sorted(root.iterdir()) if root.exists() else []


def _points_of(fit: Path) -> dict[str, Any]:
    from tests.event_files import read

    found: dict[str, Any] = {}
    for folder in sorted(path for path in fit.iterdir() if path.is_dir()):
        accumulator = read(folder)
        for tag in sorted(accumulator.Tags()["scalars"]):
            if tag.endswith(_CLOCKS):
                continue
            points = [[event.step, np.float32(event.value).tobytes().hex()] for event in accumulator.Scalars(tag)]
            found[f"{folder.name}/{tag}"] = points
    return found
