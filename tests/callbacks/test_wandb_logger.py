"""The log in Weights & Biases, offline: read back from its files, message by message as W&B defines them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks import WandbLogger
from jaxloop.callbacks.tracking import Point
from jaxloop.callbacks.wandb_logger import _in_folder, _Run
from tests import small
from tests.callbacks import offline

pytest.importorskip("wandb", reason="wandb is not installed: pip install '.[wandb]'")
pytestmark = [pytest.mark.filterwarnings(each) for each in offline.WARNINGS]
SECONDS = 180


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in offline.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def diverging(loop, event):
    """Records a NaN, an infinity and a whole number."""
    if event is not jl.Event.BATCH_END or loop.phase is not jl.Phase.TRAINING:
        return loop
    return loop.record("nan", np.nan).record("large", np.inf).record("count", loop.step)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A fit that was logged offline: its folder, and its history."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in offline.ENVIRONMENT.items():
            patched.setenv(name, value)
        logger = WandbLogger("digits", directory=folder, config={"width": np.int64(64)}, tags=["small"])
        training_loop = small.training_loop(callbacks=[diverging, logger], steps_per_dispatch=2)
        _, history = training_loop.fit(small.model(), 2)
    offline.wait_for_end(*offline.files(folder))
    return folder, history


def test_every_value_of_every_batch_and_epoch_is_read_back(logged):
    folder, history = logged
    batches, epochs = offline.rows(folder)
    names = [name for name in history.batches if name not in ("epoch", "batch", "step")]
    expected = {
        int(step): {f"batch/{name}": float(history.batches[name][row]) for name in names}
        for row, step in enumerate(history.batches["step"])
    }
    np.testing.assert_equal({step: offline.numbers(row) for step, row in batches.items()}, expected)
    assert {"batch/nan", "batch/large", "batch/count"} < set(batches[1])
    for row, epoch in enumerate(history.epochs["epoch"].tolist()):
        found = offline.numbers(epochs[epoch])
        clocks = {f"epoch/{name}" for name in ("seconds", "examples_per_second")}
        assert clocks < set(found)
        names = [name for name in history.epochs if name != "epoch" and f"epoch/{name}" not in clocks]
        wanted = {f"epoch/{name}": float(history.epochs[name][row]) for name in names}
        np.testing.assert_equal({name: value for name, value in found.items() if name not in clocks}, wanted)


def test_config_axes_and_the_end_are_in_the_run(logged):
    folder, _ = logged
    (path,) = offline.files(folder)
    (run,) = offline.of_kind(path, "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.project, list(run.tags), config["width"]) == ("digits", ["small"], 64)
    fit = {"epochs": 2, "batches_per_epoch": 3, "total_steps": 6}
    assert config["fit"].items() >= fit.items()
    axes = {(metric.name or metric.glob_name): metric.step_metric for metric in offline.of_kind(path, "metric")}
    assert axes == {"step": "", "epoch": "", "batch/*": "step", "epoch/*": "epoch"}
    (end,) = offline.of_kind(path, "exit")
    assert end.exit_code == 0


SCRIPT = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
import jaxloop as jl
from jaxloop.callbacks import outbox
from tests import small

outbox._SECONDS_BETWEEN = 0.5
folder, how, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

@jl.on_host(jl.Event.BATCH_END)
def end(loop, event):
    if int(loop.step) == 20:  # as a loader forks its workers
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
    if int(loop.step) == at and how in ("KILL", "TERM"):
        time.sleep(0.7)  # so that some rows are sent, and some are not
        os.kill(os.getpid(), signal.Signals["SIG" + how])

logger = jl.callbacks.WandbLogger("digits", directory=folder, every=1)
checkpoint = jl.callbacks.Checkpoint(folder / "checkpoints", every=37)
training = jl.TrainingEpochs(small.samples(400), batch_size=4)
training_loop = small.training_loop(training=training, callbacks=[logger, checkpoint, end])
assert not any(name.startswith("wandb") for name in sys.modules)
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
_, history = training_loop.fit(small.model(), 3, resume_from=folder / "checkpoints")
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
print(history.stopped)
"""


