"""The CSV log of runs that are killed and resumed: byte for byte that of a run that is not."""

import os
import warnings
from pathlib import Path

import pytest

from jaxloop.callbacks import CSVLogger
from jaxloop.errors import CheckpointError
from tests.callbacks import replaying


def die(log):
    """Leaves what was told so far in the file; the operating system lets go of it, without `close`."""
    log._write_waiting()
    log._file._file.close()


@pytest.fixture(scope="module", params=[("batch", 1), ("batch", 2), ("epoch", 1)], ids=lambda it: f"{it[0]}-{it[1]}")
def run(request):
    report, steps = request.param
    return replaying.written_down(report=report, steps_per_dispatch=steps)


@pytest.fixture(scope="module")
def short_run():
    return replaying.written_down()


@pytest.fixture
def logged(tmp_path):
    """The bytes of the log of an uninterrupted run."""

    def log(plan, told, path=tmp_path / "whole.csv"):
        whole = CSVLogger(path).bind(plan)
        replaying.tell(whole, told)
        whole.close()
        return path.read_bytes()

    return log


@pytest.mark.parametrize("further", [0, 1, 4])
def test_a_log_is_that_of_an_uninterrupted_run_wherever_it_was_saved(run, logged, tmp_path, further):
    plan, told, _ = run
    expected = logged(plan, told)
    for save in range(1, len(told) + 1):
        path = tmp_path / f"{save}.csv"
        log = replaying.killed_and_resumed(lambda: CSVLogger(path).bind(plan), told, save, save + further, die)  # noqa: B023
        log.close()
        assert path.read_bytes() == expected, save


def test_a_run_may_be_killed_again_and_again(short_run, logged, tmp_path):
    plan, told, _ = short_run
    log = CSVLogger(tmp_path / "log.csv").bind(plan)
    replaying.tell(log, told[:1])
    for save in range(1, len(told)):
        state = replaying.saved(log)
        replaying.tell(log, told[save : save + 3])
        die(log)
        log = CSVLogger(tmp_path / "log.csv").bind(plan)
        log.resume(replaying.view_after(told[:save]), state)
        replaying.tell(log, told[save : save + 1])
    log.close()
    assert (tmp_path / "log.csv").read_bytes() == logged(plan, told)


def test_a_log_that_an_earlier_fit_began_is_continued(short_run, logged, tmp_path):
    plan, told, loop = short_run
    later_plan, later, _ = replaying.written_down(model_or_loop=loop)
    logged(plan, told)
    expected = logged(later_plan, later)
    path = tmp_path / "log.csv"
    logged(plan, told, path)
    log = replaying.killed_and_resumed(lambda: CSVLogger(path).bind(later_plan), later, 5, 9, die)
    log.close()
    assert path.read_bytes() == expected


def test_a_torn_row_after_the_checkpoint_goes(short_run, logged, tmp_path):
    plan, told, _ = short_run
    path = tmp_path / "log.csv"

    def die_in_a_write(log):
        log._file._file.write(b"1,2,0.3")
        log._file._file.close()

    log = replaying.killed_and_resumed(lambda: CSVLogger(path).bind(plan), told, 5, 5, die_in_a_write)
    log.close()
    assert path.read_bytes() == logged(plan, told)


@pytest.fixture
def saved(short_run, tmp_path):
    """The state of a log in the middle of a phase, and the log, whose process is gone."""
    plan, told, _ = short_run
    log = CSVLogger(tmp_path / "log.csv").bind(plan)
    replaying.tell(log, told[:5])
    state = replaying.saved(log)
    die(log)
    return state


@pytest.fixture
def resumed(short_run, tmp_path):
    """Resumes a log at a path, and tells it the rest."""
    plan, told, _ = short_run

    def resume(state, path=tmp_path / "log.csv"):
        log = CSVLogger(path).bind(plan)
        log.resume(replaying.view_after(told[:5]), state)
        replaying.tell(log, told[5:])
        log.close()
        return log._path.read_bytes()

    return resume


def test_a_file_that_is_gone_is_an_error_with_the_fix(saved, resumed, tmp_path):
    (tmp_path / "log.csv").unlink()
    with pytest.raises(CheckpointError, match=r"log\.csv' is gone.*Put the file back, or give another path"):
        resumed(saved)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [lambda was: was[:-9], lambda was: was.replace(b"training", b"TRAINING") + was])
def test_a_file_that_does_not_hold_the_rows_of_then_is_an_error_and_left_untouched(saved, resumed, tmp_path, change):
    path = tmp_path / "log.csv"
    changed = change(path.read_bytes())
    path.write_bytes(changed)
    for _ in range(2):  # the first has released its lock
        with pytest.raises(CheckpointError, match=r"does not begin with the \d+ bytes.*left untouched.*another path"):
            resumed(saved)
    assert path.read_bytes() == changed


def test_a_run_with_other_columns_is_refused(saved, short_run, tmp_path):
    plan, told, _ = replaying.written_down(metrics=[])
    before = (tmp_path / "log.csv").read_bytes()
    with pytest.raises(FileExistsError, match="is not the header of this run"):
        CSVLogger(tmp_path / "log.csv").bind(plan).resume(replaying.view_after(told[:5]), saved)
    assert (tmp_path / "log.csv").read_bytes() == before


