"""The TensorBoard log of runs that are killed and resumed: point for point that of a run that is not."""

import os
import time
import warnings

import numpy as np
import pytest

from jaxloop.callbacks import TensorBoardLogger, tensorboard_logger
from jaxloop.errors import CheckpointError
from jaxloop.events import Event, Phase
from tests import event_files
from tests.callbacks import replaying

RATE = "epoch/examples_per_second"


def die(log):
    """Leaves what was told so far in the files; the operating system lets go of them, without `close`."""
    log._write_waiting()
    for file in log._files.values():
        file._file.close()


def points(run):
    """Every scalar of a run by its bits, but for the rate, which is of the clock: only that it is there."""
    found = {}
    for folder in ("train", "validation"):
        if (run / folder).exists():
            for tag, values in event_files.scalars(run / folder).items():
                bits = {step: None if tag == RATE else np.float32(value).tobytes() for step, value in values.items()}
                found[folder, tag] = list(bits.items())  # also in order
    return found


@pytest.fixture(scope="module", params=[("batch", 1), ("batch", 2), ("epoch", 1)], ids=lambda it: f"{it[0]}-{it[1]}")
def run(request):
    report, steps = request.param
    return replaying.written_down(report=report, steps_per_dispatch=steps)


@pytest.fixture(scope="module")
def short_run():
    return replaying.written_down()


@pytest.fixture
def logged(tmp_path):
    """The points of the log of an uninterrupted run."""

    def log(plan, told, **options):
        whole = TensorBoardLogger(tmp_path / "whole", **options).bind(plan)
        replaying.tell(whole, told)
        whole.close()
        return points(event_files.only_run(tmp_path / "whole"))

    return log


@pytest.mark.parametrize("further", [0, 1, 4])
def test_the_points_are_those_of_an_uninterrupted_run_wherever_it_was_saved(run, logged, tmp_path, further):
    plan, told, _ = run
    expected = logged(plan, told)
    assert ("train", RATE) in expected
    for save in range(1, len(told) + 1):
        root = tmp_path / f"{save}"
        log = replaying.killed_and_resumed(
            lambda: TensorBoardLogger(root).bind(plan),  # noqa: B023
            told,
            save,
            save + further,
            die,
        )
        log.close()
        assert points(event_files.only_run(root)) == expected, save


def test_a_run_may_be_killed_again_and_again(short_run, logged, tmp_path):
    plan, told, _ = short_run
    make = lambda: TensorBoardLogger(tmp_path / "stats").bind(plan)  # noqa: E731
    log = make()
    replaying.tell(log, told[:1])
    for save in range(1, len(told)):
        state = replaying.saved(log)
        replaying.tell(log, told[save : save + 3])
        die(log)
        log = make()
        log.resume(replaying.view_after(told[:save]), state)
        replaying.tell(log, told[save : save + 1])
    log.close()
    assert points(event_files.only_run(tmp_path / "stats")) == logged(plan, told)


@pytest.fixture
def saved(short_run, tmp_path):
    """The state of a log in the middle of a phase; its process is gone, after it wrote more."""
    plan, told, _ = short_run
    log = TensorBoardLogger(tmp_path / "stats").bind(plan)
    replaying.tell(log, told[:5])
    state = replaying.saved(log)
    replaying.tell(log, told[5:12])
    die(log)
    return state


@pytest.fixture
def resumed(short_run, tmp_path):
    """Resumes a log below a root, and tells it the rest."""
    plan, told, _ = short_run

    def resume(state, root=tmp_path / "stats"):
        log = TensorBoardLogger(root).bind(plan)
        log.resume(replaying.view_after(told[:5]), state)
        replaying.tell(log, told[5:])
        log.close()
        return points(log._folder)

    return resume


def test_files_of_before_are_cut_and_not_appended_to_and_new_ones_have_later_names(saved, resumed, tmp_path):
    run = event_files.only_run(tmp_path / "stats")
    before = {path: path.stat().st_size for path in run.rglob("events*")}
    assert {path.parent.name for path in before} == {"train", "validation"}
    resumed(saved)
    after = {path: path.stat().st_size for path in run.rglob("events*")}
    (kept,) = set(before) & set(after)
    assert after[kept] == saved["files"][kept.relative_to(run).as_posix()] < before[kept]
    for path in set(after) - {kept}:
        assert path.name > max(old.name for old in before if old.parent == path.parent)


def test_the_name_of_a_new_file_is_later_even_if_the_clock_is_earlier(saved, resumed, tmp_path, monkeypatch):
    run = event_files.only_run(tmp_path / "stats")
    before = max(path.name for path in (run / "train").iterdir())
    monkeypatch.setattr(time, "time", lambda: 1.0e9)
    resumed(saved)
    assert max(path.name for path in (run / "train").iterdir()) > before


def test_files_of_others_in_the_folder_stay(saved, resumed, tmp_path):
    run = event_files.only_run(tmp_path / "stats")
    contents = {
        run / "notes.txt": b"mine",
        run / "train" / "plot.png": b"mine",
        run / "train" / "events.out.tfevents.1700000000.host.v2": b"",  # as other writers name theirs
    }
    for path, content in contents.items():
        path.write_bytes(content)
    resumed(saved)
    assert {path: path.read_bytes() for path in contents} == contents


