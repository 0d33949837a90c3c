"""The console, following a fit: when it shows what."""

import io
import re

import pytest

from jaxloop.callbacks import ProgressBar, progress_bar
from jaxloop.events import Event, Phase, Plan
from jaxloop.measured import UNMEASURED

PLAN = Plan(epoch_count=12, batch_count=4, metrics=("loss", "accuracy"))
STATS = {"loss": 0.48191, "accuracy": 0.85, "validation_loss": 0.152, "validation_accuracy": 0.9521}
NOTHING = dict.fromkeys(STATS, UNMEASURED)
COUNTERS = {"epoch_index": 2, "epoch_count": 12}


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture
def clock(clock_of):
    return clock_of(progress_bar)


@pytest.fixture
def row_of(columns):
    """The row of a batch of four examples, or of several in one dispatch."""

    def make(phase, batch, batches, *, epoch_index=2, stats=STATS, count=1):
        rows = columns(phase, batch_index=batch, **{name: [value] * count for name, value in stats.items()})
        places = {name: place for name, (place, _) in rows._places.items()}
        for name, value in {"epoch_index": epoch_index, "epoch_count": 12, "batch_count": batches}.items():
            rows._matrix[:, places[name]] = value
        return rows

    return make


@pytest.fixture
def run_phase(view, row_of, clock):
    """Shows a phase of dispatches of one row, a given time apart."""

    def run(shown, phase=Phase.TRAINING, batches=4, apart=1.0, stats=STATS, epoch_index=2):
        position = {"epoch_index": epoch_index, "epoch_count": 12, "batch_count": batches}
        shown(view(phase, NOTHING, **position), phase.start)
        for batch in range(batches):
            clock.now += apart
            shown.rows(row_of(phase, batch, batches, epoch_index=epoch_index, stats=stats))
        shown(view(phase, stats, batch_index=batches, **position), phase.end)

    return run


@pytest.fixture
def run_epoch(run_phase, view):
    """Shows an epoch, with validation where there are batches for it."""

    def run(shown, *, training=4, validation=2, stats=STATS, epoch_index=2, **options):
        counters = {"epoch_index": epoch_index, "epoch_count": 12}
        shown(view(None, stats, **counters), Event.EPOCH_START)
        run_phase(shown, Phase.TRAINING, training, stats=stats, epoch_index=epoch_index, **options)
        if validation:
            run_phase(shown, Phase.VALIDATION, validation, stats=stats, epoch_index=epoch_index, **options)
        shown(view(None, stats, **counters), Event.EPOCH_END)

    return run


def lines(stream):
    return stream.getvalue().splitlines()


def epochs(stream):
    """The lines of epochs, without those on what was told between them."""
    return [line for line in lines(stream) if line.startswith("Epoch")]


def bars(terminal):
    """What was painted, one after the other, blanks behind it left out."""
    return [line.rstrip() for line in re.split("[\r\n]", terminal.getvalue()) if line.strip()]


def test_a_stream_that_is_no_terminal_gets_one_line_an_epoch(run_epoch):
    stream = io.StringIO()
    run_epoch(ProgressBar(stream).bind(PLAN))
    assert lines(stream) == [
        "Epoch  3/12 in 6.00 s - loss 0.4819, validation_loss 0.1520, accuracy 0.8500, validation_accuracy 0.9521, best"
    ]


def test_without_validation_the_line_holds_training_alone(run_epoch):
    stream = io.StringIO()
    run_epoch(ProgressBar(stream).bind(PLAN), validation=0, stats=STATS | {"learning_rate": 0.01})
    assert lines(stream) == ["Epoch  3/12 in 4.00 s - loss 0.4819, accuracy 0.8500, learning_rate 0.01, best"]


@pytest.mark.parametrize("count", [1, 50])
def test_a_stream_that_is_no_terminal_is_written_to_once_a_minute_at_most(run_epoch, count):
    stream = io.StringIO()
    run_epoch(ProgressBar(stream).bind(PLAN), training=count)
    assert len(lines(stream)) == 1


