"""Entries that wait, and the thread that sends them: none is lost, none is sent twice, and no one waits for it."""

import threading
import time

import pytest

from jaxloop.callbacks import outbox
from jaxloop.callbacks.outbox import Outbox


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN", 0.01)
    monkeypatch.setattr(outbox, "_SECONDS_AFTER_FAILURE", 0.02)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_entries_are_sent_in_order_while_others_come():
    sent = []
    box = Outbox("test", sent.extend)
    box.start()
    for entry in range(1000):
        box.put(entry)
        if entry == 500:
            until(lambda: sent)
    assert box.close(lambda: sent.append("end"), 20)
    assert sent == [*range(1000), "end"]
    assert box.waiting() == []


def test_what_comes_while_others_are_sent_is_sent_before_the_end():
    sent, busy, go_on = [], threading.Event(), threading.Event()

    def send(entries):
        sent.extend(entries)
        busy.set()
        assert go_on.wait(20)

    box = Outbox("test", send)
    box.start()
    box.put(1)
    assert busy.wait(20)
    box.put(2)
    threading.Timer(0.2, go_on.set).start()  # by then it is being closed
    assert box.close(lambda: sent.append("end"), 20)
    assert sent == [1, 2, "end"]


def test_sending_now_is_tried_once_and_waits_no_longer_than_it_may(monkeypatch):
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN", 60)
    sent, go_on = [], threading.Event()

    def send(entries):
        if entries == ["fails"]:
            raise OSError("no network")
        assert go_on.wait(20)
        sent.extend(entries)

    box = Outbox("test", send)
    box.start()
    box.put("fails")
    box.send_now(20)
    assert str(box.take_failure()) == "no network"
    box.put("waits")
    box.send_now(0.01)
    assert sent == []
    go_on.set()
    box.send_now(20)
    assert sent == ["fails", "waits"]
    assert box.close(lambda: None, 20)


def test_what_could_not_be_sent_is_tried_again_with_what_has_come_since():
    sent, failures = [], [OSError("first"), OSError("second")]

    def send(entries):
        if failures:
            raise failures.pop(0)
        sent.extend(entries)

    box = Outbox("test", send)
    box.start()
    box.put(1)
    until(lambda: not failures)
    box.put(2)
    until(lambda: sent)
    assert str(box.take_failure()) == "second"
    assert box.take_failure() is None
    assert box.close(lambda: None, 20)
    assert sent == [1, 2]


def test_at_the_end_it_is_tried_once_more_and_the_end_comes_all_the_same():
    ended = []
    box = Outbox("test", lambda entries: 1 / 0)
    box.start()
    box.put(1)
    assert box.close(lambda: ended.append(True), 20)
    assert (box.waiting(), ended) == ([1], [True])
    assert isinstance(box.take_failure(), ZeroDivisionError)


def test_what_fails_at_the_end_is_told():
    box = Outbox("test", lambda entries: None)
    box.start()
    assert box.close(lambda: 1 / 0, 20)
    assert isinstance(box.take_failure(), ZeroDivisionError)


def test_closing_waits_no_longer_than_it_is_told():
    over = threading.Event()
    box = Outbox("test", lambda entries: over.wait())
    box.start()
    box.put(1)
    began = time.monotonic()
    assert not box.close(lambda: None, 0.2)
    assert time.monotonic() - began < 10
    assert box.waiting() == [1]
    over.set()
