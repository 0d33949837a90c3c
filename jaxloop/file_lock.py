"""An exclusive lock on an open file, where the system and the file system have locks."""

import contextlib

try:
    import fcntl
except ModuleNotFoundError:  # as on Windows, where nothing tells two writers apart
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int) -> None:
    """Locks an open file; does nothing where there are no locks.

    Raises:
      BlockingIOError: another open file has the lock, in this process or another.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def unlock(descriptor: int) -> None:
    """Unlocks an open file. To close it is not enough: a forked process that still has it open would keep the lock."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
