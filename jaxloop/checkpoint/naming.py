"""The names in a directory of checkpoints: what is a checkpoint, what is temporary, which number comes next."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxloop.checkpoint.manifest import NAME

ARRAYS = "arrays"
LOCK = "lock"
_OURS = re.compile(r"(\d{8,})(\.writing|\.removing|\.damaged(?:-\d+)?)?")
_JOURNAL = re.compile(r"[A-Za-z0-9_-]+")


def committed(directory: Path) -> dict[int, Path]:
    """The folder of each checkpoint that was committed, by its ordinal, ascending; whether it is whole is not checked.

    A checkpoint gets its name as the last thing, so a folder of that name with our content was committed, even if its
    manifest is gone now. Empty folders, links and whatever has another name are none of ours.
    """
    found = {}
    for ordinal, suffix, entry in _ours(directory):
        path = Path(entry.path)
        if not suffix and entry.is_dir(follow_symlinks=False) and ((path / NAME).exists() or (path / ARRAYS).exists()):
            found[ordinal] = path
    return dict(sorted(found.items()))


def temporaries(directory: Path) -> list[Path]:
    """Folders that a kill has left: half written, or half removed."""
    return sorted(
        Path(entry.path)
        for _, suffix, entry in _ours(directory)
        if suffix in (".writing", ".removing") and entry.is_dir(follow_symlinks=False)
    )


def damaged(directory: Path) -> list[Path]:
    """What was moved aside, since it was damaged when a run went on."""
    return sorted(Path(entry.path) for _, suffix, entry in _ours(directory) if suffix.startswith(".damaged"))


def next_ordinal(directory: Path) -> int:
    """A number greater than that of anything here, whole or not: no number is used twice."""
    return max((ordinal for ordinal, _, _ in _ours(directory)), default=0) + 1


def path_of(directory: Path, ordinal: int) -> Path:
    """Where the checkpoint with this ordinal lies once it is committed."""
    return directory / f"{ordinal:08d}"


def writing(path: Path) -> Path:
    """Where the checkpoint lies until it is committed to `path`."""
    return path.with_name(f"{path.name}.writing")


def removing(path: Path) -> Path:
    """Where the checkpoint lies while it is removed."""
    return path.with_name(f"{path.name}.removing")


def aside(path: Path) -> Path:
    """A free name for a damaged checkpoint that makes room."""
    name, count = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(name):
        count += 1
        name = path.with_name(f"{path.name}.damaged-{count}")
    return name


def journal_path(directory: Path, name: str) -> Path:
    """Where the journal of this name lies.

    Raises:
      ValueError: the name could lead elsewhere.
    """
    if not _JOURNAL.fullmatch(name):
        raise ValueError(f"checkpoint: the name of a journal is made of letters, digits, `_` and `-`, got {name!r}.")
    return directory / f"{name}.journal"


def _ours(directory: Path) -> Iterator[tuple[int, str, "os.DirEntry[str]"]]:
    """Ordinal, suffix and entry of what has a name such as we give; nothing if there is no such directory."""
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if match := _OURS.fullmatch(entry.name):
                yield int(match[1]), match[2] or "", entry
