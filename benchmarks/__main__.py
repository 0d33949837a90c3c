"""The command: it chooses workloads and contestants, lets them take turns, and prints the table."""

import argparse
import contextlib
import functools
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant
from benchmarks.measuring import take_turns
from benchmarks.report import COLD_COLUMNS, COLUMNS, DEFAULT_COLUMNS, Row, as_json, machine, rows_of, table
from benchmarks.turns import Worker, turn_in_new_process
from benchmarks.workloads import WORKLOADS


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Runs the command with these arguments (by default those of the process), and returns the rows it has printed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = {name: chosen_for(name, options.filter) for name in WORKLOADS}
    if not any(chosen.values()):
        names = ", ".join(f"{name}/{contestant.name}" for name in WORKLOADS for contestant in chosen_for(name, ""))
        parser.error(f"--filter: {options.filter.pattern!r} matches none of {names}.")
    rows: list[Row] = []
    for name, contestants in chosen.items():
        if contestants:
            rows += _measured(name, contestants, options)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(table(rows, options.columns or (COLD_COLUMNS if options.cold else DEFAULT_COLUMNS)))
    if options.json is not None:
        names = ("iterations", "warmup_iterations", "epochs", "steps", "cold")
        settings = {name: getattr(options, name) for name in names}
        options.json.write_text(json.dumps(as_json(rows, settings), indent=1) + "\n")
    return rows


def chosen_for(workload: str, pattern: str | re.Pattern[str]) -> list[Contestant]:
    """The contestants whose "workload/contestant" matches `pattern`; if there are any, the reference too."""
    all_of_them = [contestant for contestant in CONTESTANTS if workload in contestant.workloads]
    found = [contestant for contestant in all_of_them if re.search(pattern, f"{workload}/{contestant.name}")]
    return [contestant for contestant in all_of_them if contestant in found or (found and contestant.name == REFERENCE)]


def present(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The contestants whose packages are installed. For the others it prints what to install."""
    for contestant in contestants:
        if contestant.missing:
            missing = ", ".join(contestant.missing)
            print(f"{contestant.name} is left out: no {missing}. pip install '.[bench]'", file=sys.stderr, flush=True)
    return [contestant for contestant in contestants if not contestant.missing]


def _measured(name: str, contestants: list[Contestant], options: argparse.Namespace) -> list[Row]:
    contestants = present(contestants)
    workload = WORKLOADS[name]()
    workload = workload if options.steps is None else workload.shortened(options.steps)
    epochs = options.epochs or workload.epochs
    print(f"{name}: {', '.join(contestant.name for contestant in contestants)} ...", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        makers = {}
        for contestant in contestants:
            folder = tempfile.TemporaryDirectory(prefix="benchmarks-") if options.cold == "cached" else None
            cache = None if folder is None else Path(stack.enter_context(folder))
            settings = {"epochs": epochs, "steps": options.steps, "compile_cache": cache}
            makers[contestant] = functools.partial(Worker, contestant, workload, **settings)
        if options.cold:
            turns = {one: functools.partial(turn_in_new_process, maker) for one, maker in makers.items()}
        else:
            workers = {one: stack.enter_context(contextlib.closing(maker())) for one, maker in makers.items()}
            for worker in workers.values():
                worker.ready()
            turns = {contestant: worker.turn for contestant, worker in workers.items()}
        seconds = take_turns(
            turns, workload, iterations=options.iterations, warmup_iterations=options.warmup_iterations
        )
    return rows_of(workload, contestants, seconds, epochs=epochs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--filter",
        type=re.compile,
        default="",
        metavar="REGEX",
        help='only those whose "workload/contestant" matches, such as "W1" or "fit_1$"; the reference always runs too',
    )
    parser.add_argument(
        "--columns",
        type=_columns,
        metavar="NAMES",
        help=f"the columns of the table, with commas between: {', '.join(COLUMNS)} ({','.join(DEFAULT_COLUMNS)})",
    )
    parser.add_argument("--iterations", type=_positive, default=11, help="timed turns of each contestant (11)")
    parser.add_argument("--warmup-iterations", type=_natural, default=2, help="turns before the timed ones (2)")
    parser.add_argument("--epochs", type=_positive, help="epochs in one turn (by workload)")
    parser.add_argument("--steps", type=_positive, help="the most steps in an epoch, for a quick try")
    parser.add_argument(
        "--cold",
        choices=("compiled", "cached"),
        help="each turn in a new process, with compiling; cached: from JAX's compile cache, which the warm-up fills",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for all results")
    return parser


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in COLUMNS:
            raise argparse.ArgumentTypeError(f"there is no column {name!r}; there are {', '.join(COLUMNS)}")
    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, got {number}")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"it must be at least 0, got {number}")
    return number


if __name__ == "__main__":
    main()
