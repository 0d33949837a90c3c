"""What a screen writes to: a stream that never fails, whatever is behind it."""

import os
from contextlib import suppress
from typing import Any, TextIO


class Outlet:
    """A stream as a screen sees it: writing raises nothing, and after a failure writes nothing more.

    Characters that the stream cannot encode are written as question marks. Where there is no stream, as in a program
    without a console, there is nobody to tell, so that is no failure. For tqdm it equals the stream behind.

    Attributes:
      file: the stream; None for none.
      failure: what writing has raised; None while it works.
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
        """Hands on what the stream holds back, if it does so."""
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


def _drop_what_is_held(file: Any) -> None:
    """Empties a stream whose reader is gone; Python would fail at it once more as it exits, with status 120."""
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
