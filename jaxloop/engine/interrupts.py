"""Ctrl-C and SIGTERM at a boundary: the dispatch at hand ends first, so that the loop and the logs are whole."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_TEXTS = {
    signal.SIGINT: b"\njaxloop: Ctrl-C: the fit stops after the step at hand. A second Ctrl-C stops it at once.\n",
    signal.SIGTERM: b"\njaxloop: SIGTERM: the fit saves after the step at hand and ends. A second one exits at once.\n",
}
#: Those that are entered. A forked child must find the handlers of before.
_entered: list["Interrupts"] = []


class Interrupts:
    """While it is entered, the first SIGINT waits for `check`, and the first SIGTERM for who looks at `terminated`.

    A second SIGINT interrupts at once, as Python does. A second SIGTERM does at once what it would do without this:
    mostly it ends the process. Handlers only set flags, and say on standard error that they wait.

    Signals are taken over only in the main thread. SIGINT must have Python's own handler; a user's stays. SIGTERM must
    have its default action or a handler of Python's; one that is ignored, or handled by code in C, stays as it is.

    Nothing is lost. On leaving, the earlier handlers are put back. A Python handler of SIGTERM is then called if
    SIGTERM has come. The default action is taken only if nobody called `handled`, and no exception leaves the fit.

    A forked child, such as a worker of a loader, is not concerned: there the earlier handlers are put back at once.

    Attributes:
      pending: whether any signal waits. The one thing to ask on the hot path.
      interrupted: whether SIGINT waits.
      terminated: whether SIGTERM has come. It stays so.

    Args:
      terminates: whether SIGTERM waits too, since the fit can save.
    """

    def __init__(self, terminates: bool = False) -> None:
        self.pending = self.interrupted = self.terminated = False
        self._terminates = terminates
        self._handled = False
        self._process = 0
        self._inside = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._process, self._inside = os.getpid(), True
        if threading.current_thread() is not threading.main_thread():
            return self
        _entered.append(self)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._take_over(signal.SIGINT)
        earlier = signal.getsignal(signal.SIGTERM)
        if self._terminates and (earlier is signal.SIG_DFL or callable(earlier)):
            self._take_over(signal.SIGTERM)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside = False
        self._put_back()
        if os.getpid() != self._process:
            return  # a fork that left the fit: what came before it came for the parent
        if self.terminated and signal.SIGTERM in self._earlier:
            self._pass_on(error)
        if error is None:
            self.check()  # one that came after the last boundary is not lost

    def check(self) -> None:
        """Interrupts, if that was asked for. SIGTERM raises nothing: it is for who looks at `terminated`.

        Raises:
          KeyboardInterrupt: SIGINT has come since this was entered.
        """
        if self.interrupted:
            self._interrupt()

    def handled(self) -> None:
        """Says that the fit has saved and ends because of SIGTERM, so that it is not sent again."""
        self._handled = True

    def _take_over(self, number: int) -> None:
        self._earlier[number] = signal.getsignal(number)  # first: a signal may come before the next line is done
        signal.signal(number, self._handle)

    def _put_back(self) -> None:
        """Puts the earlier handlers back. One that a callback has installed since stays."""
        if self in _entered:
            _entered.remove(self)
        for number, handler in tuple(self._earlier.items()):  # `_handle` may take one out meanwhile
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._inside or os.getpid() != self._process:  # called by a handler that outlived the fit, or in a fork
            self._send_again(number)
        elif number == signal.SIGINT:
            if self.interrupted:
                self._interrupt()
            self.interrupted = self.pending = True
            _say(number)
        elif self.terminated:
            self._send_again(number)
        else:
            self.terminated = self.pending = True
            _say(number)

    def _interrupt(self) -> None:
        self.interrupted = self.pending = False
        if self.terminated:  # asked last: it may come at any moment
            self.pending = True
        raise KeyboardInterrupt

    def _send_again(self, number: int) -> None:
        """Lets a signal do what it would do without this, now and from now on."""
        signal.signal(number, self._earlier.pop(number, signal.SIG_DFL))
        os.kill(os.getpid(), number)

    def _pass_on(self, error: BaseException | None) -> None:
        """Lets the SIGTERM that waited have its earlier handler, which is in place again."""
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            handler(signal.SIGTERM, sys._getframe())
        elif not self._handled and error is None:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._handled and error is not None:
            error.add_note("jaxloop: SIGTERM had come too. Nothing was saved for it, and the process goes on")


def _say(number: int) -> None:
    """Writes past all buffers and locks: what was interrupted may hold them."""
    if sys.__stderr__ is None or sys.__stderr__.closed:
        return  # descriptor 2 may be a file of someone else's by now
    try:
        os.write(2, _TEXTS[signal.Signals(number)])
    except OSError:
        return


def _let_go() -> None:
    """In a forked child: its signals do what they did before the fit, even where it is stuck outside of Python."""
    while _entered:
        _entered[-1]._put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
