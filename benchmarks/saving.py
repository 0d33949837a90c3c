"""Times what a checkpoint costs the training that it interrupts: `python -m benchmarks.saving`."""

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxloop as jl
from benchmarks.measuring import ratios
from benchmarks.report import machine, markdown, spread
from jaxloop.benchmarking.measurement import Quartiles
from jaxloop.checkpoint import writer
from jaxloop.engine.saving import Saves

#: Of each size: the width of its layers, which gives the number of arrays, and the seconds between two saves.
SIZES = {1: (512, 1.0), 50: (512, 3.0), 500: (1024, 20.0)}
_BATCH_SIZE = 8
_STEPS = 10_000  # of an epoch: more than any measurement takes


@dataclass
class Costs:
    """What was measured in one fit that saved itself, in seconds. Of each list the first save is the first entry.

    Attributes:
      steps: the time between two boundaries that saved nothing.
      waits: from the moment at which a save is due until the step at hand is over, which it waits for.
      blocked: from there until the training thread goes on.
      processor: the part of that in which the training thread used the processor.
      commits: from there until the checkpoint is on the disk under its name.
    """

    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command with these arguments (by default those of the process), and returns what it has printed."""
    options = _parser().parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    results: dict[str, Any] = {"machine": machine(), "saves": {}}
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.directory) as folder:
        for size in options.sizes:
            interval = options.interval or SIZES[size][1]
            costs = _alone(costs_of, size, options.saves, interval, Path(folder) / str(size))
            results["saves"][size] = asdict(costs)
            print(f"\n{size} MB of parameters, saved every {interval:g} s\n{table(costs)}", flush=True)
        if options.turns:
            interval = options.interval or SIZES[options.size][1]
            pairs = _alone(slow_down, options.size, options.turns, options.seconds, interval, Path(folder) / "turns")
            results["slow_down"] = {"size": options.size, "interval": interval, "with": pairs[0], "without": pairs[1]}
            print(f"\n{said(options.size, interval, *pairs)}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


def costs_of(size: int, saves: int, interval: float, directory: Path) -> Costs:
    """The costs of the first `saves` saves of a fit.

    Args:
      size: of the parameters, in MB.
      saves: how many, at least 2.
      interval: seconds between two.
      directory: for the checkpoints.
    """
    costs = Costs()

    @jl.on_host(jl.Event.BATCH_END, reads="stats")
    def ends(loop: Any, event: jl.Event) -> None:
        loop.cancel(jl.Scope.FIT, when=len(costs.commits) >= saves)

    checkpoint = jl.callbacks.Checkpoint(directory, every=timedelta(seconds=interval))
    with _timed(costs):
        _training_loop(size, _STEPS).fit(_model(size), 1, callbacks=[ends, checkpoint])
    for times in (costs.waits, costs.blocked, costs.processor, costs.commits):
        del times[saves:]  # one more may have begun
    return costs


def slow_down(
    size: int, turns: int, seconds: float, interval: float, directory: Path
) -> tuple[list[float], list[float]]:
    """The seconds of the same training with and without checkpoints, turn by turn; they take turns.

    The final save, for which a fit waits, is not in them: it comes once in a run, however long that is.

    Args:
      size: of the parameters, in MB.
      turns: how many of each.
      seconds: how long one lasts, about.
      interval: seconds between two saves.
      directory: for the checkpoints.
    """
    model, training_loop = _model(size), _training_loop(size, _STEPS)

    def turn(steps: int, callbacks: Sequence[Any] = ()) -> float:
        times: list[float] = []

        @jl.on_host(jl.Event.TRAINING_START, jl.Event.TRAINING_END)
        def clock(loop: Any, event: jl.Event) -> None:
            times.append(time.perf_counter())

        training_loop.fit(model, 1, callbacks=[clock, *callbacks], limit_batches=steps)
        return times[1] - times[0]

    def saved_turn(steps: int) -> float:
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            checkpoint = jl.callbacks.Checkpoint(folder, every=timedelta(seconds=interval), keep=1)
            return turn(steps, [checkpoint])

    directory.mkdir()
    turn(5)
    steps = max(2, round(seconds / (turn(20) / 20)))
    saved_turn(steps)
    with_saves: list[float] = []
    without: list[float] = []
    for number in range(turns):
        if number % 2:
            without.append(turn(steps))
        with_saves.append(saved_turn(steps))
        if not number % 2:
            without.append(turn(steps))
    return with_saves, without


def table(costs: Costs) -> str:
    """The costs in milliseconds: the first save, and the median of the others with its quartiles."""
    named = {
        "a step without a save": costs.steps,
        "until the step at hand is over": costs.waits,
        "training thread, per save": costs.blocked,
        "of that, its processor time": costs.processor,
        "until the commit": costs.commits,
    }
    rows = [("ms", "first save", f"the {len(costs.commits) - 1} others", "least")]
    for name, seconds in named.items():
        milliseconds = [1000 * each for each in seconds]
        first = "" if seconds is costs.steps else f"{milliseconds[0]:.1f}"
        rest = milliseconds if seconds is costs.steps else milliseconds[1:]
        rows.append((name, first, spread(Quartiles.of(rest), 1), f"{min(rest):.1f}"))
    return markdown(rows)


def said(size: int, interval: float, with_saves: Sequence[float], without: Sequence[float]) -> str:
    """The slow-down in words, and what it is if a run saves every 30 s."""
    found = ratios(with_saves, without)
    slower = np.median(found) - 1
    return (
        f"{size} MB, saved every {interval:g} s: {spread(Quartiles.of(found), 3)} of the time without, in "
        f"{len(found)} turns of {np.median(without):.1f} s; by the fastest of each "
        f"{min(with_saves) / min(without):.3f}. So a save costs {1000 * slower * interval:.0f} ms of training, and a "
        f"run that saves every 30 s takes {1 + slower * interval / 30:.4f} of the time"
    )


@contextlib.contextmanager
def _timed(costs: Costs) -> Iterator[None]:
    """Times the boundaries of fits: the engine calls these three by their names."""
    are_due, at, commit = Saves.are_due, Saves.at, writer.commit
    begun: list[float] = []
    last: list[float] = []

    def timed_are_due(self: Saves, position: int) -> bool:
        now = time.perf_counter()
        costs.steps += [now - before for before in last]
        last[:] = [now]
        return are_due(self, position)

    def timed_at(self: Saves, boundary: Any, *, now: bool) -> None:
        due = time.perf_counter()
        jax.block_until_ready(boundary.wire)
        start, processor = time.perf_counter(), time.thread_time()
        begun.append(start)
        at(self, boundary, now=now)
        costs.waits.append(start - due)
        costs.blocked.append(time.perf_counter() - start)
        costs.processor.append(time.thread_time() - processor)
        last.clear()

    def timed_commit(*arguments: Any) -> None:
        commit(*arguments)
        if len(costs.commits) < len(begun):  # the last save of a fit is at no boundary
            costs.commits.append(time.perf_counter() - begun[len(costs.commits)])

    Saves.are_due, Saves.at, writer.commit = timed_are_due, timed_at, timed_commit
    try:
        yield
    finally:
        Saves.are_due, Saves.at, writer.commit = are_due, at, commit


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own, in which nothing was compiled or imported for it before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def _model(size: int) -> jl.Model:
    """A chain of square layers with `size` MB of parameters in float32."""
    width = SIZES[size][0]
    count = size * 2**20 // (4 * width**2)
    generator = np.random.default_rng(0)
    params = [generator.normal(0, width**-0.5, (width, width)).astype(np.float32) for _ in range(count)]

    def forward(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Any]:
        for weights in params:
            input = jax.nn.relu(input @ weights)
        return input, state

    return jl.Model(forward, params)


def _training_loop(size: int, steps: int) -> jl.TrainingLoop:
    width = SIZES[size][0]
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(_BATCH_SIZE, width)).astype(np.float32)
    batches = [(inputs, np.zeros_like(inputs))] * steps
    return jl.TrainingLoop(
        [batches],
        optimizer=optax.sgd(1e-3),
        loss_fn=jl.losses.mean_squared_error,
        steps_per_dispatch=1,
        progress=False,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="*", choices=SIZES, default=list(SIZES), help="of the parameters, in MB (all)"
    )
    parser.add_argument("--saves", type=int, default=8, help="how many saves of each size, at least 2 (8)")
    parser.add_argument("--interval", type=float, help="seconds between two saves (by size)")
    parser.add_argument(
        "--turns", type=int, default=7, help="turns with checkpoints, and without, for the slow-down (7)"
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="how long such a turn lasts (12)")
    parser.add_argument("--size", type=int, choices=SIZES, default=50, help="of the parameters in these turns (50)")
    parser.add_argument("--directory", type=Path, help="a folder on the disk to measure (the system's temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for all times")
    return parser


if __name__ == "__main__":
    main()
