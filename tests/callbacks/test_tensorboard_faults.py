"""The TensorBoard log where writing fails: on a full disk, and when the process is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxloop.callbacks import CSVLogger, TensorBoardLogger, tensorboard_logger
from jaxloop.events import Event, Plan
from jaxloop.files import waiting
from jaxloop.files.event_file import EventFile
from tests import event_files, small


class Failing(EventFile):
    """An event file whose writes fail from the third on, the version being the first."""

    def __init__(self, folder):
        self.left = 2
        super().__init__(folder)

    def write(self, records):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        super().write(records)


def test_a_write_that_fails_warns_once_and_training_goes_on(tmp_path, monkeypatch):
    plain, _ = small.training_loop().fit(small.model(), 3)
    monkeypatch.setattr(tensorboard_logger, "EventFile", Failing)
    monkeypatch.setattr(waiting, "_SECONDS_AT_LEAST", 0)  # each phase's rows are written by themselves
    callbacks = [TensorBoardLogger(tmp_path / "stats"), CSVLogger(tmp_path / "log.csv")]
    with pytest.warns(RuntimeWarning, match=r"TensorBoardLogger: '.*train' cannot be written, .*No space") as warned:
        loop, history = small.training_loop(callbacks=callbacks).fit(small.model(), 3)
    assert len(warned) == 1
    assert history.stopped == "completed"
    small.assert_trees_equal(plain.model.params, loop.model.params)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 3 * 5
    train = event_files.scalars(event_files.only_run(tmp_path / "stats") / "train")
    assert train["batch/loss"]
    assert train["batch/loss"].items() <= dict(enumerate(history.batches["loss"].tolist(), start=1)).items()


def test_a_file_that_cannot_be_closed_warns_too(view, tmp_path, monkeypatch):
    class Stuck(EventFile):
        def close(self):
            super().close()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(tensorboard_logger, "EventFile", Stuck)
    one = TensorBoardLogger(tmp_path).bind(Plan(2, 3, ("loss",)))
    one(view(stats={"loss": 0.5}), Event.FIT_START)
    with pytest.warns(RuntimeWarning, match="Input/output error"):
        one.close()


def test_where_warnings_are_errors_all_files_are_closed_still(view, tmp_path, monkeypatch):
    made = []

    class Kept(EventFile):
        def __init__(self, folder):
            made.append(self)
            super().__init__(folder)

    monkeypatch.setattr(tensorboard_logger, "EventFile", Kept)
    one = TensorBoardLogger(tmp_path, hyperparameters={"rate": 0.1}).bind(Plan(2, 3, ("loss",)))
    one(view(stats={"loss": 0.5}), Event.FIT_START)

    def full(records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made[1], "write", full)
    with pytest.raises(RuntimeWarning, match="No space left on device"):
        one.close()
    assert [file._file.closed for file in made] == [True, True]


def test_a_logger_that_failed_writes_again_in_the_next_fit(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path)
    training_loop = small.training_loop(callbacks=[logger])
    with monkeypatch.context() as patched:
        patched.setattr(tensorboard_logger, "EventFile", Failing)
        with pytest.warns(RuntimeWarning, match="writes no more"):
            training_loop.fit(small.model(), 1)
    (first,) = tmp_path.iterdir()
    training_loop.fit(small.model(), 1)
    (second,) = set(tmp_path.iterdir()) - {first}
    assert len(event_files.scalars(second / "train")["batch/loss"]) == 3


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own that has a minute to live."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
    )


def test_rows_delivered_before_a_kill_are_there_after_it(tmp_path):
    done = run_script(
        """
        import os, signal, sys, time
        import jaxloop as jl
        from tests import small

        @jl.on_host(jl.Event.BATCH_END)
        def kill(loop, event):
            if int(loop.epoch) == 2 and int(loop.batch_index) == 900:
                time.sleep(1)
            if int(loop.epoch) == 2 and int(loop.batch_index) == 1200:
                os.kill(os.getpid(), signal.SIGKILL)

        training = jl.TrainingEpochs(small.samples(4 * 1500), 4)
        callbacks = [jl.callbacks.TensorBoardLogger(sys.argv[1]), kill]
        small.training_loop(training=training, callbacks=callbacks).fit(small.model(), 2)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = event_files.only_run(tmp_path)
    train = event_files.scalars(run / "train")
    steps = list(train["batch/loss"])
    assert steps == list(range(1, len(steps) + 1))
    assert 1500 + 901 <= len(steps) <= 1500 + 1201  # those before the second that the callback slept are written
    assert list(train["epoch/loss"]) == [1]
    assert list(event_files.scalars(run / "validation")["epoch/loss"]) == [1]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_warns_once_and_the_fit_comes_to_its_end(tiny_disk):
    done = run_script(
        """
        import sys, warnings
        import jaxloop as jl
        from tests import small

        training = jl.TrainingEpochs(small.samples(4 * 100), 4)
        callbacks = [jl.callbacks.TensorBoardLogger(sys.argv[1]), jl.callbacks.CSVLogger(sys.argv[1] + ".csv")]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            _, history = small.training_loop(training=training, callbacks=callbacks).fit(small.model(), 20)
        print(history.stopped, len(history.batches["loss"]), *(warning.message for warning in warned), sep="|")
        """,
        tiny_disk / "stats",
    )
    assert done.returncode == 0, done.stderr
    stopped, rows, *warned = done.stdout.strip().split("|")
    assert (stopped, int(rows)) == ("completed", 2000)
    assert len(warned) == 2
    assert all("No space left on device" in warning for warning in warned)
    header, *lines = (tiny_disk / "stats.csv").read_text().splitlines(keepends=True)
    assert lines
    assert all(line.endswith("\n") and line.count(",") == header.count(",") for line in lines)
    train = event_files.scalars(event_files.only_run(tiny_disk / "stats") / "train")
    assert list(train["batch/loss"]) == list(range(1, len(train["batch/loss"]) + 1))
    assert len(train["batch/loss"]) >= 100
