"""The CSV log of rows that are given by hand, read back by pandas."""

import numpy as np
import pandas as pd
import pytest

from jaxloop.callbacks import CSVLogger, csv_logger
from jaxloop.events import Event, Phase, Plan

STATS = {"loss": 0.0, "accuracy": 0.0, "validation_loss": 0.0, "validation_accuracy": 0.0, "learning_rate": 0.0}


@pytest.fixture
def log(tmp_path):
    """Makes the log of one fit, by hand."""

    def make(report="batch", path=tmp_path / "log.csv"):
        return CSVLogger(path).bind(Plan(2, 3, ("loss", "accuracy"), report))

    return make


@pytest.fixture
def metrics():
    """Statistics of two training batches or of two validation batches, by name."""
    return {
        Phase.TRAINING: {"loss": [0.5, 0.25], "accuracy": [0.0, 1.0], "learning_rate": [0.125, 0.125]},
        Phase.VALIDATION: {
            "validation_loss": [0.75, 0.625],
            "validation_accuracy": [0.5, 0.75],
            "learning_rate": [0.125, 0.125],
        },
    }


def test_rows_of_validation_carry_the_metrics_of_validation(log, view, columns, metrics):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(Phase.VALIDATION, epoch=2, step=6, **metrics[Phase.VALIDATION]))
    one.close()
    assert one._path.read_text().splitlines()[1:] == [
        "2,1,0.75,0.5,validation,6,0.125",
        "2,2,0.625,0.75,validation,6,0.125",
    ]


def test_what_callbacks_recorded_has_columns_in_order_of_name(log, view, columns, metrics):
    one = log()
    one(view(stats=STATS | {"b": 0.0, "a": 0.0}), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING], b=[2.0, 4.0], a=[1.0, 3.0]))
    one.close()
    table = pd.read_csv(one._path)
    assert list(table)[-2:] == ["a", "b"]
    assert table[["a", "b"]].to_numpy().tolist() == [[1, 2], [3, 4]]


def test_what_is_not_a_number_is_read_back_as_such(log, view, columns, metrics):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING] | {"loss": [np.nan, np.inf]}))
    one.close()
    np.testing.assert_array_equal(pd.read_csv(one._path)["loss"], [np.nan, np.inf])


@pytest.mark.parametrize("name", ["a,b", 'say "a"'])
def test_a_recorded_name_is_quoted_where_csv_asks_for_it(log, view, columns, metrics, name):
    one = log()
    one(view(stats=STATS | {name: 0.0}), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING], **{name: [1.0, 3.0]}))
    one.close()
    assert pd.read_csv(one._path)[name].tolist() == [1, 3]


def test_the_rows_of_a_phase_are_on_disk_when_it_ends(log, view, columns, metrics, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING]))
    clock.now += 0.125
    one(view(Phase.TRAINING), Event.TRAINING_END)
    assert len(pd.read_csv(one._path)) == 2
    one.close()


def test_rows_of_short_phases_are_written_together(log, view, columns, metrics, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    seen = []
    for epoch in range(2):
        one.rows(columns(epoch=epoch + 1, **metrics[Phase.TRAINING]))
        clock.now += 0.0625
        one(view(Phase.TRAINING), Event.TRAINING_END)
        seen.append(pd.read_csv(one._path)["epoch"].tolist())
    assert seen == [[], [1, 1, 2, 2]]
    one.close()


def test_rows_of_two_short_phases_keep_their_order_and_their_phase(log, view, columns, metrics, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING]))
    one(view(Phase.TRAINING), Event.TRAINING_END)
    one.rows(columns(Phase.VALIDATION, **metrics[Phase.VALIDATION]))
    one(view(Phase.VALIDATION), Event.VALIDATION_END)
    one.close()
    assert pd.read_csv(one._path)["phase"].tolist() == ["training"] * 2 + ["validation"] * 2


def test_where_epochs_are_reported_a_phase_without_rows_writes_none(log, view, columns, metrics):
    one = log("epoch")
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(**metrics[Phase.TRAINING]))
    one(view(Phase.TRAINING), Event.TRAINING_END)
    one(view(Phase.VALIDATION), Event.VALIDATION_END)
    one.close()
    assert len(pd.read_csv(one._path)) == 1


def test_going_on_over_a_log_of_other_columns_is_refused_and_leaves_it(log, view, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,batch,loss,phase,step,learning_rate\n1,1,0.5,training,1,0.1\n")
    before = path.read_text()
    with pytest.raises(FileExistsError, match=r"not the header of this run, 'epoch,batch,loss,accuracy,.*move it away"):
        log()(view(step=7, stats=STATS), Event.FIT_START)
    assert path.read_text() == before


@pytest.mark.parametrize("step", [0, 7])
def test_an_empty_file_gets_a_header(log, view, tmp_path, step):
    (tmp_path / "log.csv").touch()
    one = log()
    one(view(step=step, stats=STATS), Event.FIT_START)
    one.close()
    assert one._path.read_text() == "epoch,batch,loss,accuracy,phase,step,learning_rate\n"


def test_going_on_without_a_file_makes_one_with_a_header(log, view):
    one = log()
    one(view(step=7, stats=STATS), Event.FIT_START)
    one.close()
    assert one._path.read_text().startswith("epoch,batch,")


def test_a_folder_of_that_name_is_refused(log, view, tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(FileExistsError, match=r"is not a file\. Give another path"):
        log()(view(stats=STATS), Event.FIT_START)


def test_closing_a_log_that_was_never_opened_is_fine(log):
    log().close()


@pytest.mark.parametrize("path", ["log.txt", "run/log", "csv"])
def test_a_path_that_does_not_end_in_csv_is_refused(path):
    with pytest.raises(ValueError, match=f"CSVLogger: `path` must end in .csv, got '{path}'"):
        CSVLogger(path)


def test_making_a_logger_touches_no_file(tmp_path):
    CSVLogger(tmp_path / "run" / "log.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_repr_of_a_logger_shows_its_path():
    assert repr(CSVLogger("run/log.csv")) == "CSVLogger('run/log.csv')"


@pytest.fixture
def clock(clock_of):
    return clock_of(csv_logger)


def batches_in(path):
    return pd.read_csv(path)["step"].tolist()


def test_rows_are_in_the_file_once_8192_wait(log, view, columns, clock, tmp_path):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    for step in range(0, 10000, 1000):
        one.rows(columns(step=step, loss=[0.5] * 1000, accuracy=[0.5] * 1000, learning_rate=[0.1] * 1000))
    assert batches_in(tmp_path / "log.csv") == list(range(1, 9001))
    one.close()
    assert batches_in(tmp_path / "log.csv") == list(range(1, 10001))


def test_rows_are_in_the_file_once_the_last_were_a_second_ago(log, view, columns, clock, tmp_path):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    seen = []
    for step in range(4):
        clock.now += 0.5
        one.rows(columns(step=step, loss=[0.5], accuracy=[0.5], learning_rate=[0.1]))
        seen.append(len(batches_in(tmp_path / "log.csv")))
    assert seen == [0, 2, 2, 4]
    one.close()


@pytest.mark.parametrize("step", [0, 5])
def test_a_header_that_was_cut_off_is_begun_again(log, view, tmp_path, step):
    (tmp_path / "log.csv").write_bytes(b"epoch,batch,lo")
    one = log()
    one(view(stats=STATS, step=step), Event.FIT_START)
    one.close()
    assert (tmp_path / "log.csv").read_bytes() == b"epoch,batch,loss,accuracy,phase,step,learning_rate\n"