def test_an_epoch_of_minutes_says_each_minute_where_it_stands(run_phase):
    stream = io.StringIO()
    run_phase(ProgressBar(stream).bind(PLAN), batches=5, apart=40.0)
    assert lines(stream) == [
        "Epoch  3/12 training 2/5 batches - loss 0.4819, accuracy 0.8500, 0.10 examples/s, 32:00 left (2:00 in epoch)",
        "Epoch  3/12 training 4/5 batches - loss 0.4819, accuracy 0.8500, 0.10 examples/s, 30:40 left (40 s in epoch)",
    ]


def test_a_terminal_gets_a_bar_with_all_there_is_to_say(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN), stats=STATS | {"learning_rate": 3e-4})
    assert bars(terminal) == [
        f"Epoch  3/12 |{'':30}| 0/4",
        *(
            f"Epoch  3/12 |{bar:30}| {done}/4, loss 0.4819, accuracy 0.8500, lr 3e-4, 4.00 examples/s, {left}"
            for done, bar, left in [
                (1, "█" * 7 + "▌", "39 s left (3 s in epoch)"),
                (2, "█" * 15, "38 s left (2 s in epoch)"),
                (3, "█" * 22 + "▌", "37 s left (1 s in epoch)"),
                (4, "█" * 30, "36 s left (0 s in epoch)"),
            ]
        ),
    ]


def test_the_time_left_counts_validation_once_there_was_one(terminal, run_epoch, run_phase):
    shown = ProgressBar(terminal).bind(PLAN)
    run_epoch(shown, epoch_index=2)  # 4 s and 2 s
    run_phase(shown, epoch_index=3)
    assert bars(terminal)[-1].endswith("4/4, loss 0.4819, accuracy 0.8500, 4.00 examples/s, 50 s left (2 s in epoch)")


def test_a_bar_of_validation_shows_the_metrics_of_validation(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN), Phase.VALIDATION)
    assert " validation |" in bars(terminal)[-1]
    assert "4/4, loss 0.1520, accuracy 0.9521, 4.00 examples/s" in bars(terminal)[-1]


def test_a_bar_is_gone_when_its_phase_is_over(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN))
    assert re.search(r"\r +\r$", terminal.getvalue())


def test_the_bar_stands_behind_the_last_batch_of_a_dispatch(terminal, row_of):
    shown = ProgressBar(terminal).bind(PLAN)
    shown.rows(row_of(Phase.TRAINING, 8, 100, count=16))
    assert "|  24/100, loss 0.4819" in bars(terminal)[-1]
    shown.close()


@pytest.mark.parametrize(("apart", "seconds"), [(0.001, 2), (0.03, 3), (0.0999, 4)])
def test_a_terminal_is_painted_at_most_ten_times_a_second(terminal, run_phase, apart, seconds):
    run_phase(ProgressBar(terminal).bind(PLAN), batches=int(seconds / apart), apart=apart)
    assert len(bars(terminal)) <= 10 * seconds + 1  # and when the phase begins


def test_a_terminal_is_painted_once_for_each_dispatch_that_is_slow(terminal, run_phase):
    run_phase(ProgressBar(terminal).bind(PLAN), batches=20, apart=1.0)
    assert len(bars(terminal)) == 20 + 1


def test_epochs_that_are_over_in_no_time_are_not_all_painted(terminal, run_epoch):
    shown = ProgressBar(terminal).bind(PLAN)
    for index in range(12):
        run_epoch(shown, epoch_index=index, apart=0.001)
    painted = [line for line in bars(terminal) if "|" in line]
    assert len(painted) == 2  # the first training and the first validation, of which nobody knew how long they take
    assert len(bars(terminal)) == 2 + 1 + 12


