"""Screens: the console on a terminal, in a notebook, or line by line in any other stream."""

import os
import shutil
import sys
import threading
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from jaxloop.console.above import OutputAboveBar, is_terminal
from jaxloop.console.lines import EpochRow, Moment, bar_line, epoch_line, moment_line, table_lines, wrapped
from jaxloop.console.outlet import Outlet, can_encode_blocks

_NOTEBOOK_WIDTH = 100
_LONG_WAIT = 10.0  # seconds


class Screen(Protocol):
    """Something to draw on.

    Attributes:
      live: whether a moment is drawn over the moment before.
      seconds: the time from one moment to the next.
    """

    live: bool
    seconds: float

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be drawn any more; None while drawing works."""
        ...

    def show(self, moment: Moment) -> None:
        """Shows how far a phase is."""
        ...

    def hide(self) -> None:
        """Removes the moment that is shown, where that is possible."""
        ...

    def wait_for(self, text: str | None) -> None:
        """Says what the run waits for, where that is no lasting line in the place of the moment; None once it is there.

        The moment that was shown before is shown again then.
        """
        ...

    def add(self, row: EpochRow) -> None:
        """Writes the results of an epoch."""
        ...

    def write(self, text: str) -> None:
        """Writes a line."""
        ...

    def close(self) -> None:
        """Ends the drawing, and leaves what is there."""
        ...


def screen_on(file: TextIO | None) -> Screen:
    """The screen for `file`; for standard output if it is None."""
    if file is None and _in_notebook():
        return Notebook(sys.stdout)
    given = sys.stdout if file is None else file
    stream = given.stream if isinstance(given, OutputAboveBar) else given  # this fit runs inside of another one
    return Terminal(stream) if is_terminal(stream) else Lines(stream)


class Lines:
    """A pipe or a log file: a line for each epoch, and a line each minute during a longer epoch.

    What the run waits for is a line only if it takes longer than ten seconds.
    """

    live = False
    seconds = 60.0

    def __init__(self, file: TextIO | None):
        self._file = Outlet(file)
        self._timer: threading.Timer | None = None

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    def show(self, moment: Moment) -> None:
        self.write(moment_line(moment))

    def hide(self) -> None:
        pass

    def wait_for(self, text: str | None) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()  # what it is writing at this moment comes before the next line
        if text is not None:
            # Who waits cannot look at the clock. So a thread does, for as long as that takes.
            self._timer = threading.Timer(_LONG_WAIT, self.write, (text,))
            self._timer.daemon = True
            self._timer.start()

    def add(self, row: EpochRow) -> None:
        self.write(epoch_line(row))

    def write(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def close(self) -> None:
        self.wait_for(None)


class Terminal:
    """A terminal: a bar, and a table that grows above it.

    While there is a bar, text that is printed to standard output appears above it too.
    """

    live = True
    seconds = 0.1

    def __init__(self, file: TextIO | None):
        self._file = Outlet(file)
        self._ascii = not can_encode_blocks(file)
        self._table = _Table()
        self._bar: Any = None
        self._above: list[OutputAboveBar] = []
        self._line: str | None = None  # of the moment that is shown
        self._waits = False

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    def show(self, moment: Moment) -> None:
        self._line, self._waits = bar_line(moment, self._width(), ascii=self._ascii), False
        self._draw(self._line)

    def wait_for(self, text: str | None) -> None:
        if text is not None:
            self._waits = True
            self._draw(text[: self._width()])
        elif self._waits and self._line is not None:
            self._waits = False
            self._draw(self._line)
        elif self._waits:
            self.hide()

    def hide(self) -> None:
        self._line, self._waits = None, False
        bar, self._bar = self._bar, None
        above, self._above = self._above, []
        try:
            if bar is not None:
                bar.close()
        finally:
            for each in above:
                each.close()

    def add(self, row: EpochRow) -> None:
        self.write(self._table.add(row, self._width()))

    def write(self, text: str) -> None:
        tqdm.write(wrapped(text, self._width()), file=self._file)
        self._file.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.leave = True
        self.hide()

    def _draw(self, line: str) -> None:
        if self._bar is None:
            self._bar = tqdm(desc=line, bar_format="{desc}", file=self._file, leave=False)
            self._above = OutputAboveBar.standard()
        else:
            self._bar.set_description_str(line)

    def _width(self) -> int:
        return max(1, _columns(self._file) - 1)  # some terminals wrap the line when its last column is written


class Notebook:
    """A notebook's cell: the table is printed, and the bar is a separate output that is updated in place.

    It needs no widgets.
    """

    live = True
    seconds = 0.1

    def __init__(self, file: TextIO | None):
        self._file = Outlet(file)
        self._table = _Table()
        self._output: Any = None
        self._line = ""  # of the moment that is shown
        self._shown = ""

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    def show(self, moment: Moment) -> None:
        self._line = bar_line(moment, _NOTEBOOK_WIDTH)
        self._draw(self._line)

    def hide(self) -> None:
        self._line = ""
        if self._shown:
            self._draw("")

    def wait_for(self, text: str | None) -> None:
        if text is not None:
            self._draw(text[:_NOTEBOOK_WIDTH])
        elif self._shown != self._line:
            self._draw(self._line)

    def add(self, row: EpochRow) -> None:
        self.write(self._table.add(row, _NOTEBOOK_WIDTH))

    def write(self, text: str) -> None:
        print(wrapped(text, _NOTEBOOK_WIDTH), file=self._file, flush=True)

    def close(self) -> None:
        pass

    def _draw(self, text: str) -> None:
        from IPython.display import display  # type: ignore[import-not-found]

        self._shown = text
        if self._output is None:
            self._output = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._output.update({"text/plain": text}, raw=True)


class _Table:
    """A table that grows. If its columns change, the header is printed again."""

    def __init__(self) -> None:
        self._header = ""

    def add(self, row: EpochRow, width: int) -> str:
        """The text to print below the table so far."""
        header, line = table_lines(row, width)
        if header == self._header:
            return line
        self._header = header
        return f"{header}\n{line}"


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook: IPython is imported, and has a kernel."""
    ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(ipython(), "kernel")


def _columns(file: Any) -> int:
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError, AttributeError):  # the stream has no descriptor, or is not a terminal
        columns = 0
    return columns or shutil.get_terminal_size().columns
