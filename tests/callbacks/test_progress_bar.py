"""The console: plain lines, and a bar on a terminal."""

import io

import optax
import pytest

from jaxloop import TrainingEpochs, TrainingLoop, in_batches
from jaxloop.callbacks import ProgressBar, progress_bar
from jaxloop.events import Event, Phase, Plan
from jaxloop.losses import softmax_cross_entropy

PLAN = Plan(epoch_count=12, batch_count=4, metrics=("loss", "accuracy"))
STATS = {"loss": 0.48191, "accuracy": 0.85, "validation_loss": 0.152, "validation_accuracy": 0.9521}


@pytest.fixture
def clock(clock_of):
    return clock_of(progress_bar)


@pytest.fixture
def run_phase(view, columns, clock):
    """Shows a phase of dispatches of one row, a given time apart."""

    def run(shown, phase=Phase.TRAINING, batches=4, apart=1.0):
        shown(view(phase, epoch_index=2, batch_count=batches), phase.start)
        for batch in range(batches):
            clock.now += apart
            shown.rows(columns(phase, batch_index=batch, **{name: [value] for name, value in STATS.items()}))
        shown(view(phase, STATS, epoch_index=2, batch_index=batches, batch_count=batches), phase.end)

    return run


def lines(stream):
    return stream.getvalue().splitlines()


def test_a_stream_that_is_no_terminal_gets_one_line_a_phase(run_phase):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    run_phase(shown, Phase.TRAINING)
    run_phase(shown, Phase.VALIDATION, batches=2, apart=0.25)
    assert lines(stream) == [
        "Epoch  3/12 training   4/4 batches in 4.0 s - loss 0.4819, accuracy 0.8500",
        "Epoch  3/12 validation 2/2 batches in 0.5 s - loss 0.1520, accuracy 0.9521",
    ]


def test_a_terminal_gets_a_bar_with_epoch_batches_and_metrics(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN))
    last = terminal.getvalue().replace("\n", "").split("\r")[-1]
    assert last.startswith("Epoch  3/12 4/4, loss 0.4819, accuracy 0.8500 |")


def test_a_bar_of_validation_shows_the_metrics_of_validation(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN), Phase.VALIDATION)
    assert "validation 4/4, loss 0.1520, accuracy 0.9521 |" in terminal.getvalue()


def test_the_bar_counts_the_batches_of_each_dispatch(terminal, view, columns, clock):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, batch_count=6), Event.TRAINING_START)
    clock.now += 1
    shown.rows(columns(loss=[0.5] * 4, accuracy=[0.5] * 4))
    assert "4/6" in terminal.getvalue().split("\r")[-1]
    shown.close()


@pytest.mark.parametrize(("apart", "seconds"), [(0.001, 2), (0.03, 3), (0.0999, 4)])
def test_a_terminal_is_painted_at_most_ten_times_a_second(terminal, run_phase, apart, seconds):
    shown = ProgressBar(terminal).bind(PLAN)
    run_phase(shown, batches=int(seconds / apart), apart=apart)
    paints = terminal.getvalue().count("\r")
    assert paints <= 10 * seconds + 3  # when it appears, when it is complete, when it is closed


def test_a_terminal_is_painted_once_for_each_dispatch_that_is_slow(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN), batches=20, apart=1.0)
    assert 20 <= terminal.getvalue().count("\r") <= 23


@pytest.mark.parametrize("count", [1, 50])
def test_a_stream_that_is_no_terminal_is_written_to_once_whatever_the_batches(run_phase, count):
    stream = io.StringIO()
    run_phase(ProgressBar(stream).bind(PLAN), batches=count)
    assert len(lines(stream)) == 1


def test_a_notice_outside_of_a_phase_is_a_line(terminal):
    ProgressBar(terminal).bind(PLAN).notice("Training on cpu:0")
    assert terminal.getvalue() == "Training on cpu:0\n"


def test_a_notice_in_a_phase_is_a_line_above_the_bar(terminal, view):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, batch_count=4), Event.TRAINING_START)
    shown.notice("Compiled training_step in 1.0 s")
    assert "Compiled training_step in 1.0 s\n" in terminal.getvalue()
    assert "0/4" in terminal.getvalue().split("Compiled")[1]
    shown.close()


def test_the_time_of_a_phase_leaves_out_what_compiling_took(view, clock):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    shown(view(Phase.TRAINING, epoch_index=2, batch_count=4), Event.TRAINING_START)
    clock.now += 5
    shown.notice("Compiled training_step in 3.0 s", 3.0)
    shown(view(Phase.TRAINING, STATS, epoch_index=2, batch_index=4, batch_count=4), Event.TRAINING_END)
    assert "4/4 batches in 2.0 s" in lines(stream)[-1]


def test_closing_in_the_middle_of_a_phase_ends_the_line(terminal, view):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, batch_count=4), Event.TRAINING_START)
    shown.close()
    assert terminal.getvalue().endswith("\n")


def test_closing_twice_is_closing_once(terminal, run_phase):
    shown = ProgressBar(terminal).bind(PLAN)
    run_phase(shown)
    before = terminal.getvalue()
    shown.close()
    assert terminal.getvalue() == before


def test_the_stream_is_standard_output_at_the_time_of_the_fit(capsys):
    ProgressBar().bind(PLAN).notice("Training on cpu:0")
    assert capsys.readouterr().out == "Training on cpu:0\n"


def test_a_fit_shows_device_compilation_and_each_phase(samples, linear_model):
    stream = io.StringIO()
    training_loop = TrainingLoop(
        TrainingEpochs(samples, 4),
        in_batches(samples, 8),
        optimizer=optax.sgd(0.1),
        loss_fn=softmax_cross_entropy,
        callbacks=[ProgressBar(stream)],
        progress=False,
    )
    training_loop.fit(linear_model(), epochs=2)
    shown = lines(stream)
    assert shown[0].startswith("Training on ")
    assert [line.split(" in ")[0] for line in shown if line.startswith("Compiled")] == [
        "Compiled training_step",
        "Compiled validation_step",
    ]
    assert [line.split(" in ")[0] for line in shown if line.startswith("Epoch")] == [
        "Epoch 1/2 training   5/5 batches",
        "Epoch 1/2 validation 3/3 batches",
        "Epoch 2/2 training   5/5 batches",
        "Epoch 2/2 validation 3/3 batches",
    ]