def test_the_row_of_an_epoch_is_judged_by_the_loss_of_validation(terminal, run_epoch):
    shown = ProgressBar(terminal).bind(PLAN)
    for index, (loss, validation_loss) in enumerate([(0.5, 0.4), (0.4, 0.45), (0.6, 0.3), (0.1, 0.3)]):
        run_epoch(shown, epoch_index=index, stats=STATS | {"loss": loss, "validation_loss": validation_loss})
    rows = [line for line in bars(terminal) if line.lstrip()[0].isdigit()]
    assert [line.endswith("*") for line in rows] == [True, False, True, False]
    assert rows[1].split() == ["2/12", "6.00", "0.4000", "0.4500", "0.8500", "0.9521", "4.00"]


def test_without_validation_it_is_judged_by_the_loss_of_training_and_nan_is_never_the_best(run_epoch):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    for index, loss in enumerate([float("nan"), 0.5, 0.6, 0.4]):
        run_epoch(shown, epoch_index=index, validation=0, stats=STATS | {"loss": loss})
    assert [line.endswith("best") for line in epochs(stream)] == [False, True, False, True]
    assert "loss nan" in epochs(stream)[0]
    assert lines(stream)[0].startswith("The loss is nan from epoch 1, batch")
    assert len(lines(stream)) == len(epochs(stream)) + 1


def test_an_infinite_loss_is_never_the_best(run_epoch):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    for index, loss in enumerate([float("-inf"), 0.5]):
        run_epoch(shown, epoch_index=index, validation=0, stats=STATS | {"loss": loss})
    assert [line.endswith("best") for line in epochs(stream)] == [False, True]


def test_a_metric_that_a_phase_has_not_measured_is_a_dash_and_one_that_has_diverged_nan(terminal, run_epoch):
    stats = STATS | {"accuracy": UNMEASURED, "validation_accuracy": float("nan")}
    run_epoch(ProgressBar(terminal).bind(PLAN), stats=stats)
    row = next(line for line in bars(terminal) if line.lstrip().startswith("3/12"))
    assert row.split()[2:6] == ["0.4819", "0.1520", "-", "nan"]
    assert all("accuracy" not in line for line in bars(terminal) if "/4," in line)


def test_once_there_is_a_validation_loss_the_training_loss_counts_no_more(run_epoch):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    for index, (validation, loss) in enumerate([(0, 0.5), (2, 0.4), (0, 0.1)]):
        run_epoch(shown, epoch_index=index, validation=validation, stats=STATS | {"loss": loss})
    assert [line.endswith("best") for line in lines(stream)] == [True, True, False]


def test_what_an_epoch_has_not_had_is_not_shown_from_the_one_before(terminal, run_epoch):
    shown = ProgressBar(terminal).bind(PLAN)
    run_epoch(shown, epoch_index=0)
    run_epoch(shown, epoch_index=1, validation=0)  # its statistics still hold those of epoch 0
    assert bars(terminal)[-1].split() == ["2/12", "4.00", "0.4819", "-", "0.8500", "-", "4.00"]


def test_a_phase_that_counted_no_batch_has_measured_nothing(view, clock):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    shown(view(None, NOTHING, **COUNTERS), Event.EPOCH_START)
    shown(view(Phase.TRAINING, NOTHING, batch_count=4, **COUNTERS), Event.TRAINING_START)
    clock.now += 1.0
    shown(view(Phase.TRAINING, NOTHING, batch_index=4, batch_count=4, **COUNTERS), Event.TRAINING_END)
    shown(view(None, NOTHING, **COUNTERS), Event.EPOCH_END)
    assert lines(stream) == ["Epoch  3/12 in 1.00 s"]


def test_a_display_that_saw_no_start_shows_where_the_loop_is(terminal, row_of, view, clock):
    shown = ProgressBar(terminal).bind(PLAN)
    shown.rows(row_of(Phase.TRAINING, 49, 100, epoch_index=6))
    assert bars(terminal) == [f"Epoch  7/12 |{'█' * 15:30}|  50/100, loss 0.4819, accuracy 0.8500"]
    clock.now += 10.0
    shown.rows(row_of(Phase.TRAINING, 54, 100, epoch_index=6))
    assert bars(terminal)[-1].endswith(
        " 55/100, loss 0.4819, accuracy 0.8500, 2.00 examples/s, 18:10 left (1:30 in epoch)"
    )
    shown(view(Phase.TRAINING, STATS, batch_index=55, batch_count=100, **COUNTERS), Event.TRAINING_END)


