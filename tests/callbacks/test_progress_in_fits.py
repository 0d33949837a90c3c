"""The console, following whole fits."""

import io
import re
import sys

import pytest

import jaxloop as jl
from jaxloop.callbacks import ProgressBar
from jaxloop.events import Event, Scope
from tests import small


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")


def lines(stream):
    return stream.getvalue().splitlines()


def names_in(line):
    """The line with its numbers left out."""
    return re.sub(r" \d[\d.e-]*(?=[ ,]|$)", "", line)


@pytest.mark.parametrize("report", ["batch", "epoch"])
def test_a_fit_shows_device_compilation_and_each_epoch(report):
    stream = io.StringIO()
    training_loop = small.training_loop(callbacks=[ProgressBar(stream)], report=report)
    loop, _ = training_loop.fit(small.model(), epochs=2)
    row = "in s - loss, validation_loss, accuracy, validation_accuracy, learning_rate"
    assert lines(stream)[0].startswith("Training on ")
    assert [names_in(line).removesuffix(", best") for line in lines(stream)[1:]] == [
        "Compiled training_step in s",
        "Compiled validation_step in s",
        f"Epoch 1/2 {row}",
        f"Epoch 2/2 {row}",
    ]
    assert lines(stream)[3].endswith(", best")
    assert f"loss {loop.stats['loss']:.4g}, validation_loss {loop.stats['validation_loss']:.4g}" in lines(stream)[4]


def test_a_fit_that_goes_on_from_a_loop_counts_its_own_epochs():
    stream = io.StringIO()
    training_loop = small.training_loop(callbacks=[ProgressBar(stream)])
    loop, _ = training_loop.fit(small.model(), epochs=2)
    training_loop.fit(loop, epochs=1, limit_batches=1)
    assert lines(stream)[-1].startswith("Epoch 1/1 in ")


def cancel(scope, event, batch_index=0):
    """A compiled callback that cancels `scope` at `event`, in the second epoch."""

    def callback(loop, at):
        if at is event:
            return loop.cancel(scope, when=(loop.epoch_index == 1) & (loop.batch_index >= batch_index))
        return loop

    return callback


@pytest.mark.parametrize(
    ("callback", "names"),
    [
        (cancel(Scope.EPOCH, Event.UPDATE_START, 1), "loss, accuracy, learning_rate"),
        (cancel(Scope.VALIDATION, Event.VALIDATION_START), "loss, accuracy, learning_rate"),
        (cancel(Scope.BATCH, Event.UPDATE_START), "validation_loss, validation_accuracy, learning_rate"),
    ],
    ids=["epoch", "validation", "all batches"],
)
def test_an_epoch_of_which_something_was_cancelled_still_has_its_line(callback, names):
    stream = io.StringIO()
    training_loop = small.training_loop(callbacks=[callback, ProgressBar(stream)])
    training_loop.fit(small.model(), epochs=3)
    rows = [names_in(line).removesuffix(", best") for line in lines(stream) if line.startswith("Epoch")]
    everything = "loss, validation_loss, accuracy, validation_accuracy, learning_rate"
    assert rows == [f"Epoch 1/3 in s - {everything}", f"Epoch 2/3 in s - {names}", f"Epoch 3/3 in s - {everything}"]


def test_a_fit_that_fails_on_a_terminal_puts_standard_output_back(terminal, monkeypatch):
    @jl.on_host(Event.BATCH_END)
    def fail(loop, event):
        print("printed")
        raise OSError("full")

    monkeypatch.setattr(sys, "stdout", terminal)
    training_loop = small.training_loop(callbacks=[fail], progress=True)
    with pytest.raises(OSError, match="full"):
        training_loop.fit(small.model(), epochs=1)
    assert sys.stdout is terminal
    assert "printed\n" in terminal.getvalue()
    assert re.search(r"\r Epoch 1/1 \|[^\n]*\n$", terminal.getvalue())


def test_an_evaluation_shows_nothing(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    training_loop = small.training_loop(progress=True)
    training_loop.evaluate(small.model(), jl.in_batches(small.samples(8), 4))
    assert terminal.getvalue() == ""
