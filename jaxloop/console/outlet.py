"""The stream that a screen writes to: it never raises, whatever the real stream does."""

import os
from contextlib import suppress
from typing import Any, TextIO


class Outlet:
    """A stream for a screen: writing never raises, and after a failure nothing more is written.

    Characters that the stream cannot encode are written as question marks. A program without a console has no stream.
    Nobody could read a warning there, so that this is not a failure. An outlet is equal to its stream, because tqdm
    compares streams to find the bars on them.

    Attributes:
      file: the stream, or None.
      failure: the exception that writing has raised; None while it works.
    """

    def __init__(self, file: TextIO | None):
        self.file: Any = file
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        """Writes what can be written."""
        if self.file is not None and self.failure is None:
            try:
                self._write(text)
            except Exception as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream if it has a buffer."""
        if self.failure is None and hasattr(self.file, "flush"):
            try:
                self.file.flush()
            except Exception as error:
                self._fail(error)

    def _write(self, text: str) -> None:
        try:
            self.file.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self.file, "encoding", None) or "ascii"
            self.file.write(text.encode(encoding, "replace").decode(encoding))

    def _fail(self, error: Exception) -> None:
        self.failure = error
        if isinstance(error, BrokenPipeError):
            _drop_what_is_held(self.file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __eq__(self, other: object) -> bool:
        return self.file == (other.file if isinstance(other, Outlet) else other)

    def __hash__(self) -> int:
        return hash(self.file)


def can_encode_blocks(file: Any) -> bool:
    """Whether a stream can show the blocks of a bar."""
    try:
        "█▏".encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _drop_what_is_held(file: Any) -> None:
    """Empties the buffer of a stream without a reader. Python would flush it at its exit, fail, and end with 120."""
    with suppress(Exception):
        number = file.fileno()
        kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, number)
            file.flush()
        finally:
            os.dup2(kept, number)
            os.close(kept)
            os.close(nowhere)
