"""The console of runs that are killed and resumed: its rows, its best epochs and its times go on."""

import io
import re

import optax
import pytest

from jaxloop.callbacks import ProgressBar, progress_bar
from tests.callbacks import replaying

PAUSE = 10_000.0
HEADER = "epoch  seconds"


@pytest.fixture(scope="module", params=[True, False], ids=["validated", "not"])
def run(request):
    """Five epochs with a rate so high that losses go up and down."""
    changes = {} if request.param else {"validation": None}
    return replaying.written_down(epochs=5, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=8.0), **changes)


@pytest.fixture
def clock(clock_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    return clock_of(progress_bar)


@pytest.fixture
def shown(clock, run):
    """Shows a part of a run on a stream, as a run that takes a second for each thing that is told."""
    plan, told, _ = run

    def show(stream, first, last, state=None):
        bar = ProgressBar(stream).bind(plan)
        if state is not None:
            bar.resume(replaying.view_after(told[:first]), state)
            bar.notice("Compiled training_step in 4.0 s", 4.0)  # in the time that is left out
            clock.now += 4.0
        for one in told[first:last]:
            clock.now += 1.0
            replaying.tell(bar, [one])
        state = replaying.saved(bar)
        bar.close()
        return state

    return show


def epochs(stream):
    return [line for line in stream.getvalue().splitlines() if re.match(r"Epoch \d/\d in", line)]


def test_each_epoch_has_the_line_of_an_uninterrupted_run_wherever_it_was_saved(run, shown, clock):
    whole = io.StringIO()
    shown(whole, 0, len(run[1]))
    expected = epochs(whole)
    assert len(expected) == 5
    best = [line.endswith("best") for line in expected]
    assert best[0]
    assert 1 < best.count(True) < 5
    for save in range(1, len(run[1]) + 1):
        stream = io.StringIO()
        state = shown(stream, 0, save)
        clock.now += PAUSE
        shown(stream, save, len(run[1]), state)
        assert epochs(stream) == expected, save


def test_the_time_left_is_that_of_an_uninterrupted_run(run, shown, clock):
    def left(stream):
        return re.findall(r"[\d:]+ left.*?\)|[\d:]+ s left", stream.getvalue())

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    whole = Terminal()
    shown(whole, 0, len(run[1]))
    assert len(left(whole)) > 10
    for save in range(1, len(run[1])):
        stream = Terminal()
        state = shown(stream, 0, save)
        clock.now += PAUSE
        before = len(left(stream))
        shown(stream, save, len(run[1]), state)
        assert left(stream)[before:] == left(whole)[-len(left(stream)[before:]) :] or not left(stream)[before:], save


def test_a_fresh_terminal_gets_the_header_of_the_table_again(run, shown, terminal):
    end = next(at for at, one in enumerate(run[1], 1) if isinstance(one, tuple) and one[0].name == "EPOCH_END")
    state = shown(terminal, 0, end)
    assert terminal.getvalue().count(HEADER) == 1
    shown(terminal, end, len(run[1]), state)
    assert terminal.getvalue().count(HEADER) == 2
