"""Work that may take as long as it takes, such as compiling: who waits for a run must not take it for a hang."""

from collections.abc import Iterator
from contextlib import contextmanager

#: One object for each piece of work at hand, of any thread. Adding and removing need no lock, which a fork could copy.
_at_hand: set[object] = set()


@contextmanager
def long_work() -> Iterator[None]:
    """What is done in it is expected to take long."""
    piece = object()
    _at_hand.add(piece)
    try:
        yield
    finally:
        _at_hand.discard(piece)


def is_at_hand() -> bool:
    """Whether some thread is in `long_work`."""
    return bool(_at_hand)
