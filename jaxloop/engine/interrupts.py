"""Ctrl-C at a boundary: the dispatch at hand ends first, so that the loop and the logs are whole."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While it is entered, the first SIGINT waits for `check`; a second one interrupts at once, as Python does.

    Only in the main thread, and only if SIGINT has Python's own handler. A user's handler stays.
    """

    def __init__(self) -> None:
        self.pending = False
        self._installed = False

    def __enter__(self) -> "Interrupts":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False
        if error is None:
            self.check()  # one that came after the last boundary is not lost

    def check(self) -> None:
        """Interrupts, if that was asked for.

        Raises:
          KeyboardInterrupt: SIGINT has come since this was entered.
        """
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt
        self.pending = True