def run(folder, how, at=0):
    """A fit in a process of its own, which must end within its time; its exit status and what it has printed."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(folder), how, str(at)]
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # that of these tests
    environment = inherited | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == {"KILL": -9}.get(how, 0), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.slow) for how in ("KILL", "TERM")])
def test_a_run_that_is_ended_by_a_signal_goes_on_in_the_same_run_and_every_row_is_there_once(how, tmp_path):
    assert run(tmp_path, how, at=170) == {"KILL": [], "TERM": ["preempted"]}[how]
    if how == "TERM":
        (path,) = offline.files(tmp_path)
        (end,) = offline.of_kind(path, "exit")
        assert end.exit_code == 1
        assert len(list(offline.of_kind(path, "preempting"))) == 1
    assert run(tmp_path, "on") == ["completed"]
    paths = offline.files(tmp_path)
    assert len({path.name for path in paths}) == 1
    assert len(paths) == 2
    batches, epochs = offline.rows(tmp_path)
    assert list(batches) == [*range(1, 301)]
    assert list(epochs) == [1, 2, 3]


class Remote:
    """A run of W&B that stands in for one online."""

    offline = False
    id = "abc"
    dir = "run/wandb/run-1-abc/files"

    def __init__(self, summary):
        self.summary = summary
        self.rows = []

    def log(self, row):
        self.rows.append(row)


def test_an_online_run_that_goes_on_has_no_row_twice_as_its_summary_tells(monkeypatch):
    tracker = _Run(WandbLogger())
    monkeypatch.setattr(tracker, "_open", lambda more: setattr(tracker, "_run", Remote({"step": 6, "epoch": 2})))
    tracker.go_on({"id": "abc", "folder": "gone"}, {})
    batches = [Point("batch", step, 2, 0.0, {"loss": 0.5}) for step in range(5, 9)]
    tracker.send([*batches[:2], Point("epoch", 6, 2, 0.0, {"loss": 0.5}), *batches[2:]])
    tracker.send([Point("epoch", 9, 3, 0.0, {"loss": 0.25})])
    assert [(row["step"], row.get("epoch")) for row in tracker._run.rows] == [(7, None), (8, None), (9, 3)]


def test_an_epoch_0_has_its_row_once(monkeypatch, tmp_path):
    tracker = _Run(WandbLogger())
    monkeypatch.setattr(tracker, "_open", lambda more: setattr(tracker, "_run", Remote({})))
    tracker.go_on({"id": "abc", "folder": "gone"}, {})
    at_start = Point("epoch", 0, 0, 0.0, {"validation_loss": 0.5})
    tracker.send([at_start])
    tracker.send([at_start, Point("batch", 1, 1, 0.0, {"loss": 0.5})])
    assert [(row["step"], row.get("epoch")) for row in tracker._run.rows] == [(0, 0), (1, None)]
    assert _in_folder(tmp_path, "abc") == (0, -1)


def test_a_run_that_goes_on_leaves_another_that_is_open_as_it_is(tmp_path):
    import wandb

    with wandb.init(project="own", dir=str(tmp_path), settings=wandb.Settings(console="off")) as own:
        tracker = _Run(WandbLogger("digits", directory=tmp_path))
        tracker.go_on({"id": "abc", "folder": str(tmp_path / "wandb")}, {})
        assert tracker._run.id == "abc"
        tracker.end("completed")
        assert wandb.run is own
        own.log({"mine": 1})


def test_a_run_that_is_open_already_is_used_and_stays_open(tmp_path):
    import wandb

    with wandb.init(project="own", dir=str(tmp_path), settings=wandb.Settings(console="off")) as own:
        training_loop = small.training_loop(callbacks=[WandbLogger("other", directory=tmp_path)])
        training_loop.fit(small.model(), 1, validate_at_start=True)
        assert wandb.run is own
        own.log({"mine": 1})
    (path,) = offline.files(tmp_path)
    offline.wait_for_end(path)
    assert sum(1 for _ in offline.of_kind(path, "history")) == 6


def test_where_nobody_answers_a_warning_says_so_and_training_goes_on(tmp_path):
    import wandb

    settings = wandb.Settings(console="off", init_timeout=1.0)
    logger = WandbLogger("digits", directory=tmp_path, mode="online", settings=settings)
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="WandbLogger: Weights & Biases cannot be reached") as told:
        loop, _ = small.training_loop(callbacks=[logger]).fit(small.model(), 1)
    assert int(loop.step) == 3
    assert len(told) == 1
    assert time.monotonic() - began < 120


def test_where_wandb_is_missing_its_extra_is_named_before_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"WandbLogger: it needs wandb.*pip install 'jaxloop\[wandb\]'"):
        WandbLogger().bind(jl.Plan(1, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "off"}, ValueError, "`mode` must be 'online', 'offline' or 'disabled', got 'off'"),
        ({"resume": "must"}, TypeError, "'resume' of wandb.init is set by the logger itself"),
        ({"every": 0}, ValueError, "`every` must be a whole number of at least 1, got 0"),
        ({"timeout": 0}, ValueError, "`timeout` must be a number of seconds above 0, got 0"),
        ({"config": {"net": object()}}, TypeError, "`config` must hold numbers"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"WandbLogger: {message}"):
        WandbLogger(**arguments)


def test_the_repr_of_a_logger_shows_its_project():
    assert repr(WandbLogger("digits")) == "WandbLogger('digits')"
