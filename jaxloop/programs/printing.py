"""`print` in code that is compiled: it runs while the code is traced, and never again."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_TRACED = ("Tracer(", "Traced<")


@contextmanager
def listening(hear: Callable[[bool], None]) -> Iterator[None]:
    """Calls `hear` for each text that this thread prints within the block; with whether it shows a traced array.

    What is printed appears as it would.
    """
    stream: Any = sys.stdout
    if stream is None:
        yield
        return
    heard = _Heard(stream, hear)
    sys.stdout = heard  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.stdout is heard:
            sys.stdout = stream


class _Heard:
    """Standard output, listened to."""

    def __init__(self, stream: Any, hear: Callable[[bool], None]):
        self._stream = stream
        self._hear = hear
        self._thread = threading.get_ident()

    def write(self, text: str) -> Any:
        if text.strip() and threading.get_ident() == self._thread:
            self._hear(any(word in text for word in _TRACED))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
