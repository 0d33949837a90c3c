"""A lock that one writer has, in this process or another, and that ends with it."""

import os
import weakref
from pathlib import Path

from jaxloop.file_lock import lock, unlock


class Lock:
    """An exclusive lock on a file, which is made if it is missing and stays.

    Raises:
      BlockingIOError: another writer has it.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path):
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(self._descriptor)
        except BaseException:
            self.leave()
            raise
        _held.add(self)

    def release(self) -> None:
        """Unlocks the file, and closes it."""
        if self._descriptor is not None:
            unlock(self._descriptor)
        self.leave()

    def leave(self) -> None:
        """Closes the file without unlocking it: what a forked process does, so that the lock ends with its owner."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _leave_all() -> None:
    for held in list(_held):
        held.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
