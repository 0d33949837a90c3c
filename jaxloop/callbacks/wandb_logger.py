"""The log of a fit in Weights & Biases: online, or offline in a folder."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxloop.callbacks.tracking import Outage, Point, Tracking, plain_config, require
from jaxloop.events import Plan
from jaxloop.files.wandb_file import history
from jaxloop.path_argument import path_argument
from jaxloop.real_number import real_number
from jaxloop.whole_number import whole_number

_OURS = ("config", "dir", "mode", "name", "project", "reinit", "resume")


class WandbLogger:
    """Logs to Weights & Biases. It needs the extra `wandb`.

    A row of a training batch has `step`, the number of training batches taken, and `batch/loss`, `batch/accuracy`,
    `batch/learning_rate` and what callbacks recorded. A row of an epoch has `epoch`, counted from 1, and `epoch/loss`,
    `epoch/validation_loss`, ..., `epoch/seconds`, `epoch/examples_per_second`, and where they are known `epoch/mfu` and
    `epoch/peak_memory_bytes` (see `History.epochs`). These two are the axes of the charts.

    Rows wait in memory, and a thread sends them every five seconds, so neither the device nor the training waits for a
    network. An infinite loss or a NaN is logged as such; what was not measured is left out of its row. With
    `report="epoch"` there are only the rows of epochs.

    If the tracker cannot be reached at the start, or rows cannot be sent, a warning says so, and training goes on. Rows
    that could not be sent are kept and tried again. Without a network, `mode="offline"` logs to a folder, and
    `wandb sync` uploads it later. At the end the run is `finished` after a fit that was completed or cancelled,
    `failed` after an exception, and `preempted` after SIGTERM.

    A run that is resumed from a checkpoint goes on in the same run, by its id. Rows that are there already are not
    logged again: an online run tells how far it is, and the files of an offline one are read. An offline run has a
    folder for each process; `wandb sync` them in their order.

    If a run is open already (`wandb.init` was called), it is used, and stays open; a run that is resumed goes on in its
    own beside it. Of several processes only the first logs. What is printed to the console is not captured; to have
    that, give `settings=wandb.Settings(console="auto")`.

    Args:
      project: the project; None for that of the environment.
      name: of the run; None for one that W&B makes up.
      config: hyperparameters by name; numbers, bools, strings, and lists or mappings of these. The fit's own are logged
        below `fit`: epochs, batches per epoch, steps in all, versions.
      mode: `"online"`, `"offline"` or `"disabled"`; None for that of the environment, `WANDB_MODE`.
      directory: where W&B makes its folder `wandb`; None for that of the environment, or the working directory.
      every: training batches from one row to the next; 1 logs each. None logs each batch of a fit of at most 1000, and
        of a longer one about 1000: a row costs as much as a small step, and a chart shows no more.
      timeout: so many seconds the end of a fit waits at most until all is sent, and at most 10 before the last
        checkpoint. After SIGTERM it waits at most 10.
      **options: further arguments of `wandb.init`, such as `entity`, `group`, `tags`, `job_type`, `id`, `settings`.

    Raises:
      TypeError, ValueError: an argument is of a wrong type, or outside of its bounds.
      ModuleNotFoundError: at the start of a fit, wandb is not installed.
      wandb.errors.UsageError: at the start of a fit, nobody is logged in, or an option is wrong.

    Example:
      >>> callbacks = [jl.callbacks.WandbLogger(project="digits", config={"width": 64})]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    __slots__ = ("__weakref__", "config", "directory", "every", "mode", "name", "options", "project", "timeout")
    host_declaration = Tracking.host_declaration  # type: ignore[attr-defined]

    def __init__(
        self,
        project: str | None = None,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        mode: str | None = None,
        directory: str | Path | None = None,
        every: int | None = None,
        timeout: float = 120.0,
        **options: Any,
    ):
        if mode not in (None, "online", "offline", "disabled"):
            raise ValueError(f"WandbLogger: `mode` must be 'online', 'offline' or 'disabled', got {mode!r}.")
        taken = sorted(set(options).intersection(_OURS))
        if taken:
            raise TypeError(f"WandbLogger: {taken[0]!r} of wandb.init is set by the logger itself. Leave it out.")
        if every is not None:
            whole_number("WandbLogger: `every`", every)
        if not real_number("WandbLogger: `timeout`", timeout) > 0:
            raise ValueError(f"WandbLogger: `timeout` must be a number of seconds above 0, got {timeout!r}.")
        self.project, self.name, self.mode, self.options = project, name, mode, options
        self.config = plain_config("WandbLogger", config)
        self.directory = (
            None if directory is None else path_argument("WandbLogger: `directory`", directory, "run/wandb")
        )
        self.every, self.timeout = every, timeout

    def bind(self, plan: Plan) -> Tracking:
        require("WandbLogger", "wandb", "wandb")
        return Tracking("WandbLogger", _Run(self), plan, every=self.every, timeout=self.timeout)

    def __repr__(self) -> str:
        return f"WandbLogger({self.project!r})"


