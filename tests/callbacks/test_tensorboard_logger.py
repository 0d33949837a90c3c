"""The TensorBoard log, read back by TensorBoard's own reader."""

import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import TensorBoardLogger, tensorboard_logger
from jaxloop.events import Event, Phase, Plan
from jaxloop.files import event_folder
from jaxloop.measured import UNMEASURED
from tests import event_files, small

STATS = {"loss": 0.5, "validation_loss": 0.25, "learning_rate": 0.1}


def record_norm(loop, event):
    if event is Event.UPDATE_START:
        return loop.record("gradient_norm", optax.tree.norm(loop.gradient))
    return loop


def fit(root, epochs=2, *, callbacks=(), model_or_loop=None, **changes):
    """A fit of the small task with a recorded scalar, logged below `root`; the loop and the history."""
    logger = TensorBoardLogger(root)
    training_loop = small.training_loop(callbacks=[record_norm, logger, *callbacks], **changes)
    return training_loop.fit(model_or_loop or small.model(), epochs)


def float32s(values):
    return np.array(values, np.float32).tolist()


@pytest.fixture
def clock(clock_of):
    clock = clock_of(tensorboard_logger)
    clock.time = lambda: clock.now
    return clock


@pytest.fixture
def log(tmp_path, clock):
    """Makes the log of one fit, by hand, with a clock that stands still."""

    def make(report="batch", **options):
        return TensorBoardLogger(tmp_path / "stats", **options).bind(Plan(2, 3, ("loss",), report))

    return make


@pytest.fixture
def run_of(tmp_path):
    return lambda: event_files.only_run(tmp_path / "stats")


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_tensorboard_reads_back_every_value_of_a_fit_bit_for_bit(steps_per_dispatch, tmp_path):
    training = jl.TrainingEpochs(small.samples(40), batch_size=4)  # 10 steps: three dispatches of 3, one of 1
    _, history = fit(tmp_path, training=training, steps_per_dispatch=steps_per_dispatch)
    run = event_files.only_run(tmp_path)
    train, validation = event_files.scalars(run / "train"), event_files.scalars(run / "validation")
    names = ("loss", "accuracy", "learning_rate", "gradient_norm")
    for name in names:
        assert train[f"batch/{name}"] == dict(enumerate(history.batches[name].tolist(), start=1))
        assert train[f"epoch/{name}"] == dict(enumerate(float32s(history.epochs[name]), start=1))
    for name in ("loss", "accuracy"):
        expected = dict(enumerate(float32s(history.epochs[f"validation_{name}"]), start=1))
        assert validation[f"epoch/{name}"] == expected
    expected = {f"{kind}/{name}" for kind in ("batch", "epoch") for name in names}
    assert set(train) == expected | {"epoch/examples_per_second"}
    assert set(validation) == {"epoch/loss", "epoch/accuracy"}


def test_where_epochs_are_reported_there_are_no_tags_of_batches(tmp_path):
    _, history = fit(tmp_path, report="epoch")
    train = event_files.scalars(event_files.only_run(tmp_path) / "train")
    names = {"epoch/loss", "epoch/accuracy", "epoch/learning_rate", "epoch/gradient_norm", "epoch/examples_per_second"}
    assert set(train) == names
    assert train["epoch/loss"] == dict(enumerate(float32s(history.epochs["loss"]), start=1))


def test_without_validation_there_is_no_folder_for_it(tmp_path):
    fit(tmp_path, validation=None)
    assert [path.name for path in event_files.only_run(tmp_path).iterdir()] == ["train"]


def test_an_optimizer_that_exposes_no_learning_rate_has_no_tag_of_it(tmp_path):
    fit(tmp_path, optimizer=optax.sgd(0.1))
    train = event_files.scalars(event_files.only_run(tmp_path) / "train")
    assert "batch/loss" in train
    assert not any("learning_rate" in tag for tag in train)