def test_a_display_that_saw_an_end_alone_gives_the_row(view):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    shown(view(Phase.VALIDATION, STATS, batch_index=2, batch_count=2, **COUNTERS), Event.VALIDATION_END)
    shown(view(None, STATS, **COUNTERS), Event.EPOCH_END)
    shown(view(None, STATS | {"validation_loss": UNMEASURED}, **COUNTERS), Event.EPOCH_END)
    assert lines(stream)[0] == (
        "Epoch  3/12 - loss 0.4819, validation_loss 0.1520, accuracy 0.8500, validation_accuracy 0.9521, best"
    )
    assert lines(stream)[1] == "Epoch  3/12 in 0.00 s - loss 0.4819, accuracy 0.8500"


def test_a_notice_outside_of_a_phase_is_a_line(terminal):
    ProgressBar(terminal).bind(PLAN).notice("Training on cpu:0")
    assert terminal.getvalue() == "Training on cpu:0\n"


def test_a_notice_in_a_phase_is_a_line_above_the_bar(terminal, view):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, NOTHING, batch_count=4, **COUNTERS), Event.TRAINING_START)
    shown.notice("Compiled training_step in 1.0 s")
    bar = f"Epoch  3/12 |{'':30}| 0/4"
    assert bars(terminal) == [bar, "Compiled training_step in 1.0 s", bar]
    shown.close()


def test_the_bar_says_what_is_being_compiled_until_it_is(terminal, view):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, NOTHING, batch_count=4, **COUNTERS), Event.TRAINING_START)
    shown.compiling("Compiling training_step x21 ...")
    shown.notice("Compiled training_step x21 in 1.0 s")
    bar = f"Epoch  3/12 |{'':30}| 0/4"
    waits = "Compiling training_step x21 ..."
    assert [line.rstrip() for line in bars(terminal)] == [bar, waits, bar, "Compiled training_step x21 in 1.0 s", bar]
    shown.close()


def test_the_time_of_an_epoch_leaves_out_what_compiling_took(view, clock):
    stream = io.StringIO()
    shown = ProgressBar(stream).bind(PLAN)
    shown(view(Phase.TRAINING, NOTHING, batch_count=4, **COUNTERS), Event.TRAINING_START)
    clock.now += 5
    shown.notice("Compiled training_step in 3.0 s", 3.0)
    shown(view(Phase.TRAINING, STATS, batch_index=4, batch_count=4, **COUNTERS), Event.TRAINING_END)
    clock.now += 9  # a host callback's, between phases
    shown(view(None, STATS, **COUNTERS), Event.EPOCH_END)
    assert lines(stream)[-1].startswith("Epoch  3/12 in 2.00 s - ")


def test_closing_in_the_middle_of_a_phase_leaves_the_bar_and_ends_the_line(terminal, view):
    shown = ProgressBar(terminal).bind(PLAN)
    shown(view(Phase.TRAINING, NOTHING, batch_count=4, **COUNTERS), Event.TRAINING_START)
    shown.close()
    assert terminal.getvalue().endswith("| 0/4\n")


def test_closing_twice_is_closing_once(terminal, run_phase):
    shown = ProgressBar(terminal).bind(PLAN)
    run_phase(shown)
    before = terminal.getvalue()
    shown.close()
    assert terminal.getvalue() == before


def test_the_stream_is_standard_output_at_the_time_of_the_fit(capsys):
    ProgressBar().bind(PLAN).notice("Training on cpu:0")
    assert capsys.readouterr().out == "Training on cpu:0\n"