def test_a_folder_that_is_gone_is_an_error_with_the_fix(saved, resumed, tmp_path):
    event_files.only_run(tmp_path / "stats").rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"is gone, and the resumed run must go on in it\. Put it back, or"):
        resumed(saved)
    assert list((tmp_path / "stats").iterdir()) == []


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: os.truncate(path, 50)])
def test_a_file_that_is_gone_or_shorter_is_an_error_and_nothing_is_changed(saved, resumed, tmp_path, change):
    run = event_files.only_run(tmp_path / "stats")
    change(next((run / "train").iterdir()))
    before = {path: path.read_bytes() for path in run.rglob("events*")}
    with pytest.raises(CheckpointError, match=r"gone, or shorter.*: train/events\.out.*Nothing was changed\. Put them"):
        resumed(saved)
    assert {path: path.read_bytes() for path in run.rglob("events*")} == before


def test_below_another_root_a_new_folder_begins_and_a_warning_says_so(saved, resumed, logged, short_run, tmp_path):
    with pytest.warns(RuntimeWarning, match="logged below .*stats'. The rest of it goes to .*other"):
        found = resumed(saved, tmp_path / "other")
    expected = logged(short_run[0], short_run[1])
    told_before = sum(columns.count for columns in short_run[1][:5] if not isinstance(columns, tuple))
    assert told_before > 0
    assert found["train", "batch/loss"] == expected["train", "batch/loss"][told_before:]
    assert found["validation", "epoch/loss"] == expected["validation", "epoch/loss"]


def test_a_folder_that_was_moved_to_another_root_is_continued_there(saved, resumed, logged, short_run, tmp_path):
    (tmp_path / "stats").rename(tmp_path / "moved")
    assert resumed(saved, tmp_path / "moved") == logged(short_run[0], short_run[1])


def test_a_state_that_names_a_folder_elsewhere_touches_nothing_there(saved, resumed, tmp_path):
    elsewhere = tmp_path / "train"
    elsewhere.mkdir()
    mine = elsewhere / "events.out.tfevents.1700000000.host.1.0"
    mine.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="is gone"):
        resumed(saved | {"folder": ".."})
    name = "../../train/events.out.tfevents.1700000000.host.1.0"
    with pytest.raises(CheckpointError, match="gone, or shorter"):
        resumed(saved | {"files": {name: 0}})
    assert mine.read_bytes() == b"mine"


def sessions(run):
    """The tags of all records that hyperparameters have in the folder of a run, in order."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return [
        value.tag
        for path in sorted(run.glob("events*"))
        for event in module.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


@pytest.mark.parametrize("save", [1, 6, None])
def test_the_session_of_hyperparameters_begins_and_ends_once(short_run, tmp_path, save):
    plan, told, _ = short_run
    make = lambda: TensorBoardLogger(tmp_path / "stats", hyperparameters={"rate": 0.1}).bind(plan)  # noqa: E731
    first = make()
    save = save or len(told)
    replaying.tell(first, told[:save])
    state = replaying.saved(first)
    first.close()  # as after SIGTERM, or at the end: the end of the session comes after the checkpoint
    log = make()
    log.resume(replaying.view_after(told[:save]), state)
    replaying.tell(log, told[save:])
    assert log._completed
    log.close()
    start = ["_hparams_/experiment", "_hparams_/session_start_info"]
    assert sessions(event_files.only_run(tmp_path / "stats")) == [*start, "_hparams_/session_end_info"]


def test_the_rate_of_the_epoch_leaves_out_the_time_between_and_compiling(tmp_path, view, columns, clock_of, short_run):
    clock = clock_of(tensorboard_logger)
    clock.time = lambda: clock.now
    stats = {"loss": 0.5, "accuracy": 0.5, "validation_loss": 0.25, "validation_accuracy": 0.5, "learning_rate": 0.1}
    row = {"loss": [0.5], "accuracy": [0.5], "learning_rate": [0.1]}
    first = TensorBoardLogger(tmp_path).bind(short_run[0])
    first(view(stats=stats), Event.FIT_START)
    first(view(Phase.TRAINING, stats), Event.TRAINING_START)
    first.notice("Compiled", 5.0)
    clock.now += 5.0 + 3.0
    first.rows(columns(batch_size=16, **row))
    state = replaying.saved(first)
    die(first)
    clock.now += 10_000
    second = TensorBoardLogger(tmp_path).bind(short_run[0])
    second.resume(view(stats=stats), state)
    second.notice("Compiled", 7.0)
    clock.now += 7.0 + 1.0
    second(view(Phase.TRAINING, stats, epoch=1), Event.TRAINING_END)
    second.close()
    found = event_files.scalars(event_files.only_run(tmp_path) / "train")
    assert found[RATE] == {1: 16 / (3 + 1)}


def test_a_log_that_had_failed_goes_on_and_says_that_points_are_missing(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    log = TensorBoardLogger(tmp_path).bind(plan)
    replaying.tell(log, told[:4])
    log._write_waiting()
    replaying.tell(log, told[4:6])
    monkeypatch.setattr(log._files["train"], "write", lambda data: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.warns(RuntimeWarning, match="No space left"):
        state = replaying.saved(log)
    log = TensorBoardLogger(tmp_path).bind(plan)
    with pytest.warns(RuntimeWarning, match="could not be written before.*points of before are missing"):
        log.resume(replaying.view_after(told[:6]), state)
    replaying.tell(log, told[6:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replaying.saved(log)["failed"] is False
    log.close()
    assert 4 in event_files.scalars(event_files.only_run(tmp_path) / "train")["batch/loss"]


def test_a_checkpoint_syncs_each_file(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    log = TensorBoardLogger(tmp_path).bind(plan)
    replaying.tell(log, told[:12])
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    state = replaying.saved(log)
    run = event_files.only_run(tmp_path)
    assert len(state["files"]) == 2
    for name, size in state["files"].items():
        assert (run / name).stat().st_size == size
        assert (run / name).stat().st_ino in synced
    assert run.stat().st_ino in synced
    log.close()
