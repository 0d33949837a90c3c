"""What loggers cost: W1 with none, with each and with all of them at once, in turns in one process.

W&B logs offline and MLflow to a local database, so nothing leaves the machine. A turn is one fit, from before its first
step until the last logger is closed. The CPU time is that of this process and of those that it has begun, as W&B does.
To begin and to end a run costs W&B and MLflow some 0.2 s together, so a turn must be long to show what logging costs.
"""

import argparse
import functools
import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxloop as jl
from benchmarks.workloads import WORKLOADS, loss_fn
from jaxloop.benchmarking.measurement import Quartiles

_ENVIRONMENT = {"WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class Cost(NamedTuple):
    """Seconds of a turn, on the clock and of CPUs."""

    wall: float
    cpu: float


LOGGERS: Mapping[str, Callable[[Path], list[Any]]] = {
    "none": lambda folder: [],
    "csv": lambda folder: [jl.callbacks.CSVLogger(folder / "log.csv")],
    "tensorboard": lambda folder: [jl.callbacks.TensorBoardLogger(folder / "stats")],
    "wandb": lambda folder: [jl.callbacks.WandbLogger("benchmarks", mode="offline", directory=folder)],
    "mlflow": lambda folder: [jl.callbacks.MLflowLogger("benchmarks", tracking_uri=f"sqlite:///{folder / 'runs.db'}")],
}


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Cost]]:
    """Runs the command, and returns the costs of each turn."""
    options = _parser().parse_args(arguments)
    os.environ.update(_ENVIRONMENT)
    workload = WORKLOADS[options.workload]()
    workload = workload if options.steps is None else workload.shortened(options.steps)
    training_loop = jl.TrainingLoop(
        workload.training(), optimizer=workload.optimizer, loss_fn=loss_fn, metrics=["accuracy"], progress=False
    )
    names = [name for name in (*LOGGERS, "all") if name in (options.only or (*LOGGERS, "all")) or name == "none"]
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for turn in range(-1, options.turns):  # the first compiles, imports, and makes the database
            for name in _in_turn(names, turn):
                chosen = list(LOGGERS) if name == "all" else [name]
                callbacks = [logger for each in chosen for logger in LOGGERS[each](Path(folder))]
                fit = functools.partial(training_loop.fit, workload.model, callbacks=callbacks)
                cost = _timed(functools.partial(fit, options.epochs if turn >= 0 else 1))
                if turn >= 0:
                    costs[name].append(cost)
    print(_table(costs, options.epochs * workload.step_count))
    return costs


def _in_turn(names: list[str], turn: int) -> list[str]:
    """The names, beginning with another one in each turn."""
    first = turn % len(names)
    return names[first:] + names[:first]


def _timed(fit: Callable[[], Any]) -> Cost:
    gc.collect()
    wall, cpu = time.perf_counter(), _cpu()
    loop, _ = fit()
    jax.block_until_ready(loop.model.params)
    return Cost(time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    """CPU seconds of this process and of its children that run; without the latter where there is no /proc."""
    seconds, ticks, me = time.process_time(), os.sysconf("SC_CLK_TCK"), os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == me:
            seconds += (int(fields[11]) + int(fields[12])) / ticks
    return seconds


def _table(costs: Mapping[str, Sequence[Cost]], steps: int) -> str:
    lines = ["| loggers | us/step | CPU us/step | x none | x none, CPU |", "| --- | --- | --- | --- | --- |"]
    for name, own in costs.items():
        pairs = list(zip(own, costs["none"], strict=True))
        cells = [
            Quartiles.of([1e6 * cost.wall / steps for cost in own]),
            Quartiles.of([1e6 * cost.cpu / steps for cost in own]),
            Quartiles.of([cost.wall / none.wall for cost, none in pairs]),
            Quartiles.of([cost.cpu / none.cpu for cost, none in pairs]),
        ]
        lines.append(f"| {name} | {' | '.join(map(_said, cells))} |")
    return "\n".join(lines)


def _said(quartiles: Quartiles) -> str:
    low, middle, high = quartiles.low, quartiles.median, quartiles.high
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loggers", description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1", help="what is trained (W1)")
    parser.add_argument("--only", action="append", choices=(*LOGGERS, "all"), help="only these; may be repeated")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each (5)")
    parser.add_argument("--epochs", type=int, default=800, help="epochs in a turn (800: about 16 s)")
    parser.add_argument("--steps", type=int, help="the most steps in an epoch, for a quick try")
    return parser


if __name__ == "__main__":
    main()
