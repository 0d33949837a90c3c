"""Reading ahead: a thread gets the next items while the present one is used."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The items in their order, read by a thread that is at most `depth` ahead.

    How many are read depends only on how many were asked for, never on timing: whoever stops after item i has read
    `depth` more, or all. An error in reading is raised at the item that it belongs to. Closing the iterator waits for
    what the thread is reading; leaving a `for` loop closes it, once the iterator is dropped.

    Args:
      items: they are read in another thread than the caller's.
      depth: how many are read ahead, at least 1.
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
    except BaseException as error:  # whatever it is: without it the caller would wait for ever
        ready.put(("error", error))
