"""Screens that end no fit."""

import contextlib
import io
import sys

import pytest

import jaxloop as jl
from jaxloop.console.guarded import Guarded
from jaxloop.console.lines import Moment
from jaxloop.console.screen import Lines, Notebook, Terminal, screen_on
from jaxloop.events import TRAINING
from tests import small

MOMENT = Moment(TRAINING, epoch_index=0, epoch_count=3, done=2, total=4, measured={"loss": 0.5})


class Stream(io.StringIO):
    """A terminal, or not, that fails at its write number `at`, or at flushing."""

    def __init__(self, error=None, *, at=0, terminal=False, flushing=False):
        super().__init__()
        self.error, self.at, self.terminal, self.flushing = error, at, terminal, flushing
        self.writes = 0

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.writes += 1
        if self.error is not None and not self.flushing and self.writes > self.at:
            raise self.error
        return super().write(text)

    def flush(self):
        if self.error is not None and self.flushing:
            raise self.error


def use(screen):
    screen.write("Training on cpu:0")
    screen.show(MOMENT)
    screen.show(MOMENT)
    screen.hide()
    screen.show(MOMENT)
    screen.close()


def test_what_works_is_drawn():
    stream, plain = Stream(), Stream()
    use(Guarded(Lines(stream)))
    use(Lines(plain))
    assert stream.getvalue() == plain.getvalue() != ""


def test_it_is_as_live_as_its_screen():
    one = Guarded(Terminal(Stream(terminal=True)))
    assert (one.live, one.seconds) == (True, 0.1)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [Lines, Terminal])
def test_a_stream_that_fails_at_any_write_is_told_once(make, at, error):
    stream = Stream(error, at=at, terminal=make is Terminal)
    with pytest.warns(RuntimeWarning, match="the console cannot be written.*Training goes on") as told:
        use(Guarded(make(stream)))
    assert len(told) == 1
    assert stream.writes == at + 1


def test_a_stream_that_fails_when_it_is_flushed_is_told_once():
    with pytest.warns(RuntimeWarning, match="BrokenPipeError") as told:
        use(Guarded(Lines(Stream(BrokenPipeError(), flushing=True))))
    assert len(told) == 1


def test_a_terminal_that_fails_gives_standard_output_back(monkeypatch):
    stream = Stream(OSError(28, "full"), at=3, terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    screen = Guarded(screen_on(None))
    screen.write("one")
    with pytest.warns(RuntimeWarning, match="the console cannot be written"):
        use(screen)
    assert sys.stdout is stream


def test_a_notebook_whose_display_fails_is_told_once(monkeypatch):
    screen = Notebook(Stream())
    monkeypatch.setattr(screen, "_draw", lambda text: 1 / 0)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError") as told:
        use(Guarded(screen))
    assert len(told) == 1


def test_what_a_person_interrupts_is_interrupted():
    with pytest.raises(KeyboardInterrupt):
        use(Guarded(Lines(Stream(KeyboardInterrupt()))))  # type: ignore[arg-type]


def test_without_standard_output_nothing_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    use(Guarded(screen_on(None)))


def test_a_stream_that_is_closed_already_is_told(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.warns(RuntimeWarning, match="the console cannot be written"):
        use(Guarded(screen_on(None)))


def test_a_fit_goes_on_whatever_is_behind_its_console(monkeypatch):
    size = jl.metrics.Mean(lambda output, target: output[:, 0], "größe")
    training_loop = small.training_loop(progress=True, metrics=[size])
    expected, _ = training_loop.fit(small.model(), 2)
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    streams = {
        "none": (None, False),
        "ascii": (ascii_stream, False),
        "pipe": (Stream(BrokenPipeError(), at=2), True),
        "terminal": (Stream(OSError(28, "full"), at=3, terminal=True), True),
    }
    for stream, fails in streams.values():
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            with pytest.warns(RuntimeWarning) if fails else contextlib.nullcontext():
                loop, history = training_loop.fit(small.model(), 2)
        small.assert_trees_equal(loop.model.params, expected.model.params)
        assert history.stopped == "completed"
    ascii_stream.flush()
    assert b"gr??e" in ascii_stream.buffer.getvalue()  # type: ignore[attr-defined]
