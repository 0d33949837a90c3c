"""`History` and the observer that writes it down."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxloop import recorder as module
from jaxloop.events import Event, Phase, Plan
from jaxloop.history import History
from jaxloop.measured import UNMEASURED
from jaxloop.recorder import Recorder


@pytest.fixture
def clock(clock_of):
    return clock_of(module)


@pytest.fixture
def compile_seconds():
    return {}


@pytest.fixture
def recorder(clock, compile_seconds):
    return Recorder(Plan(2, 3, ("loss",)), compile_seconds)


@pytest.fixture
def record_epoch(view, columns):
    """Sends a recorder the events and rows of one epoch, as the engine does."""

    def record(recorder, *dispatches, epoch=1, stats=None):
        recorder(view(), Event.EPOCH_START)
        recorder(view(Phase.TRAINING), Event.TRAINING_START)
        batch = 0
        for losses in dispatches:
            recorder.rows(columns(epoch=epoch, batch_index=batch, step=3 * (epoch - 1) + batch, loss=losses))
            batch += len(losses)
        recorder(view(Phase.TRAINING), Event.TRAINING_END)
        stats = stats or {"loss": dispatches[-1][-1] if dispatches else np.nan, "validation_loss": np.nan}
        recorder(view(epoch=epoch, stats=stats), Event.EPOCH_END)

    return record


def test_each_training_batch_has_a_row(recorder, record_epoch):
    record_epoch(recorder, [0.5, 0.25], [0.125], epoch=1)
    record_epoch(recorder, [0.75], epoch=2)
    batches = recorder.history("completed").batches
    assert {name: column.tolist() for name, column in batches.items() if name != "validation_loss"} == {
        "epoch": [1, 1, 1, 2],
        "batch": [1, 2, 3, 1],
        "step": [1, 2, 3, 4],
        "loss": [0.5, 0.25, 0.125, 0.75],
    }


def test_where_only_epochs_are_reported_the_last_batch_has_a_row(clock, record_epoch):
    recorder = Recorder(Plan(2, 3, ("loss",), "epoch"), {})
    record_epoch(recorder, [0.5, 0.25], [0.125], epoch=1)
    record_epoch(recorder, [0.75, 0.5], epoch=2)
    batches = recorder.history("completed").batches
    assert (batches["batch"].tolist(), batches["loss"].tolist()) == ([3, 2], [0.125, 0.5])


def test_where_only_epochs_are_reported_an_epoch_without_training_has_no_row(clock, record_epoch):
    recorder = Recorder(Plan(2, 3, ("loss",), "epoch"), {})
    record_epoch(recorder, [0.5], epoch=1)
    record_epoch(recorder, epoch=2)
    assert recorder.history("completed").batches["epoch"].tolist() == [1]


def test_where_only_epochs_are_reported_a_history_in_the_middle_of_one_is_empty(clock, columns):
    recorder = Recorder(Plan(2, 3, ("loss",), "epoch"), {})
    recorder.rows(columns(loss=[0.5]))
    assert recorder.history("cancelled").batches["loss"].tolist() == []


def test_rows_of_validation_are_not_rows_of_training(recorder, record_epoch, columns):
    record_epoch(recorder, [0.5])
    recorder.rows(columns(Phase.VALIDATION, loss=[9.0]))
    assert recorder.history("completed").batches["loss"].tolist() == [0.5]


def test_each_epoch_has_a_row(recorder, record_epoch):
    record_epoch(recorder, [0.5], epoch=1, stats={"loss": 0.5, "validation_loss": 0.75, "norm": 2.0})
    record_epoch(recorder, [0.25], epoch=2, stats={"loss": 0.25, "validation_loss": 0.5, "norm": 1.0})
    epochs = recorder.history("completed").epochs
    shown = {name: epochs[name].tolist() for name in ("epoch", "loss", "validation_loss", "norm")}
    assert shown == {"epoch": [1, 2], "loss": [0.5, 0.25], "validation_loss": [0.75, 0.5], "norm": [2.0, 1.0]}


def test_columns_are_metrics_then_validation_then_the_others_then_times(clock, record_epoch):
    recorder = Recorder(Plan(1, 1, ("loss", "accuracy")), {})
    names = ("validation_loss", "norm", "accuracy", "loss", "validation_accuracy", "learning_rate")
    record_epoch(recorder, stats=dict.fromkeys(names, 1.0))
    assert list(recorder.history("completed").epochs) == [
        "epoch",
        *("loss", "accuracy", "validation_loss", "validation_accuracy"),
        *("learning_rate", "norm"),
        *("seconds", "examples_per_second"),
    ]


def test_an_epoch_lasts_from_its_start_to_its_end(recorder, view, clock):
    recorder(view(), Event.EPOCH_START)
    clock.now += 2.5
    recorder(view(epoch=1, stats={"loss": 0.5, "validation_loss": 1.0}), Event.EPOCH_END)
    assert recorder.history("completed").epochs["seconds"].tolist() == [2.5]


def test_the_rate_is_of_training_alone_without_compilation(recorder, view, columns, clock, compile_seconds):
    recorder(view(), Event.EPOCH_START)
    clock.now += 10
    recorder(view(), Event.TRAINING_START)
    recorder.rows(columns(batch_size=8, loss=[0.5, 0.25, 0.125]))
    compile_seconds["training_step"] = 3.0
    clock.now += 5
    recorder(view(), Event.TRAINING_END)
    clock.now += 10
    recorder(view(epoch=1, stats={"loss": 0.5, "validation_loss": 1.0}), Event.EPOCH_END)
    assert recorder.history("completed").epochs["examples_per_second"].tolist() == [12.0]


def test_the_rate_of_an_epoch_that_was_not_trained_is_nan(recorder, view):
    recorder(view(), Event.EPOCH_START)
    recorder(view(epoch=1, stats={"loss": 0.5, "validation_loss": 1.0}), Event.EPOCH_END)
    assert np.isnan(recorder.history("completed").epochs["examples_per_second"]).all()


def test_nothing_recorded_is_an_empty_history(recorder):
    history = recorder.history("cancelled")
    assert (dict(history.epochs), dict(history.batches), history.stopped) == ({}, {}, "cancelled")


def test_a_history_keeps_the_compile_times_it_was_made_with(recorder, compile_seconds):
    compile_seconds["training_step"] = 3.0
    history = recorder.history("completed")
    compile_seconds["training_step"] = 5.0
    assert history.compile_seconds == {"training_step": 3.0}


def test_the_repr_tells_how_it_ended_and_the_last_epoch():
    epochs = {"epoch": np.array([1, 2]), "loss": np.array([0.5, 0.25]), "validation_loss": np.array([UNMEASURED] * 2)}
    epochs |= {"norm": np.array([1.0, np.nan]), "tokens": np.array([1, 2**24 + 1], np.int32)}
    assert repr(History(epochs, {}, "completed")) == (
        "History(completed after 2 epochs; last: loss 0.25, norm nan, tokens 16777217)"
    )


def test_the_repr_of_an_empty_history_tells_so():
    assert repr(History({}, {}, "cancelled")) == "History(cancelled after 0 epochs)"


TABLES = History({"epoch": np.array([1, 2]), "loss": np.array([0.5, 0.25])}, {"batch": np.array([1])}, "completed")


def test_the_epochs_are_a_table_for_pandas():
    table = TABLES.to_pandas()
    assert table.to_dict("list") == {"epoch": [1, 2], "loss": [0.5, 0.25]}
    assert [str(dtype) for dtype in table.dtypes] == ["int64", "float64"]


def test_the_batches_are_a_table_for_pandas():
    assert TABLES.to_pandas("batches").to_dict("list") == {"batch": [1]}


def test_what_is_done_to_a_table_leaves_the_history_as_it_was():
    table = TABLES.to_pandas()
    table.loc[0, "loss"] = 9.0
    assert TABLES.epochs["loss"].tolist() == [0.5, 0.25]


def test_an_empty_history_is_an_empty_table():
    assert History({}, {}, "cancelled").to_pandas().empty


def test_a_table_of_something_else_is_refused():
    with pytest.raises(ValueError, match="`rows` must be 'epochs' or 'batches', got 'steps'"):
        TABLES.to_pandas("steps")


def test_without_pandas_a_table_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs pandas.*extra `data`.*jaxloop\[data\]"):
        TABLES.to_pandas()


def test_the_extra_that_a_table_names_has_pandas():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(needed.startswith("pandas") for needed in project["optional-dependencies"]["data"])


def test_a_plot_draws_the_columns_that_are_named_and_is_saved(tmp_path):
    pytest.importorskip("matplotlib")
    figure = TABLES.plot(tmp_path / "history.png", names=["loss"])
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["loss"]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_extra_that_a_plot_names_has_matplotlib():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(needed.startswith("matplotlib") for needed in project["optional-dependencies"]["plot"])


def test_the_first_loss_that_is_not_finite_stays_visible_after_a_finite_epoch() -> None:
    losses = np.array([0.5, np.nan, 0.25])
    history = History({"epoch": np.array([1, 2, 3]), "loss": losses}, {}, "completed")
    assert history.diverged == (2, None)
    assert "loss not finite from epoch 2 on" in repr(history)
    batches = {"epoch": np.array([1, 1, 2]), "batch": np.array([1, 2, 1]), "loss": np.array([1.0, np.inf, 2.0])}
    assert History({}, batches, "completed").diverged == (1, 2)
    unmeasured = History({"epoch": np.array([1]), "loss": np.array([UNMEASURED])}, {}, "completed")
    assert (unmeasured.diverged, History({}, {}, "completed").diverged) == (None, None)
