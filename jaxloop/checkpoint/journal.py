"""A file that only grows, beside the checkpoints; each of them knows how much of it is its own."""

import os
import zlib
from pathlib import Path

from jaxloop.checkpoint.disk import summed
from jaxloop.durable import sync_folder
from jaxloop.errors import CorruptCheckpointError


class Journal:
    """A journal, open for appending at a given place. What follows that place in the file is cut off.

    Args:
      path: the path of the file. It is made if it is missing, and `size` is 0.
      size, crc: how many of its bytes to keep, and their CRC-32.

    Raises:
      CorruptCheckpointError: the file is shorter, or its bytes are others. It is left as it is.
      OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size: int = 0, crc: int = 0):
        self.path, self.size, self.crc = path, size, crc
        _refuse_link(path)
        self.check(path, size, crc)
        self._file = path.open("ab", 0)
        self._cut()
        sync_folder(path.parent)

    def append(self, content: bytes) -> None:
        """Appends `content` and makes it durable. If that fails, the file is as it was before.

        Raises:
          OSError: it cannot be written, for example on a full disk.
        """
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # a full disk first takes a part, and raises at the rest
            os.fsync(self._file.fileno())
        except BaseException:
            self._cut()
            raise
        self.size += len(content)
        self.crc = zlib.crc32(content, self.crc)

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path, size: int, crc: int) -> bytes:
        """The first `size` bytes of a journal.

        Raises:
          CorruptCheckpointError: the file is shorter, or its bytes have another CRC-32.
        """
        content = b""
        if size:
            _refuse_link(path)
            try:
                with path.open("rb") as file:
                    content = file.read(size)
            except OSError as error:
                raise _damaged(path, f"it cannot be read: {error}") from error
        _compare(path, (size, crc), (len(content), zlib.crc32(content)))
        return content

    @staticmethod
    def check(path: Path, size: int, crc: int) -> None:
        """Raises what `read` raises, and keeps nothing in memory."""
        if size == 0:
            return _compare(path, (size, crc), (0, 0))
        _refuse_link(path)
        try:
            found = summed(path, size=size)
        except OSError as error:
            raise _damaged(path, f"it cannot be read: {error}") from error
        return _compare(path, (size, crc), found)

    def _cut(self) -> None:
        if os.fstat(self._file.fileno()).st_size != self.size:
            self._file.truncate(self.size)
            os.fsync(self._file.fileno())


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise _damaged(path, "it is a link to another file")


def _compare(path: Path, wanted: tuple[int, int], found: tuple[int, int]) -> None:
    if found[0] != wanted[0]:
        raise _damaged(path, f"it has {found[0]} bytes, of {wanted[0]} that the checkpoint knows")
    if found != wanted:
        raise _damaged(path, f"its first {wanted[0]} bytes have the CRC {found[1]:08x}, not {wanted[1]:08x}")


def _damaged(path: Path, why: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"checkpoint: the journal {path} is damaged: {why}. Nothing was loaded.")
