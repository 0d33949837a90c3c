"""How it is measured: contestants take turns in one process, and each round gives a ratio against the reference."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.contestants import REFERENCE, Outcome, Turn
from benchmarks.workloads import Workload

TOLERANCE = 1e-3
"""How far apart trainings may end: programs that fuse otherwise round otherwise, and training adds it up."""


@dataclass(frozen=True)
class Quartiles:
    """The middle of a sample and its spread."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(sample: Sequence[float]) -> "Quartiles":
        """The three quartiles of `sample`, linearly interpolated."""
        low, median, high = np.quantile(np.asarray(sample, np.float64), [0.25, 0.5, 0.75])
        return Quartiles(float(low), float(median), float(high))


def take_turns(
    turns: Mapping[str, Turn], workload: Workload, *, rounds: int, warmup_rounds: int
) -> dict[str, list[float]]:
    """Seconds of each turn by contestant, one per round; all outcomes are checked against the reference's.

    The order moves on by one from round to round, so that nobody always follows the same one.

    Args:
      turns: by name; `REFERENCE` must be among them.
      workload: what is trained.
      rounds: how many are timed, at least 1.
      warmup_rounds: how many go before, in which programs are compiled.

    Raises:
      ValueError: a contestant has trained something else.
    """
    names = list(turns)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(warmup_rounds + rounds):
        first = index % len(names)
        outcomes: dict[str, Outcome] = {}
        for name in names[first:] + names[:first]:
            elapsed, outcomes[name] = _timed(turns[name])
            if index >= warmup_rounds:
                seconds[name].append(elapsed)
        for name in names:
            check_same(name, outcomes[name], outcomes[REFERENCE], workload)
    return seconds


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """By how much a contestant took longer than another, round by round."""
    return [own / other for own, other in zip(seconds, reference, strict=True)]


def check_same(name: str, outcome: Outcome, reference: Outcome, workload: Workload) -> None:
    """Checks that a contestant has done the reference's training, up to `TOLERANCE`.

    That is of its parameters' distance from the reference's, in units of how far training has moved those, and of
    every epoch's loss and accuracy.

    Raises:
      ValueError: its parameters, losses or accuracies are others.
    """
    difference = distance(outcome.params, reference.params)
    moved = distance(reference.params, workload.model.params)
    ours, theirs = (np.concatenate([one.loss, one.accuracy]) for one in (outcome, reference))
    measured = float(np.max(np.abs(ours - theirs)))
    # written so that NaN fails
    if not (difference <= TOLERANCE * moved and measured <= TOLERANCE):
        raise ValueError(
            f"{workload.name}/{name}: it must train as {REFERENCE} does, up to {TOLERANCE:.0e}, but its parameters are "
            f"{difference:.1e} apart where training moves them by {moved:.1e}, its loss or accuracy {measured:.1e}. "
            "Give it the same data, weights, order and optimizer."
        )


def distance(tree: Any, other: Any) -> float:
    """The Euclidean norm of the difference of two trees of arrays."""
    squares = jax.tree.map(lambda a, b: float(np.sum(np.square(np.subtract(a, b, dtype=np.float64)))), tree, other)
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def _timed(turn: Turn) -> tuple[float, Outcome]:
    """Seconds of a turn until its parameters are there, with garbage of earlier turns collected before."""
    gc.collect()
    start = time.perf_counter()
    outcome = turn()
    jax.block_until_ready(outcome.params)
    return time.perf_counter() - start, outcome
