"""The log in MLflow, in a local database: read back by MLflow's own client."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks import MLflowLogger
from jaxloop.callbacks.mlflow_logger import _names_in_mlflow, _Run
from tests import small
from tests.callbacks import offline

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install '.[mlflow]'")
pytest.importorskip("sqlalchemy", reason="MLflow's databases need sqlalchemy: pip install '.[mlflow]'")
pytestmark = [pytest.mark.filterwarnings(each) for each in offline.WARNINGS]
SECONDS = 180


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in offline.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database without runs: to make one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patched:
        for name, value in offline.ENVIRONMENT.items():
            patched.setenv(name, value)
        MlflowClient(f"sqlite:///{path}").create_experiment("digits")
    return path


@pytest.fixture
def uri(empty, tmp_path):
    shutil.copy(empty, tmp_path / "runs.db")
    return f"sqlite:///{tmp_path / 'runs.db'}"


def only_run(uri):
    """The client, and the one run in the experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    return client, run


def points(uri):
    """By metric, the value at each step; each must be there once."""
    client, run = only_run(uri)
    found = {}
    for name in run.data.metrics:
        metrics = client.get_metric_history(run.info.run_id, name)
        found[name] = {metric.step: metric.value for metric in metrics}
        assert len(found[name]) == len(metrics), f"{name} has a step twice"
    return found


def diverging(loop, event):
    if event is not jl.Event.BATCH_END or loop.phase is not jl.Phase.TRAINING:
        return loop
    return loop.record("nan", np.nan).record("a/b?", -np.inf).record("count", loop.step)


def test_every_value_of_every_batch_and_epoch_is_read_back(uri):
    config = {"width": np.int64(64), "net": {"layers": [1, 2]}}
    logger = MLflowLogger("digits", tracking_uri=uri, run_name="one", config=config, tags={"kind": "small"})
    training_loop = small.training_loop(callbacks=[diverging, logger], steps_per_dispatch=2)
    _, history = training_loop.fit(small.model(), 2)
    _, run = only_run(uri)
    assert (run.info.status, run.info.run_name, run.data.tags["kind"]) == ("FINISHED", "one", "small")
    params = {"width": "64", "net.layers": "[1, 2]", "fit.epochs": "2", "fit.total_steps": "6"}
    assert run.data.params.items() >= params.items()
    found = points(uri)
    for kind, columns in (("batch", history.batches), ("epoch", history.epochs)):
        axis = columns["step" if kind == "batch" else "epoch"].tolist()
        for name in set(columns) - {"epoch", "batch", "step"}:
            values = found.pop(f"{kind}/{name.replace('?', '_')}")
            expected = np.clip(
                np.asarray(columns[name], np.float64), -sys.float_info.max, None
            )  # its databases: no inf
            if name in ("seconds", "examples_per_second"):
                assert list(values) == axis
            else:
                np.testing.assert_equal(values, dict(zip(axis, expected.tolist(), strict=True)))
    assert found == {}


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import jaxloop as jl
from jaxloop.callbacks import outbox
from tests import small

outbox._SECONDS_BETWEEN = 0.5
folder, uri, how, at = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

@jl.on_host(jl.Event.BATCH_END)
def end(loop, event):
    if int(loop.step) == at and how in ("KILL", "TERM"):
        time.sleep(0.7)  # so that some rows are sent, and some are not
        os.kill(os.getpid(), signal.Signals["SIG" + how])

logger = jl.callbacks.MLflowLogger("digits", tracking_uri=uri, every=1)
checkpoint = jl.callbacks.Checkpoint(folder / "checkpoints", every=37)
training = jl.TrainingEpochs(small.samples(400), batch_size=4)
training_loop = small.training_loop(training=training, callbacks=[logger, checkpoint, end])
assert not any(name.startswith("mlflow") for name in sys.modules)
_, history = training_loop.fit(small.model(), 3, resume_from=folder / "checkpoints")
print(history.stopped)
"""


def run(folder, uri, how, at=0):
    """A fit in a process of its own, which must end within its time; what it has printed."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(folder), uri, how, str(at)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == {"KILL": -9}.get(how, 0), done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("KILL", "RUNNING"), ("TERM", "KILLED")])
def test_a_run_that_is_ended_by_a_signal_goes_on_in_the_same_run_and_every_point_is_there_once(
    how, status, uri, tmp_path
):
    assert run(tmp_path, uri, how, at=170) == {"KILL": [], "TERM": ["preempted"]}[how]
    assert only_run(uri)[1].info.status == status
    assert run(tmp_path, uri, "on") == ["completed"]
    assert only_run(uri)[1].info.status == "FINISHED"
    found = points(uri)
    assert list(found["batch/loss"]) == [*range(1, 301)]
    assert list(found["epoch/validation_loss"]) == [1, 2, 3]


