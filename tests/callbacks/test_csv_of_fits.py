"""The CSV log of whole fits, read back by pandas."""

import time

import numpy as np
import optax
import pandas as pd
import pytest

from jaxloop import TrainingEpochs, TrainingLoop, in_batches
from jaxloop.callback import on_host
from jaxloop.callbacks import CSVLogger, clip_by_global_norm
from jaxloop.events import Event, Scope
from jaxloop.losses import softmax_cross_entropy


@pytest.fixture(scope="module")
def make_training_loop(samples):
    """Makes a loop of five training and three validation batches an epoch that writes to a path."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.125)

    def make(path, *callbacks, report="batch"):
        return TrainingLoop(
            TrainingEpochs(samples, 4),
            in_batches(samples, 8),
            optimizer=optimizer,
            loss_fn=softmax_cross_entropy,
            metrics=["accuracy"],
            callbacks=[clip_by_global_norm(1.0), CSVLogger(path), *callbacks],
            progress=False,
            report=report,
        )

    return make


@pytest.fixture(scope="module")
def fitted(make_training_loop, linear_model, tmp_path_factory):
    """The history and the log of two epochs."""
    path = tmp_path_factory.mktemp("fit") / "run" / "deep" / "log.csv"
    _, history = make_training_loop(path).fit(linear_model(), epochs=2)
    return history, path


def test_the_header_is_epoch_batch_metrics_then_the_rest(fitted):
    header = fitted[1].read_text().splitlines()[0]
    assert header == "epoch,batch,loss,accuracy,phase,step,learning_rate,gradient_norm"


def test_every_batch_has_a_row_in_order(fitted):
    table = pd.read_csv(fitted[1])
    epoch = ["training"] * 5 + ["validation"] * 3
    assert table["phase"].tolist() == epoch * 2
    assert table["batch"].tolist() == [1, 2, 3, 4, 5, 1, 2, 3] * 2
    assert table["epoch"].tolist() == [1] * 8 + [2] * 8
    assert table["step"].tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_pandas_reads_back_what_was_measured(fitted):
    history, path = fitted
    table = pd.read_csv(path)
    training = table[table["phase"] == "training"]
    for name in ("loss", "accuracy", "learning_rate", "gradient_norm"):
        np.testing.assert_array_equal(training[name].to_numpy(np.float32), history.batches[name])


def test_the_last_validation_row_of_an_epoch_is_the_statistic_of_the_epoch(fitted):
    history, path = fitted
    last = pd.read_csv(path).groupby(["epoch", "phase"]).last().xs("validation", level="phase")
    np.testing.assert_array_equal(
        last["loss"].to_numpy(np.float32), history.epochs["validation_loss"].astype(np.float32)
    )


def test_where_epochs_are_reported_each_has_two_rows(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "log.csv"
    _, history = make_training_loop(path, report="epoch").fit(linear_model(), epochs=2)
    table = pd.read_csv(path)
    assert table["batch"].tolist() == [5, 3, 5, 3]
    assert table["phase"].tolist() == ["training", "validation"] * 2
    np.testing.assert_array_equal(table["loss"][::2].to_numpy(np.float32), history.epochs["loss"].astype(np.float32))


def test_a_fit_that_goes_on_from_a_loop_appends(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "log.csv"
    training_loop = make_training_loop(path, report="epoch")
    loop, _ = training_loop.fit(linear_model(), epochs=2)
    before = path.read_text()
    training_loop.fit(loop, epochs=1)
    assert path.read_text().startswith(before)
    assert pd.read_csv(path)["epoch"].tolist() == [1, 1, 2, 2, 3, 3]


def test_the_fit_of_a_new_model_starts_the_file_empty(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "log.csv"
    training_loop = make_training_loop(path, report="epoch")
    training_loop.fit(linear_model(), epochs=2)
    training_loop.fit(linear_model(), epochs=1)
    assert pd.read_csv(path)["epoch"].tolist() == [1, 1]


def test_rows_written_before_an_error_are_in_the_file(make_training_loop, linear_model, tmp_path):
    @on_host(Event.TRAINING_END)
    def fail(loop, event):
        raise RuntimeError("out of luck")

    path = tmp_path / "log.csv"
    with pytest.raises(RuntimeError, match="out of luck"):
        make_training_loop(path, fail).fit(linear_model(), epochs=1)
    assert len(pd.read_csv(path)) == 5


def test_a_cancelled_fit_leaves_a_whole_file(make_training_loop, linear_model, tmp_path):
    def stop(loop, event):
        return loop.cancel(Scope.FIT, when=loop.step == 2) if event is Event.BATCH_END else loop

    path = tmp_path / "log.csv"
    make_training_loop(path, stop).fit(linear_model(), epochs=1)
    assert pd.read_csv(path)["step"].tolist() == [1, 2, 3]


def test_a_foreign_file_is_refused_before_training_and_left_untouched(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("name,score\nada,7\n")
    with pytest.raises(FileExistsError, match=r"begins with b'name,score\\n', which is not a log of this kind"):
        make_training_loop(path).fit(linear_model(), epochs=1)
    assert path.read_text() == "name,score\nada,7\n"


def test_a_fit_that_goes_on_removes_a_row_that_was_cut_off(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "log.csv"
    training_loop = make_training_loop(path)
    loop, _ = training_loop.fit(linear_model(), epochs=1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    training_loop.fit(loop, epochs=1)
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:8]) == whole[: whole[:-5].rfind(b"\n") + 1]
    assert [len(line.split(b",")) for line in lines] == [8] * (1 + 8 + 8 - 1)
    assert pd.read_csv(path)["step"].tolist() == [1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_two_logs_of_one_path_are_refused_before_any_step_and_nothing_is_lost(
    make_training_loop, linear_model, tmp_path
):
    path = tmp_path / "log.csv"
    with pytest.raises(BlockingIOError, match=r"log\.csv' is being written by another fit or logger.*path of its own"):
        make_training_loop(path, CSVLogger(path)).fit(linear_model(), epochs=1)
    assert path.read_text().count("\n") == 1


def test_a_fit_within_a_fit_cannot_take_its_log(make_training_loop, linear_model, tmp_path):
    path = tmp_path / "log.csv"
    refused = []

    @on_host(Event.EPOCH_END)
    def again(loop, event):
        with pytest.raises(BlockingIOError) as caught:
            make_training_loop(path).fit(linear_model(), epochs=1)
        refused.append(caught.value)

    make_training_loop(path, again).fit(linear_model(), epochs=1)
    assert len(refused) == 1
    assert len(pd.read_csv(path)) == 8


def test_on_a_full_disk_the_fit_goes_on_and_what_was_written_is_whole(make_training_loop, linear_model, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "log.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @on_host(Event.EPOCH_END)
    def fill(loop, event):
        if loop.epoch_index == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, limits[1]))

    callbacks = [on_host(Event.TRAINING_START)(lambda loop, event: time.sleep(0.11)), fill]
    try:
        with pytest.warns(RuntimeWarning, match=r"log\.csv' cannot be written.*training goes on") as told:
            loop, history = make_training_loop(path, *callbacks).fit(linear_model(), epochs=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(told) == 1
    assert (int(loop.step), history.stopped) == (20, "completed")
    text = path.read_bytes()
    assert text.endswith(b"\n")
    assert pd.read_csv(path)["step"].tolist() == [1, 2, 3, 4, 5, 5, 5, 5][: text.count(b"\n") - 1]
    expected, _ = make_training_loop(tmp_path / "other.csv").fit(linear_model(), epochs=4)
    np.testing.assert_array_equal(loop.model.params["weight"], expected.model.params["weight"])
