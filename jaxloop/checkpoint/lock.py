"""A lock that one writer has, in this process or another, and that ends with it."""

import contextlib
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # as on Windows, where nothing tells two writers apart
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An exclusive lock on a file, which is made if it is missing and stays.

    Raises:
      BlockingIOError: another writer has it.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path):
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._descriptor)
        except BaseException:
            self.leave()
            raise
        _held.add(self)

    def release(self) -> None:
        """Unlocks the file. It does so by name: a forked process that still has the file open would keep the lock."""
        if self._descriptor is not None and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.leave()

    def leave(self) -> None:
        """Closes the file without unlocking it: what a forked process does, so that the lock ends with its owner."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _leave_all() -> None:
    for lock in list(_held):
        lock.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


def _lock(descriptor: int) -> None:
    """Locks an open file, if its file system has locks."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
