"""Entries that wait to be sent elsewhere, and the thread that sends them, so that training waits for no network."""

import collections
import threading
from collections.abc import Callable
from typing import Any

_SECONDS_BETWEEN = 5.0  # two rounds of sending: a round costs some milliseconds, however little is sent
_SECONDS_AFTER_FAILURE = 30.0


class Outbox:
    """What waits is sent every five seconds, in the order in which it came.

    What could not be sent is kept, and tried again half a minute later.
    Entries wait without a limit: they are as small as the rows of a history, and none may be lost in silence.

    Args:
      name: of the thread.
      send: sends a list of entries. It runs on the thread. If it raises, it gets the same entries again later, with
        those that have come since; it must know by itself what it has sent.
    """

    def __init__(self, name: str, send: Callable[[list[Any]], None]):
        self._send = send
        self._waiting: collections.deque[Any] = collections.deque()
        self._wake = threading.Condition()
        self._last: Callable[[], None] | None = None
        self._asked: list[threading.Event] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, entry: Any) -> None:
        """Adds an entry; waits for nothing."""
        self._waiting.append(entry)

    def waiting(self) -> list[Any]:
        """The entries that are not known to be sent."""
        return list(self._waiting)

    def take_failure(self) -> Exception | None:
        """Why the last round failed, once."""
        failure, self._failure = self._failure, None
        return failure

    def send_now(self, seconds: float) -> None:
        """Returns once it was tried to send what waits, or so many seconds are over."""
        tried = threading.Event()
        with self._wake:
            self._asked.append(tried)
            self._wake.notify()
        tried.wait(seconds)

    def close(self, last: Callable[[], None], seconds: float) -> bool:
        """Sends what waits and calls `last`, both on the thread; whether that was over in so many seconds.

        What could not be sent is tried once more. `last` is called even if that fails.
        """
        with self._wake:
            self._last = last
            self._wake.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause, last = _SECONDS_BETWEEN, None
        while last is None:
            with self._wake:
                self._wake.wait_for(lambda: self._last is not None or self._asked, pause)
                last = self._last  # before sending: what comes meanwhile needs another round
                asked, self._asked = self._asked, []
            pause = _SECONDS_BETWEEN if self._sent() else _SECONDS_AFTER_FAILURE
            for tried in asked:
                tried.set()
        try:
            last()
        except Exception as error:
            self._failure = error

    def _sent(self) -> bool:
        """Sends what waits; whether that went well."""
        entries = self.waiting()
        try:
            if entries:
                self._send(entries)
        except Exception as error:
            self._failure = error
            return False
        for _ in entries:
            self._waiting.popleft()
        return True