def test_a_fit_that_goes_on_from_a_checkpoint_logs_no_point_twice(uri, tmp_path):
    @jl.on_host(jl.Event.BATCH_END)
    def fail(loop, event):
        if int(loop.step) == 5 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise RuntimeError("out of luck")

    def fit():
        logger = MLflowLogger("digits", tracking_uri=uri)
        checkpoint = jl.callbacks.Checkpoint(tmp_path / "checkpoints", every=2)
        training_loop = small.training_loop(callbacks=[logger, checkpoint, fail])
        return training_loop.fit(small.model(), 2, resume_from=tmp_path / "checkpoints")

    with pytest.raises(RuntimeError, match="out of luck"):
        fit()
    assert only_run(uri)[1].info.status == "FAILED"
    _, history = fit()
    assert only_run(uri)[1].info.status == "FINISHED"
    expected = dict(zip(history.batches["step"].tolist(), history.batches["loss"].tolist(), strict=True))
    assert points(uri)["batch/loss"] == expected


def test_a_run_that_is_active_already_is_used_and_stays_active(uri):
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("digits")
        with mlflow.start_run() as own:
            training_loop = small.training_loop(callbacks=[MLflowLogger(config={"width": 64})])
            loop, _ = training_loop.fit(small.model(), 1)
            training_loop.fit(loop, 2)
            assert mlflow.active_run().info.run_id == own.info.run_id
            assert only_run(uri)[1].info.status == "RUNNING"
        assert list(points(uri)["batch/loss"]) == list(range(1, 10))
        params = only_run(uri)[1].data.params
        assert (params["width"], params["fit.epochs"]) == ("64", "1")  # no parameter of MLflow can be changed
    finally:
        mlflow.set_tracking_uri("")


def test_a_parameter_that_mlflow_refuses_leaves_no_run_that_goes_on_for_ever(uri):
    from mlflow import MlflowException

    tracker = _Run(MLflowLogger("digits", tracking_uri=uri, config={"is it a name?": 1}))
    with pytest.raises(MlflowException, match="Names may only contain"):
        tracker.begin({}, {})
    assert only_run(uri)[1].info.status == "FAILED"


def test_a_run_that_is_active_stays_active_where_a_fit_is_resumed_in_it(uri):
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("digits")
        with mlflow.start_run() as own:
            tracker = _Run(MLflowLogger())
            tracker.go_on({"run": own.info.run_id}, {"batch": [], "epoch": []})
            tracker.end("completed")
            assert only_run(uri)[1].info.status == "RUNNING"
    finally:
        mlflow.set_tracking_uri("")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_no_server_answers_a_warning_says_so_and_training_goes_on(monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.setenv(name, "0")
    logger = MLflowLogger("digits", tracking_uri="http://127.0.0.1:9")
    with pytest.warns(RuntimeWarning, match="MLflowLogger: the server of MLflow cannot be reached") as told:
        loop, _ = small.training_loop(callbacks=[logger]).fit(small.model(), 1)
    assert (int(loop.step), sum(issubclass(each.category, RuntimeWarning) for each in told)) == (3, 1)


def test_names_that_mlflow_does_not_take_are_changed_and_two_that_become_one_are_refused():
    names = {"batch": ["loss", "learning_rate/head", "größe", "a b", "a:b", "x(y)"]}
    expected = {**{name: name for name in names["batch"]}, "x(y)": "x_y_"}
    assert _names_in_mlflow(names) == expected
    with pytest.raises(ValueError, match=r"the statistics 'x\(y\)', 'x\[y\]' would both be 'x_y_' in MLflow"):
        _names_in_mlflow({"epoch": ["x(y)", "x[y]"]})


def test_where_mlflow_or_what_a_database_needs_is_missing_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"MLflowLogger: it needs mlflow.*pip install 'jaxloop\[mlflow\]'"):
        MLflowLogger().bind(jl.Plan(1, 1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "alembic" else name)
    logger = MLflowLogger(tracking_uri="sqlite:///runs.db")
    with pytest.raises(ModuleNotFoundError, match=r"'sqlite:///runs.db' is a database.*jaxloop\[mlflow\]"):
        small.training_loop(callbacks=[logger]).fit(small.model(), 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 1.5}, ValueError, "`every` must be a whole number of at least 1, got 1.5"),
        ({"timeout": -1}, ValueError, "`timeout` must be a number of seconds above 0, got -1"),
        ({"config": {"net": object()}}, TypeError, "`config` must hold numbers"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"MLflowLogger: {message}"):
        MLflowLogger(**arguments)


def test_the_repr_of_a_logger_shows_its_experiment():
    assert repr(MLflowLogger("digits")) == "MLflowLogger('digits')"
