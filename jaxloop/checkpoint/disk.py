"""Files that outlive a power cut: what is written is synced and summed, and nothing outside of a folder is read."""

import contextlib
import os
import shutil
import zlib
from pathlib import Path, PurePosixPath

from jaxloop.durable import sync_folder
from jaxloop.errors import CorruptCheckpointError

_BLOCK = 1 << 20


def refuse_remote(directory: str | os.PathLike[str]) -> None:
    """Refuses an address such as `gs://bucket/run`: as a path it would silently be a folder on this machine.

    Raises:
      ValueError: `directory` is an address.
    """
    if "://" in os.fspath(directory):
        raise ValueError(
            f"checkpoint: a directory is a path on this machine, got {os.fspath(directory)!r}. Mount the bucket, and "
            "give the path where it is mounted."
        )


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file, and makes its content durable."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def summed(path: Path, *, size: int | None = None, sync: bool = False) -> tuple[int, int]:
    """Size and CRC-32 of a file, or of its first `size` bytes. With `sync` its content is made durable too."""
    crc = count = 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while got := file.readinto(block if size is None else block[: min(_BLOCK, size - count)]):
            crc = zlib.crc32(block[:got], crc)
            count += got
    return count, crc


def sums(folder: Path, *, sync: bool = False) -> dict[str, list[int]]:
    """Size and CRC-32 of each file in a folder and below, by relative path.

    Raises:
      CorruptCheckpointError: there is a link in it, or something that is neither file nor folder.
    """
    return {name: list(summed(folder / name, sync=sync)) for name in names(folder)}


def names(folder: Path) -> list[str]:
    """The files in a folder and below, as relative paths in order. Links are refused, see `sums`."""
    found: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            raise CorruptCheckpointError(
                f"checkpoint: {entry.path} is a link or a device. A checkpoint holds its own files only. Nothing of it "
                "was loaded."
            )
        below = names(Path(entry.path)) if entry.is_dir() else None
        found += [entry.name] if below is None else [f"{entry.name}/{name}" for name in below]
    return found


def sync_folders(folder: Path) -> None:
    """Makes the names in a folder and in those below durable."""
    for path, _, _ in os.walk(folder):
        sync_folder(Path(path))


def stays_inside(name: str) -> bool:
    """Whether a relative path with `/` leads to a file inside of its folder, and is written in one way only."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and str(path) == name
        and not {".", ".."} & set(path.parts)
        and not set("\\:\0") & set(name)
    )


def remove(folder: Path) -> None:
    """Removes a folder as far as it can be removed; what is left has a temporary name, and goes another time."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
