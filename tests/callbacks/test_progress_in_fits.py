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


def shown_by(progress, capsys, *, in_fit=False, epochs=1, **changes):
    """The lines of a fit, with numbers left out."""
    training_loop = small.training_loop(progress=False if in_fit else progress, **changes)
    training_loop.fit(small.model(), epochs, **({"progress": progress} if in_fit else {}))
    return [names_in(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("in_fit", [False, True])
@pytest.mark.parametrize(
    ("progress", "begins"),
    [
        (False, []),
        ("quiet", ["Epoch 1/1 in"]),
        (True, ["Training on", "Compiled", "Compiled", "Epoch 1/1 in"]),
        (
            "verbose",
            [
                "Training on",
                "Compiled",
                "Epoch 1/1 training",
                "Compiled",
                "Epoch 1/1 validation",
                "Epoch 1/1 in",
                "Took",
            ],
        ),
    ],
)
def test_progress_says_how_much_is_shown(progress, begins, in_fit, capsys):
    shown = shown_by(progress, capsys, in_fit=in_fit)
    assert len(shown) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(shown, begins, strict=True))


def test_verbose_shows_what_each_phase_came_to_and_where_the_time_went(capsys):
    shown = shown_by("verbose", capsys)
    assert shown[2].startswith("Epoch 1/1 training 3/3 batches - loss, accuracy, learning_rate")
    assert shown[4].startswith("Epoch 1/1 validation 2/2 batches - loss, accuracy")
    assert "compile s" in shown[-1]


def test_quiet_shows_what_ended_the_fit(capsys):
    shown = shown_by("quiet", capsys, epochs=3, callbacks=[cancel(Scope.FIT, Event.EPOCH_END)])
    assert [line.split(" in ")[0] for line in shown] == [
        "Epoch 1/3",
        "Epoch 2/3",
        "Stopped after epoch of 3: cancel.callback",
    ]


def test_quiet_has_no_bar_on_a_terminal(terminal):
    training_loop = small.training_loop(callbacks=[ProgressBar(terminal, detail="quiet")])
    training_loop.fit(small.model(), epochs=1)
    assert terminal.getvalue().splitlines()[0].startswith("epoch ")
    assert "\r" not in terminal.getvalue()


def test_a_fit_can_show_what_its_training_loop_does_not_and_the_other_way_round(capsys):
    training_loop = small.training_loop(progress="quiet")
    assert training_loop.progress == "quiet"
    training_loop.fit(small.model(), 1, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wrong", ["silent", 1, None, "Quiet"])
def test_a_wrong_progress_is_told_what_it_may_be(wrong):
    with pytest.raises(ValueError, match=r"TrainingLoop: `progress` must be True, False, 'quiet' .* or 'verbose'"):
        small.training_loop(progress=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match=r"^fit: `progress` must be True, False, 'quiet'"):
            small.training_loop().fit(small.model(), 1, progress=wrong)


def test_a_wrong_detail_is_told_what_it_may_be():
    with pytest.raises(ValueError, match="ProgressBar: `detail` must be 'quiet', 'normal' or 'verbose', got 'loud'"):
        ProgressBar(detail="loud")  # type: ignore[arg-type]


def test_a_progress_bar_among_the_callbacks_is_the_only_one(capsys):
    small.training_loop(callbacks=[ProgressBar()], progress=True).fit(small.model(), epochs=1)
    assert sum(line.startswith("Epoch 1/1") for line in capsys.readouterr().out.splitlines()) == 1
    stream = io.StringIO()
    small.training_loop(callbacks=[ProgressBar(stream)], progress=True).fit(small.model(), epochs=1)
    shown = [*lines(stream), *capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("Epoch 1/1") for line in shown) == 2
