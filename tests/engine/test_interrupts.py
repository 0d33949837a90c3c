"""Ctrl-C waits for the dispatch at hand, once."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxloop.engine.interrupts import Interrupts


@pytest.fixture(autouse=True)
def python_own_handler():
    """Python's own handler of SIGINT, which it does not install where a shell started it in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
    assert f"step {sent} and on to {sent + 3} jaxloop: error.loop is the loop in epoch 1" in done.stdout
    rows = [line for line in path.read_text().splitlines() if ",training," in line]
    assert len(rows) == sent
