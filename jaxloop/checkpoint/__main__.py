"""The checkpoints in a directory as a table for people: `python -m jaxloop.checkpoint DIRECTORY [--verify]`."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxloop.checkpoint.naming import damaged, temporaries
from jaxloop.checkpoint.retention import best
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.errors import CheckpointError

_HEADS = ("checkpoint", "step", "epoch", "where", "size", "age", "note")
_RIGHT = frozenset(("step", "epoch", "size", "age"))


@dataclass
class Row:
    """What the table shows of a checkpoint.

    Attributes:
      saved: the checkpoint.
      manifest: what it holds; empty if its manifest is damaged.
      error: what is wrong with it; empty if nothing was found.
      notes: what else there is to say.
    """

    saved: Saved
    manifest: dict[str, Any]
    error: str = ""
    notes: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Gives the exit status: 0, 1 if a checkpoint is damaged, 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m jaxloop.checkpoint", description="Lists the checkpoints of a run.")
    parser.add_argument("directory", help="the directory that `Checkpoint(directory)` was given")
    parser.add_argument("--verify", action="store_true", help="read every file and array, and compare: takes a while")
    given = parser.parse_args(arguments)
    try:
        checkpoints = Store(given.directory).checkpoints()
    except (ValueError, OSError) as error:
        return _none(str(error))
    directory = Path(given.directory)
    if not directory.is_dir():
        return _none(f"{directory} is no directory. Give the one that `Checkpoint(directory)` was given.")
    if not checkpoints:
        return _none(_empty(directory))
    rows = [_row(saved, verify=given.verify) for saved in checkpoints]
    _mark_best(rows)
    print(_table([_HEADS, *map(_cells, rows), *map(_other, _others(directory))]))
    print()
    for line in _advice(rows, directory, verified=given.verify):
        print(line)
    return 1 if any(row.error for row in rows) else 0


def _none(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _empty(directory: Path) -> str:
    left = [path.name for path in temporaries(directory)]
    if left:
        return (
            f"{directory} holds no checkpoint, only {', '.join(left)}: a save under way, or one that was killed. "
            "If no fit runs, begin again: the next fit removes it."
        )
    return f"{directory} holds no checkpoint. Give the directory that `Checkpoint(directory)` was given."


def _row(saved: Saved, *, verify: bool) -> Row:
    row = Row(saved, {})
    try:
        row.manifest = saved.manifest()
        if verify:
            if any(leaf["dtype"] in ("int64", "uint64", "float64", "complex128") for leaf in row.manifest["leaves"]):
                jax.config.update("jax_enable_x64", True)
            saved.arrays()
            row.notes.append("verified")
    except CheckpointError as error:
        row.error = str(error).removeprefix("checkpoint: ")
        row.notes.append("DAMAGED")
    except (MemoryError, jax.errors.JaxRuntimeError):
        row.notes.append("not verified: its arrays do not fit in memory")
    return row


def _mark_best(rows: list[Row]) -> None:
    """Notes the best checkpoint, by what the newest says is better."""
    by = next((row.manifest["best"] for row in reversed(rows) if row.manifest), None)
    if by is None:
        return
    alike = {row.saved.ordinal: row for row in rows if row.manifest and (row.manifest["best"] or [None])[0] == by[0]}
    found = best({ordinal: row.manifest["value"] for ordinal, row in alike.items()}, by[1])
    if found is not None:
        alike[found].notes.insert(0, _plain(f"best {by[0]}: {alike[found].manifest['value']:.6g}"))


def _cells(row: Row) -> tuple[str, ...]:
    about = row.manifest.get("about")
    about = about if isinstance(about, dict) else {}
    files = row.manifest.get("files", {})
    return (
        row.saved.path.name,
        *(_plain(str(about.get(name, ""))) for name in ("step", "epoch", "where")),
        _size(sum(size for size, _ in files.values())) if files else "",
        _age(about.get("saved_at")),
        ", ".join(row.notes),
    )


def _others(directory: Path) -> list[tuple[str, str]]:
    """What lies there besides, and what it is."""
    temporary = [(path.name, "a save under way, or one that was killed") for path in temporaries(directory)]
    return temporary + [(path.name, "damaged, and moved aside") for path in damaged(directory)]


def _other(named: tuple[str, str]) -> tuple[str, ...]:
    return (named[0], "", "", "", "", "", named[1])


def _advice(rows: list[Row], directory: Path, *, verified: bool) -> list[str]:
    """What is wrong, and what to do next."""
    lines = [f"{row.saved.path.name}: {_plain(row.error)}" for row in rows if row.error]
    good = [row for row in rows if not row.error]
    if not good:
        return [*lines, "None can be used. Restore the folder from a copy, or begin again in another directory."]
    lines.append(
        f"To go on from {good[-1].saved.path.name}: fit(..., resume_from={str(directory)!r})"
        + ("; newer ones are moved aside then." if good[-1] is not rows[-1] else "")
    )
    return lines if verified else [*lines, "Only the manifests were read. To read the files and arrays too: --verify"]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows in columns; those that are empty in all rows are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    padded = []
    for head, *cells in columns:
        width = max(map(len, (head, *cells)))
        adjust = str.rjust if head in _RIGHT else str.ljust
        padded.append([adjust(cell, width) for cell in (head, *cells)])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _age(saved_at: Any) -> str:
    if isinstance(saved_at, bool) or not isinstance(saved_at, int | float):
        return ""
    seconds = max(0.0, time.time() - saved_at)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(text: str) -> str:
    """The text without what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # a training run may hold the accelerator
    sys.exit(main())