class _Run:
    """A run of W&B, as `Tracking` uses it."""

    #: So many points are kept with a checkpoint: when it is killed, W&B may lose what it has not written to its file.
    may_lose = 512

    def __init__(self, options: WandbLogger):
        self._options = options
        self._run: Any = None
        self._owned = True
        self._step, self._epoch = 0, -1  # the last that were sent: an epoch 0 is a validation before all training

    def begin(self, known: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        self._open({"config": {**self._options.config, "fit": dict(known)}})

    def go_on(self, kept: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> None:
        self._open({"id": kept["id"], "resume": "allow"})
        if self._run.offline:
            self._step, self._epoch = _in_folder(Path(kept["folder"]), kept["id"])
        else:
            there = self._run.summary
            self._step, self._epoch = int(there.get("step", 0)), int(there.get("epoch", -1))

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            of_batch = point.kind == "batch"
            if point.step <= self._step if of_batch else point.epoch <= self._epoch:
                continue
            place = {"step": point.step} if of_batch else {"step": point.step, "epoch": point.epoch}
            values = {f"{point.kind}/{name}": value for name, value in point.values.items()}
            self._run.log({**place, **values, "_timestamp": point.time})
            if of_batch:
                self._step = point.step
            else:
                self._epoch = point.epoch

    def kept(self) -> dict[str, Any]:
        return {"id": self._run.id, "folder": str(Path(self._run.dir).absolute().parent.parent)}

    def end(self, how: str) -> None:
        if not self._owned:
            return
        if how == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if how in ("completed", "cancelled") else 1)

    def _open(self, more: dict[str, Any]) -> None:
        wandb = importlib.import_module("wandb")  # here, so that `import jaxloop` does not import it
        options = self._options
        if wandb.run is not None and more.get("id") in (None, wandb.run.id):
            self._run, self._owned = wandb.run, False
            self._run.config.update(more.get("config", {}), allow_val_change=True)
        else:
            own = {"project": options.project, "name": options.name, "mode": options.mode}
            arguments = own | options.options | more
            if options.directory is not None:
                options.directory.mkdir(parents=True, exist_ok=True)
                arguments["dir"] = str(options.directory)
            arguments.setdefault("settings", wandb.Settings(console="off"))
            if wandb.run is not None:  # another one than the run to go on in, for which W&B would take it
                arguments["reinit"] = "create_new"
            try:
                self._run = wandb.init(**arguments)
            except wandb.errors.AuthenticationError:
                raise
            except wandb.errors.CommError as error:
                raise Outage(f"Weights & Biases cannot be reached, {str(error).splitlines()[0]}") from error
        for axis, metrics in (("step", "batch/*"), ("epoch", "epoch/*")):
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(metrics, step_metric=axis)


def _in_folder(folder: Path, run: str) -> tuple[int, int]:
    """The last step of a batch and the last epoch in the files of an offline run; each process has had one."""
    last = {"step": 0, "epoch": -1}
    for path in sorted(folder.glob(f"*run-*-{run}/run-{run}.wandb")):
        for row in history(path):
            axis = "epoch" if "epoch" in row else "step"
            if any(name.startswith(("batch/", "epoch/")) for name in row):
                last[axis] = max(last[axis], int(row[axis]))
    return last["step"], last["epoch"]
