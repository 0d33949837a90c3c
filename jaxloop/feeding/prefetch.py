"""Reading ahead: a thread of its own gets the next items while the present one is used."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The items in their order, read by a thread that is at most `depth` ahead.

    How many are read depends on how many were asked for alone, never on timing: one who stops after the i-th has read
    `depth` more, or all. What reading raises is raised at the item that it was raised for. Closing the iterator (as
    leaving a `for` loop does, once the iterator is dropped) waits for what the thread is reading.

    Args:
      items: are read in another thread than the caller's.
      depth: at least 1.
    """
    permits: SimpleQueue[bool] = SimpleQueue()
    ready: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    thread = threading.Thread(target=_read, args=(items, permits, ready), name="jaxloop-prefetch", daemon=True)
    for _ in range(depth):
        permits.put(True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            permits.put(True)
            yield item
    finally:
        permits.put(False)
        thread.join()


def _read(items: Iterator[Any], permits: "SimpleQueue[bool]", ready: "SimpleQueue[tuple[str, Any]]") -> None:
    try:
        while permits.get():
            try:
                item = next(items)
            except StopIteration:
                ready.put(("end", None))
                return
            ready.put(("item", item))
    except BaseException as error:  # it is the caller's, and is raised there
        ready.put(("error", error))
