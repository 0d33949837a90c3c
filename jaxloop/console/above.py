"""Text that is printed while there is a bar: it appears above the bar."""

import sys
from collections.abc import Iterable
from typing import Any, Self, TextIO

from tqdm import tqdm


class OutputAboveBar:
    """Replaces standard output, or standard error, while there is a bar: whole lines are written above the bar.

    Code that keeps it longer writes through it to the real stream.
    """

    def __init__(self, stream: TextIO, name: str = "stdout"):
        self.stream = stream
        self._name = name
        self._line = ""  # the beginning of a line that has not ended yet
        self._open = True

    @classmethod
    def standard(cls) -> list[Self]:
        """Replaces standard output and standard error, but for one that is no terminal or has been replaced already."""
        streams = [(name, getattr(sys, name)) for name in ("stdout", "stderr")]
        above = [cls(stream, name) for name, stream in streams if not isinstance(stream, cls) and is_terminal(stream)]
        for each in above:
            setattr(sys, each._name, each)
        return above

    def write(self, text: str) -> int:
        if not self._open:
            return self.stream.write(text)
        with tqdm.get_lock():
            lines, newline, self._line = (self._line + text).rpartition("\n")
            if newline:
                tqdm.write(lines, file=self.stream)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Puts the real stream back, unless other code has replaced it since."""
        self._open = False
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self.stream)
        if self._line:
            tqdm.write(self._line, file=self.stream)
            self._line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __eq__(self, other: object) -> bool:
        # tqdm clears the bars whose stream is equal to the one it writes to.
        return True if other is self or other is self.stream else NotImplemented

    def __hash__(self) -> int:
        return hash(self.stream)


def is_terminal(file: Any) -> bool:
    """Whether a stream is a terminal; one that is closed is none."""
    try:
        return bool(getattr(file, "isatty", lambda: False)())
    except (OSError, ValueError):  # the stream is closed
        return False