def test_at_another_path_a_new_log_begins_and_a_warning_says_so(saved, resumed, logged, short_run, tmp_path):
    expected = logged(short_run[0], short_run[1]).splitlines(keepends=True)
    rows_before = len((tmp_path / "log.csv").read_bytes().splitlines()) - 1
    with pytest.warns(RuntimeWarning, match=r"logged to .*log\.csv'\. A new log begins at .*other\.csv'"):
        found = resumed(saved, tmp_path / "deep" / "other.csv")
    assert rows_before > 0
    assert found.splitlines(keepends=True) == expected[:1] + expected[1 + rows_before :]


def test_a_log_that_was_moved_is_continued_where_it_is_now(saved, resumed, logged, short_run, tmp_path):
    (tmp_path / "log.csv").rename(tmp_path / "moved.csv")
    assert resumed(saved, tmp_path / "moved.csv") == logged(short_run[0], short_run[1])


def test_rows_of_another_run_at_another_path_are_not_removed(saved, resumed, logged, short_run, tmp_path):
    other = logged(short_run[0], short_run[1][:4], tmp_path / "other.csv")
    with pytest.raises(FileExistsError, match=r"at .*other\.csv' there is another file already.*left untouched"):
        resumed(saved, tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_bytes() == other


@pytest.mark.parametrize("spelling", ["./log.csv", "link/log.csv", "log.csv"])
def test_another_spelling_of_the_path_is_the_same_path(
    saved, resumed, logged, short_run, tmp_path, monkeypatch, spelling
):
    expected = logged(short_run[0], short_run[1])
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert resumed(saved, spelling) == expected


def test_a_relative_path_is_kept_as_it_was_given(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    monkeypatch.chdir(tmp_path)
    log = CSVLogger("run/log.csv").bind(plan)
    replaying.tell(log, told[:5])
    state = replaying.saved(log)
    log.close()
    assert state["path"] == str(Path("run/log.csv"))
    (tmp_path / "project").mkdir()
    (tmp_path / "run").rename(tmp_path / "project" / "run")
    monkeypatch.chdir(tmp_path / "project")
    log = CSVLogger("run/log.csv").bind(plan)
    log.resume(replaying.view_after(told[:5]), state)
    log.close()


def test_a_log_that_had_failed_goes_on_after_its_whole_rows_and_says_what_is_missing(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    path = tmp_path / "log.csv"
    log = CSVLogger(path).bind(plan)
    replaying.tell(log, told[:4])
    log._write_waiting()
    before = path.read_bytes()
    replaying.tell(log, told[4:6])
    monkeypatch.setattr(log._file, "write", lambda lines: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(RuntimeWarning, match="No space left"):
        state = replaying.saved(log)
    log = CSVLogger(path).bind(plan)
    with pytest.warns(RuntimeWarning, match=rf"could not be written before.*missing after its byte {len(before)}\."):
        log.resume(replaying.view_after(told[:6]), state)
    replaying.tell(log, told[6:])
    log.close()
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes()) > len(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replaying.saved(log)["failed"] is False


def test_a_disk_that_fails_at_the_checkpoint_ends_the_log_not_the_fit(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    log = CSVLogger(tmp_path / "log.csv").bind(plan)
    replaying.tell(log, told[:4])
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.warns(RuntimeWarning, match="Input/output error.*training goes on"):
        state = replaying.saved(log)
    assert state["failed"] is True
    replaying.tell(log, told[4:])


def test_two_logs_of_one_run_each_find_their_own(short_run, logged, tmp_path):
    plan, told, _ = short_run
    expected = logged(plan, told)
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    logs = [CSVLogger(path).bind(plan) for path in paths]
    replaying.tell(logs[0], told[:5])
    replaying.tell(logs[1], told[:7])
    states = [replaying.saved(log) for log in logs]
    for log in logs:
        die(log)
    for path, state, save in zip(paths, states, (5, 7), strict=True):
        log = CSVLogger(path).bind(plan)
        log.resume(replaying.view_after(told[:save]), state)
        replaying.tell(log, told[save:])
        log.close()
    assert [path.read_bytes() for path in paths] == [expected] * 2


def test_a_log_that_is_being_written_is_not_resumed(saved, short_run, tmp_path):
    plan, told, _ = short_run
    first, second = (CSVLogger(tmp_path / "log.csv").bind(plan) for _ in range(2))
    first.resume(replaying.view_after(told[:5]), saved)
    with pytest.raises(BlockingIOError, match="being written by another"):
        second.resume(replaying.view_after(told[:5]), saved)
    first.close()


def test_a_checkpoint_writes_rows_that_waited_and_syncs_file_and_folders(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_ino), sync(number)))
    path = tmp_path / "run" / "log.csv"
    log = CSVLogger(path).bind(plan)
    replaying.tell(log, told[:5])
    state = replaying.saved(log)
    inodes = [place.stat().st_ino for place in (path, path.parent, tmp_path)]
    assert [inode in synced for inode in inodes] == [True] * 3
    assert state["mark"][0] == path.stat().st_size > 100
    synced.clear()
    replaying.saved(log)
    assert synced == inodes[:1]
    log.close()


def test_a_checkpoint_reads_back_only_what_is_new(short_run, tmp_path, monkeypatch):
    plan, told, _ = short_run
    log = CSVLogger(tmp_path / "log.csv").bind(plan)
    replaying.tell(log, told[:5])
    replaying.saved(log)
    size, read = log._file.size, []
    whole = type(log._file)._read
    monkeypatch.setattr(
        type(log._file), "_read", lambda file, start, count: read.append(start) or whole(file, start, count)
    )
    replaying.tell(log, told[5:8])
    replaying.saved(log)
    assert read
    assert min(read) == size
    log.close()
