"""The log of a fit in MLflow: on a server, or in a local database."""

import collections
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jaxloop.callbacks.tracking import Outage, Point, Tracking, plain_config, require
from jaxloop.events import Plan
from jaxloop.real_number import real_number
from jaxloop.whole_number import whole_number

_AT_ONCE = 1000  # metrics in a request, which is the most that MLflow takes
_PARAMS_AT_ONCE = 100
_STATUS = {"completed": "FINISHED", "cancelled": "FINISHED", "preempted": "KILLED"}
_UNREACHABLE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class MLflowLogger:
    """Logs to MLflow. It needs the extra `mlflow`, which holds `mlflow-skinny` and what a local database needs.

    By training batch: the metrics `batch/loss`, `batch/accuracy`, `batch/learning_rate` and what callbacks recorded, at
    the number of training batches taken. By epoch, counted from 1: `epoch/loss`, `epoch/validation_loss`, ...,
    `epoch/seconds`, `epoch/examples_per_second`, and where they are known `epoch/mfu` and `epoch/peak_memory_bytes`
    (see `History.epochs`). A character that MLflow does not allow in a name becomes `_`.

    Rows wait in memory, and a thread sends them every five seconds, up to 1000 metrics in a request. So neither the
    device nor the training waits for them. A NaN is logged as NaN. MLflow's databases keep an infinite value as the
    largest float, 1.8e308. What was not measured has no point. With `report="epoch"` there are only those of epochs.

    If a server cannot be reached at the start, or rows cannot be sent, a warning says so, and training goes on. Rows
    that could not be sent are kept and tried again. At the end the run is `FINISHED` after a fit that was completed or
    cancelled, `FAILED` after an exception, and `KILLED` after SIGTERM.

    A run that is resumed from a checkpoint goes on in the same run, and is `RUNNING` again. Points that are there
    already are not logged again: for each metric MLflow is asked how far it is.

    If a run is active already (`mlflow.start_run`), it is used, and stays active. Since MLflow changes no parameter, a
    second fit in it leaves the fit's own as those of the first. Of several processes only the first logs.

    Args:
      experiment: the name of the experiment, which is made if it is missing; None for MLflow's default.
      run_name: of the run; None for one that MLflow makes up.
      tracking_uri: where to log: `"sqlite:///runs.db"`, `"http://..."`; None for what the environment says, else
        MLflow's default, `mlflow.db` in the working directory.
      config: hyperparameters by name, logged as parameters: numbers, bools, strings, and lists or mappings of these. A
        mapping in it becomes `outer.inner`. The fit's own are `fit.epochs`, `fit.total_steps`, ...
      tags: of the run, strings by name.
      every: training batches from one point to the next; 1 logs each. None logs each batch of a fit of at most 1000,
        and of a longer one about 1000: a row costs as much as a small step, and a chart shows no more.
      timeout: so many seconds the end of a fit waits at most until all is sent, and at most 10 before the last
        checkpoint. After SIGTERM it waits at most 10.

    Raises:
      TypeError, ValueError: an argument is of a wrong type, or outside of its bounds; at the start of a fit, two
        statistics would have one name in MLflow.
      ModuleNotFoundError: at the start of a fit, MLflow is not installed, or what a database needs.
      mlflow.exceptions.MlflowException: at the start of a fit, MLflow refuses an argument.

    Example:
      >>> callbacks = [jl.callbacks.MLflowLogger("digits", config={"width": 64})]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    __slots__ = ("__weakref__", "config", "every", "experiment", "run_name", "tags", "timeout", "tracking_uri")
    host_declaration = Tracking.host_declaration  # type: ignore[attr-defined]

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        every: int | None = None,
        timeout: float = 120.0,
    ):
        if every is not None:
            whole_number("MLflowLogger: `every`", every)
        if not real_number("MLflowLogger: `timeout`", timeout) > 0:
            raise ValueError(f"MLflowLogger: `timeout` must be a number of seconds above 0, got {timeout!r}.")
        self.experiment, self.run_name, self.tracking_uri = experiment, run_name, tracking_uri
        self.config, self.tags = plain_config("MLflowLogger", config), dict(tags or {})
        self.every, self.timeout = every, timeout

    def bind(self, plan: Plan) -> Tracking:
        require("MLflowLogger", "mlflow", "mlflow")
        return Tracking("MLflowLogger", _Run(self), plan, every=self.every, timeout=self.timeout)

    def __repr__(self) -> str:
        return f"MLflowLogger({self.experiment!r})"


class _Run:
    """A run of MLflow, as `Tracking` uses it."""

    may_lose = 0  # a database has committed what it has taken

    def __init__(self, options: MLflowLogger):
        self._options = options
        self._client: Any = None
        self._id = ""
        self._owned = True
        self._names: dict[str, str] = {}
        self._sent: dict[str, int] = {}  # the last step of each metric

    def begin(self, known: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        mlflow = _mlflow()
        self._names = _names_in_mlflow(names)
        options, active = self._options, mlflow.active_run()
        try:
            self._connect()
            if active is not None and options.tracking_uri in (None, mlflow.get_tracking_uri()):
                self._id, self._owned = active.info.run_id, False
            else:
                run = self._client.create_run(self._experiment(), run_name=options.run_name, tags=options.tags)
                self._id = run.info.run_id
            self._log_params(options.config, dict(known))
        except mlflow.MlflowException as error:
            if self._id:
                with suppress(mlflow.MlflowException):
                    self.end("failed")  # else the run that was just made would be running for ever
            raise self._outage_or(error) from error

    def go_on(self, kept: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        self._names = _names_in_mlflow(names)
        try:
            self._connect()
            self._id, active = kept["run"], _mlflow().active_run()
            self._owned = active is None or active.info.run_id != self._id
            found = self._client.get_run(self._id)
            self._client.update_run(self._id, status="RUNNING")
            for name in found.data.metrics:
                self._sent[name] = max(metric.step for metric in self._client.get_metric_history(self._id, name))
        except _mlflow().MlflowException as error:
            raise self._outage_or(error) from error

    def send(self, points: Sequence[Point]) -> None:
        metrics = list(self._metrics(points))
        for start in range(0, len(metrics), _AT_ONCE):
            some = metrics[start : start + _AT_ONCE]
            self._client.log_batch(self._id, metrics=some)
            self._sent |= {metric.key: metric.step for metric in some}  # their steps only grow

    def kept(self) -> dict[str, Any]:
        return {"run": self._id}

    def end(self, how: str) -> None:
        if self._owned:
            self._client.set_terminated(self._id, _STATUS.get(how, "FAILED"))

    def _metrics(self, points: Sequence[Point]) -> Iterator[Any]:
        metric = _mlflow().entities.Metric
        for point in points:
            step = point.step if point.kind == "batch" else point.epoch
            for name, value in point.values.items():
                key = f"{point.kind}/{self._names.get(name, name)}"
                if step > self._sent.get(key, -1):
                    yield metric(key, float(value), int(1000 * point.time), step)

    def _connect(self) -> None:
        mlflow = _mlflow()
        uri = self._options.tracking_uri or mlflow.get_tracking_uri()
        database = re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri)
        if database and (importlib.util.find_spec("sqlalchemy") is None or importlib.util.find_spec("alembic") is None):
            raise ModuleNotFoundError(
                f"MLflowLogger: {uri!r} is a database, for which MLflow needs sqlalchemy and alembic. Install jaxloop "
                "with its extra `mlflow`, as in `pip install 'jaxloop[mlflow]'`, or give the address of a server."
            )
        self._client = mlflow.MlflowClient(uri)

    def _experiment(self) -> str:
        """The id of the experiment."""
        name = self._options.experiment
        if name is None:
            return "0"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except _mlflow().MlflowException:  # another process may have made it meanwhile
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def _log_params(self, config: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
        param = _mlflow().entities.Param
        there = {} if self._owned else self._client.get_run(self._id).data.params  # MLflow lets none be changed
        first = {name: value for name, value in _flat({"fit": fit}) if name not in there}
        params = [param(name, str(value)) for name, value in {**dict(_flat(config)), **first}.items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + _PARAMS_AT_ONCE])

    def _outage_or(self, error: Any) -> Exception:
        """An `Outage` if it is a server that has failed, or was not found; else the error itself."""
        remote = str(self._options.tracking_uri or self._client.tracking_uri).startswith("http")
        if remote and error.error_code in _UNREACHABLE:
            return Outage(f"the server of MLflow cannot be reached, {str(error).splitlines()[0]}")
        return error


def _mlflow() -> Any:
    """MLflow, imported where it is needed, so that `import jaxloop` does not import it."""
    return importlib.import_module("mlflow")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _names_in_mlflow(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each name of a statistic as MLflow takes it.

    Raises:
      ValueError: two would be the same.
    """
    ours = sorted({name for group in names.values() for name in group})
    found = {name: re.sub(r"[^\w.\- :/]", "_", name).replace("//", "/_").strip("/") for name in ours}
    twice = [name for name, count in collections.Counter(found.values()).items() if count > 1]
    if twice:
        both = ", ".join(repr(name) for name in ours if found[name] == twice[0])
        raise ValueError(
            f"MLflowLogger: the statistics {both} would both be {twice[0]!r} in MLflow, which takes only letters, "
            "digits and _ - . : / in names. Rename one."
        )
    return found