def test_a_fit_that_goes_on_has_a_folder_of_its_own_and_its_steps_go_on(tmp_path):
    loop, _ = fit(tmp_path, 2)
    (first,) = tmp_path.iterdir()
    _, history = fit(tmp_path, 1, model_or_loop=loop)
    (second,) = set(tmp_path.iterdir()) - {first}
    train, validation = event_files.scalars(second / "train"), event_files.scalars(second / "validation")
    assert train["batch/loss"] == dict(enumerate(history.batches["loss"].tolist(), start=7))
    assert train["epoch/loss"] == {3: np.float32(history.epochs["loss"][0])}
    assert validation["epoch/loss"] == {3: np.float32(history.epochs["validation_loss"][0])}


def test_runs_of_the_same_second_are_apart(log, view, tmp_path, monkeypatch):
    class Stopped(event_folder.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 1, 31, 23, 59, 58)

    monkeypatch.setattr(event_folder, "datetime", Stopped)
    for _ in range(3):
        one = log()
        one(view(stats=STATS), Event.FIT_START)
        one.close()
    found = sorted(path.name for path in (tmp_path / "stats").iterdir())
    assert found == ["20250131-235958", "20250131-235958-2", "20250131-235958-3"]


def test_examples_per_second_leave_compilation_out(log, view, columns, run_of, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    one.notice("Compiled", 7.0)
    one.rows(columns(loss=[0.5, 0.5], learning_rate=[0.1, 0.1], batch_size=16))
    clock.now += 9.0
    one(view(Phase.TRAINING, STATS, epoch=1), Event.TRAINING_END)
    one.close()
    assert event_files.scalars(run_of() / "train")["epoch/examples_per_second"] == {1: 16.0}  # 32 in 2 seconds


def test_rows_of_a_phase_are_written_when_it_ends(log, view, columns, run_of, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    one.rows(columns(loss=[0.5, 0.25], learning_rate=[0.1, 0.1]))
    assert event_files.scalars(run_of() / "train") == {}
    clock.now += 0.125
    one(view(Phase.TRAINING, STATS, epoch=1), Event.TRAINING_END)
    assert event_files.scalars(run_of() / "train")["batch/loss"] == {1: 0.5, 2: 0.25}
    one.close()


def test_rows_of_short_phases_are_written_together(log, view, columns, run_of, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    for epoch in range(2):
        one(view(Phase.TRAINING), Event.TRAINING_START)
        one.rows(columns(step=2 * epoch, loss=[0.5, 0.25], learning_rate=[0.1, 0.1]))
        clock.now += 0.0625
        one(view(Phase.TRAINING, STATS, epoch=epoch + 1), Event.TRAINING_END)
        assert list(event_files.scalars(run_of() / "train").get("batch/loss", {})) == [[], [1, 2, 3, 4]][epoch]
        one.rows(columns(Phase.VALIDATION, loss=[0.5], learning_rate=[0.1]))
        one(view(Phase.VALIDATION, STATS, epoch=epoch + 1), Event.VALIDATION_END)
    one.close()


def test_rows_are_written_once_8192_wait(log, view, columns, run_of, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    for step in range(0, 9000, 1000):
        one.rows(columns(step=step, loss=[0.5] * 1000, learning_rate=[0.1] * 1000))
    assert list(event_files.scalars(run_of() / "train")["batch/loss"]) == list(range(1, 9001))
    one.rows(columns(step=9000, loss=[0.5], learning_rate=[0.1]))
    assert list(event_files.scalars(run_of() / "train")["batch/loss"]) == list(range(1, 9001))
    one.close()
    assert list(event_files.scalars(run_of() / "train")["batch/loss"]) == list(range(1, 9002))


def test_rows_are_written_once_the_last_were_a_second_ago_each_with_its_time(log, view, columns, run_of, clock):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    for step in range(4):
        clock.now += 0.5
        one.rows(columns(step=step, loss=[0.5], learning_rate=[0.1]))
    assert [event.wall_time for event in event_files.read(run_of() / "train").Scalars("batch/loss")] == [
        *(100.5, 101.0, 101.5, 102.0),
    ]
    one.close()


def test_a_phase_without_rows_has_no_value_of_its_epoch(log, view, columns, run_of):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    one.rows(columns(loss=[0.5], learning_rate=[0.1]))
    one(view(Phase.TRAINING, STATS, epoch=1), Event.TRAINING_END)
    one(view(Phase.VALIDATION, STATS, epoch=1), Event.VALIDATION_END)
    one.close()
    assert event_files.scalars(run_of() / "train")["epoch/loss"] == {1: 0.5}
    assert not (run_of() / "validation").exists()


def test_a_loss_that_is_not_finite_is_written_as_it_is(log, view, columns, run_of):
    one = log()
    one(view(stats=STATS), Event.FIT_START)
    one.rows(columns(loss=[np.nan, np.inf], learning_rate=[0.1, 0.1]))
    one.close()
    np.testing.assert_array_equal(
        list(event_files.scalars(run_of() / "train")["batch/loss"].values()), [np.nan, np.inf]
    )


def test_what_was_not_measured_in_an_epoch_has_no_point(log, view, run_of, columns):
    stats = STATS | {
        "norm": UNMEASURED,
        "bad": np.float32(np.nan),
        "tokens": np.int32(2**20 + 1),
        "late": np.int32(-(2**31)),
    }
    one = log()
    one(view(stats=stats), Event.FIT_START)
    one(view(Phase.TRAINING), Event.TRAINING_START)
    late = np.array([-(2**31), 7], np.int32)
    one.rows(
        columns(
            loss=[0.5, 0.25], learning_rate=[0.1] * 2, norm=[UNMEASURED] * 2, bad=[np.nan] * 2, tokens=late, late=late
        )
    )
    one(view(Phase.TRAINING, stats | {"loss": UNMEASURED}, epoch=1), Event.TRAINING_END)
    one(view(None, stats, epoch=1), Event.EPOCH_END)
    one.close()
    found = event_files.scalars(run_of() / "train")
    assert not {"epoch/norm", "epoch/late", "epoch/loss"} & set(found)
    assert found["epoch/tokens"] == {1: 2**20 + 1}
    assert np.isnan(found["epoch/bad"][1])
    np.testing.assert_array_equal(list(found["batch/late"].values()), [np.nan, 7.0])


@pytest.mark.parametrize("root", ["file", "file/deep/stats"])
def test_a_root_that_cannot_be_made_is_refused_before_training_and_left_untouched(root, log, view, tmp_path):
    (tmp_path / "file").write_text("mine")
    one = TensorBoardLogger(tmp_path / root).bind(Plan(1, 1))
    with pytest.raises(OSError, match=rf"TensorBoardLogger: no folder can be made below '.*{root}'.*another `root`"):
        one(view(stats=STATS), Event.FIT_START)
    one.close()
    assert (tmp_path / "file").read_text() == "mine"


def test_closing_a_log_that_was_never_opened_is_fine(log, tmp_path):
    log(hyperparameters={"rate": 0.1}).close()
    assert list(tmp_path.iterdir()) == []


def test_making_a_logger_touches_no_file(tmp_path):
    TensorBoardLogger(tmp_path / "stats")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weight_histograms", "gradient_histograms"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_of_epochs_or_steps_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"TensorBoardLogger: `{name}` must be a whole number of at least 1, got"):
        TensorBoardLogger(**{name: value})


def test_images_that_are_no_function_are_refused():
    with pytest.raises(TypeError, match=r"TensorBoardLogger: `images` must be a function of the loop, got \[\]"):
        TensorBoardLogger(images=[])


def test_the_repr_of_a_logger_shows_its_root():
    assert repr(TensorBoardLogger("run/here")) == "TensorBoardLogger('run/here')"
