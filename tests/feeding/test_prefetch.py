"""Reading ahead: the same items, errors in their place, and never a word of timing."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.feeding.prefetch import prefetched


class Counted:
    """Numbers from 0, which notes how many were read and by which thread."""

    def __init__(self, count: int, fails_at: int | None = None):
        self.read = 0
        self.count = count
        self.fails_at = fails_at
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.threads.add(threading.get_ident())
        if self.read == self.fails_at:
            raise KeyError(self.read)
        if self.read == self.count:
            raise StopIteration
        self.read += 1
        return self.read - 1


@given(st.integers(0, 20), st.integers(1, 5))
def test_the_items_come_in_order_and_none_is_lost(count, depth):
    assert list(prefetched(iter(range(count)), depth)) == list(range(count))


def test_another_thread_reads():
    items = Counted(3)
    list(prefetched(items, 2))
    assert threading.get_ident() not in items.threads


@given(st.integers(1, 6), st.integers(1, 4))
def test_how_far_ahead_is_read_depends_on_how_many_were_asked_for_alone(taken, depth):
    items = Counted(20)
    ahead = prefetched(items, depth)
    assert [next(ahead) for _ in range(taken)] == list(range(taken))
    ahead.close()
    assert items.read == taken + depth


@given(st.integers(0, 6), st.integers(1, 4))
def test_an_error_comes_at_its_item_and_keeps_its_type(fails_at, depth):
    ahead = prefetched(Counted(10, fails_at), depth)
    assert [next(ahead) for _ in range(fails_at)] == list(range(fails_at))
    with pytest.raises(KeyError, match=str(fails_at)):
        next(ahead)


def test_a_stop_iteration_raised_in_the_data_is_no_end():
    def broken() -> Iterator[int]:
        yield 0
        raise StopIteration

    ahead = prefetched(broken(), 1)
    assert next(ahead) == 0
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(ahead)


def test_the_thread_ends_with_the_iterator():
    before = threading.active_count()
    ahead = prefetched(iter(range(100)), 2)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


def test_closing_waits_for_what_is_being_read():
    done = []

    def slow() -> Iterator[int]:
        for index in range(10):
            time.sleep(0.01)
            done.append(index)
            yield index

    ahead = prefetched(slow(), 3)
    next(ahead)
    ahead.close()
    assert done == [0, 1, 2, 3]
