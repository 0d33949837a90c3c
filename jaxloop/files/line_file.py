"""A file of whole lines that only one writer can have at a time."""

import os
import zlib
from pathlib import Path

from jaxloop.durable import sync_folders
from jaxloop.file_lock import lock, unlock

_BLOCK = 65536


class LineFile:
    """A text file that whole lines are appended to. It is made if it is missing, and locked against other writers.

    A write goes to the operating system at once and in one piece: its lines outlive the process. A write that fails,
    for example on a full disk, leaves the file as it was before.

    Args:
      path: the path of the file.

    Raises:
      BlockingIOError: another writer has the file, in this process or another.
      OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self._folder: Path | None = path.parent  # until its name in it is durable
        self._file = path.open("ab+", 0)
        try:
            lock(self._file.fileno())
        except BaseException:
            self._file.close()
            raise
        self._size = self._length()
        self._marked = (0, 0)  # the length and the checksum that were asked for last

    @property
    def size(self) -> int:
        """How many bytes it has, without what other programs have written to it since it was opened."""
        return self._size

    def first_line(self) -> bytes:
        """The first line, with its newline if it has one; empty if the file is empty."""
        line = b""
        while b"\n" not in line and (block := self._read(len(line), _BLOCK)):
            line += block
        return line[: line.find(b"\n") + 1] or line

    def empty(self) -> None:
        """Removes everything in the file."""
        self._cut(0)

    def cut_torn_line(self) -> None:
        """Removes what follows the last newline: a line that a kill or a full disk has cut off."""
        end = self._size
        while end > 0:
            start = max(0, end - _BLOCK)
            newline = self._read(start, end - start).rfind(b"\n")
            if newline >= 0:
                self._cut(start + newline + 1)
                return
            end = start
        self._cut(0)

    def write(self, lines: bytes) -> None:
        """Appends whole lines.

        Raises:
          OSError: they cannot be written, or another program has changed the file. The file is as it was before.
        """
        if self._length() != self._size:
            raise OSError(f"another program has changed it: it had {self._size} bytes, now {self._length()}")
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # a full disk first takes a part, and raises at the rest
        except BaseException:
            self._cut(self._size)
            raise
        self._size += len(lines)

    def mark(self) -> tuple[int, int]:
        """Its size and a checksum of its bytes, by which `begins_with` knows it again; it reads what is new since the
        last mark.

        Raises:
          OSError: it cannot be read, or another program has cut it.
        """
        self._marked = self._marked_at(self._size)
        return self._marked

    def begins_with(self, mark: tuple[int, int]) -> bool:
        """Whether it begins with the bytes that a file had at its `mark`; false if it is shorter."""
        return mark[0] <= self._size and self._marked_at(mark[0]) == mark

    def cut(self, size: int) -> None:
        """Removes what follows the first `size` bytes."""
        self._cut(size)

    def sync(self) -> None:
        """Makes what was written outlive the machine. Waits for the disk.

        Raises:
          OSError: the disk has failed.
        """
        os.fsync(self._file.fileno())
        if self._folder is not None:
            sync_folders(self._folder)
            self._folder = None

    def close(self) -> None:
        """Unlocks the file, and closes it."""
        if not self._file.closed:
            unlock(self._file.fileno())
            self._file.close()

    def _read(self, start: int, count: int) -> bytes:
        self._file.seek(start)  # this does not move writes: in append mode they go to the end
        return self._file.read(count)

    def _marked_at(self, size: int) -> tuple[int, int]:
        """`size` and the CRC-32 of so many bytes from the start."""
        place, checksum = self._marked if self._marked[0] <= size else (0, 0)
        while place < size:
            block = self._read(place, min(_BLOCK, size - place))
            if not block:
                raise OSError(f"another program has changed it: it had {size} bytes, now {place}")
            place, checksum = place + len(block), zlib.crc32(block, checksum)
        return place, checksum

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _cut(self, size: int) -> None:
        if size != self._length():
            self._file.truncate(size)
        self._size = size
        if size < self._marked[0]:
            self._marked = (0, 0)
