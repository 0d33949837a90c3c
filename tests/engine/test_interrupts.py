"""Ctrl-C and SIGTERM wait for the dispatch at hand, once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxloop.engine import interrupts as module
from jaxloop.engine.interrupts import Interrupts


@pytest.fixture(autouse=True)
def handlers_as_python_starts() -> Iterator[None]:
    """Python's own handler of SIGINT, which it does not install where a shell started it in the background."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


def test_the_first_interrupt_waits_until_it_is_asked_for():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pending
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()  # once


def test_the_second_interrupts_at_once():
    def twice():
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_comes_behind_the_last_boundary_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_exception_is_not_hidden_by_it():
    def fail():
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_who_has_a_handler_keeps_it():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert not interrupts.pending
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone():
    def enter():
        with Interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert handlers == [signal.default_int_handler]


def test_in_another_thread_a_fit_that_can_save_leaves_sigterm_alone():
    def enter():
        with Interrupts(terminates=True):
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert handlers == [signal.SIG_DFL]


def test_the_first_ctrl_c_says_that_it_waits(capfd):
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        said = capfd.readouterr().err
        assert said.startswith("\n")
        assert "stops after the step at hand. A second Ctrl-C stops it at once." in said
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_a_closed_standard_error_is_not_written_to(monkeypatch):
    written: list[bytes] = []
    monkeypatch.setattr(module.os, "write", lambda descriptor, text: written.append(text))
    monkeypatch.setattr(sys, "__stderr__", None)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert written == []


def test_an_error_of_writing_is_not_raised(monkeypatch):
    def write(descriptor: int, text: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)


def test_sigterm_waits_where_the_fit_can_save(capfd):
    with Interrupts(terminates=True) as interrupts:
        assert not interrupts.pending
        os.kill(os.getpid(), signal.SIGTERM)
        assert (interrupts.pending, interrupts.interrupted, interrupts.terminated) == (True, False, True)
        assert "\njaxloop: SIGTERM: the fit saves after the step at hand and ends." in capfd.readouterr().err
        interrupts.check()  # it raises nothing for it
        assert interrupts.pending
        interrupts.handled()
    assert interrupts.terminated
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_is_left_alone_where_the_fit_cannot_save():
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Interrupts(terminates=True) as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert not interrupts.pending


def test_both_signals_can_wait():
    def both():
        with Interrupts(terminates=True) as interrupts:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            try:
                interrupts.check()
            finally:
                assert (interrupts.pending, interrupts.interrupted, interrupts.terminated) == (True, False, True)

    with pytest.raises(KeyboardInterrupt) as caught:
        both()
    assert caught.value.__notes__ == [
        "jaxloop: SIGTERM had come too. Nothing was saved for it, and the process goes on"
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("handled", [False, True], ids=["not handled", "handled"])
def test_a_handler_of_the_users_is_called_after_the_fit_once(fails: bool, handled: bool):
    def fit():
        with Interrupts(terminates=True) as interrupts:
            signal.raise_signal(signal.SIGTERM)
            if handled:
                interrupts.handled()
            assert seen == []
            if fails:
                raise KeyError

    def handler(number, frame):
        seen.append((number, frame is not None, signal.getsignal(number) is handler))

    seen = []
    signal.signal(signal.SIGTERM, handler)
    if fails:
        with pytest.raises(KeyError):
            fit()
    else:
        fit()
    assert seen == [(signal.SIGTERM, True, True)]


def test_a_second_sigterm_goes_to_the_users_handler_at_once_and_not_again_after_the_fit():
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with Interrupts(terminates=True):
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    assert seen == [signal.SIGTERM]


def test_a_fit_within_a_fit_hands_sigterm_on_to_the_outer_one():
    with Interrupts(terminates=True) as outer:
        with Interrupts(terminates=True) as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.terminated
            assert not outer.terminated
            inner.handled()
        assert outer.terminated
        outer.handled()


def test_a_handler_that_was_installed_during_the_fit_stays_and_reaches_the_earlier_one():
    seen: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append("earlier"))
    with Interrupts(terminates=True):
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)
        signal.signal(signal.SIGTERM, lambda number, frame: (seen.append("later"), ours(number, frame)))
    os.kill(os.getpid(), signal.SIGTERM)
    assert seen == ["later", "earlier"]


SCRIPT = """
import os, signal, sys
import jaxloop as jl
from tests import small

signal.signal(signal.SIGINT, signal.default_int_handler)

@jl.on_host(jl.Event.BATCH_END)
def interrupt(loop, event):
    if loop.phase is jl.Phase.TRAINING and (int(loop.epoch_index), int(loop.batch_index)) == (1, 0):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # Python runs its handler between two of these
            pass
        print("went on", flush=True)

logger = jl.callbacks.CSVLogger(sys.argv[1])
try:
    small.training_loop(callbacks=[logger, interrupt], steps_per_dispatch=int(sys.argv[2])).fit(small.model(), 5)
except KeyboardInterrupt as error:
    again, _ = small.training_loop().fit(error.loop, 1)
    print("step", int(error.loop.step), "and on to", int(again.step), error.__notes__[-1])
"""


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
def test_a_fit_ends_at_the_next_boundary_with_whole_logs_and_the_loop(tmp_path: Path, steps_per_dispatch: int):
    path = tmp_path / "log.csv"
    command = [sys.executable, "-c", SCRIPT, str(path), str(steps_per_dispatch)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    # the row of step 3 is handed over once the next dispatch has been sent: that one counts, and is logged
    sent = 5 if steps_per_dispatch == 1 else 6
    assert done.stdout.splitlines()[0] == "went on"
    assert f"step {sent} and on to {sent + 3} jaxloop: error.loop is the loop in epoch 2" in done.stdout
    rows = [line for line in path.read_text().splitlines() if ",training," in line]
    assert len(rows) == sent
