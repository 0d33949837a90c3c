"""The command: chooses workloads and contestants, lets them take turns, prints the table."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant
from benchmarks.measuring import take_turns
from benchmarks.report import Row, as_json, machine, rows_of, table
from benchmarks.workloads import WORKLOADS


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Runs the command with these arguments (those of the process by default); gives what it printed."""
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
    print(table(rows))
    if options.json is not None:
        settings = {"rounds": options.rounds, "warmup_rounds": options.warmup_rounds}
        settings |= {"epochs": options.epochs, "steps": options.steps}
        options.json.write_text(json.dumps(as_json(rows, settings), indent=1) + "\n")
    return rows


def chosen_for(workload: str, pattern: str | re.Pattern[str]) -> list[Contestant]:
    """The contestants in `workload` whose "workload/contestant" holds `pattern`, and with any the reference."""
    all_of_them = [contestant for contestant in CONTESTANTS if workload in contestant.workloads]
    found = [contestant for contestant in all_of_them if re.search(pattern, f"{workload}/{contestant.name}")]
    return [contestant for contestant in all_of_them if contestant in found or (found and contestant.name == REFERENCE)]


def _measured(name: str, contestants: list[Contestant], options: argparse.Namespace) -> list[Row]:
    workload = WORKLOADS[name]()
    if options.steps is not None:
        workload = workload.shortened(options.steps)
    epochs = options.epochs or workload.epochs
    print(f"{name}: {', '.join(contestant.name for contestant in contestants)} ...", file=sys.stderr, flush=True)
    turns = {contestant.name: contestant.prepare(workload, epochs) for contestant in contestants}
    seconds = take_turns(turns, workload, rounds=options.rounds, warmup_rounds=options.warmup_rounds)
    return rows_of(name, contestants, seconds, step_count=epochs * workload.step_count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--filter",
        type=re.compile,
        default="",
        metavar="REGEX",
        help='those whose "workload/contestant" holds it, such as "W1" or "fit_1$"; the reference always runs along',
    )
    parser.add_argument("--rounds", type=_positive, default=11, help="rounds that are timed (11)")
    parser.add_argument("--warmup-rounds", type=_natural, default=2, help="rounds before that (2)")
    parser.add_argument("--epochs", type=_positive, help="epochs in one turn (by workload)")
    parser.add_argument("--steps", type=_positive, help="at most so many steps in an epoch, to try things out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep all that was measured")
    return parser


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
