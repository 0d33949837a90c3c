"""Files that a run finds again after its process, or its machine, has stopped."""

import os
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive the machine, where the system can do that. Waits for the disk."""
    with suppress(OSError):  # a folder of others, or a system that syncs no folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_folders(folder: Path) -> None:
    """Makes the names in `folder`, and in all folders above it, outlive the machine, where the system can do that.

    A file that is synced can still be lost with its name. Waits for the disk.
    """
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        sync_folder(each)


def is_same_place(then: str, now: Path) -> bool:
    """Whether a path that was kept as text is the path `now`, seen from the folder in which the process runs.

    The text is kept as the user gave it, so that a project can be moved as a whole: a relative path is then the same.
    Another spelling of a path, and a link to it, are the same too.

    Example:
      >>> is_same_place("run/log.csv", Path("./run/log.csv")), is_same_place("run/log.csv", Path("log.csv"))
      (True, False)
    """
    return Path(then) == now or os.path.realpath(then) == os.path.realpath(now)
