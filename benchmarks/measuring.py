"""The measurement: contestants take turns, and each iteration gives a ratio against the reference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.contestants import REFERENCE, Contestant, Outcome
from benchmarks.workloads import Workload


def take_turns(
    turns: Mapping[Contestant, Callable[[], tuple[float, Outcome]]],
    workload: Workload,
    *,
    iterations: int,
    warmup_iterations: int,
) -> dict[str, list[float]]:
    """The seconds of each turn by the contestant's name, one per iteration. Outcomes are compared with the reference's.

    The order moves on by one from iteration to iteration, so that no contestant always follows the same other one.

    Args:
      turns: functions that take a turn and give its seconds and its outcome; the reference must be among them.
      workload: what is trained.
      iterations: how many iterations are timed, at least 1.
      warmup_iterations: how many iterations come before, for compiling.

    Raises:
      ValueError: a contestant has trained something else.
    """
    contestants = list(turns)
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for index in range(warmup_iterations + iterations):
        first = index % len(contestants)
        outcomes: dict[Contestant, Outcome] = {}
        for contestant in contestants[first:] + contestants[:first]:
            elapsed, outcomes[contestant] = turns[contestant]()
            if index >= warmup_iterations:
                seconds[contestant.name].append(elapsed)
        reference = next(outcomes[contestant] for contestant in contestants if contestant.name == REFERENCE)
        for contestant in contestants:
            check_same(contestant, outcomes[contestant], reference, workload)
    return seconds


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The time of a contestant divided by that of another, iteration by iteration."""
    return [own / other for own, other in zip(seconds, reference, strict=True)]


def check_same(contestant: Contestant, outcome: Outcome, reference: Outcome, workload: Workload) -> None:
    """Checks that a contestant has done the same training as the reference, up to its tolerance.

    The tolerance is for every epoch's loss and accuracy. If both outcomes have parameters, it is also for the distance
    between them, relative to the distance by which training has moved the reference's.

    Raises:
      ValueError: its parameters, losses or accuracies differ.
    """
    difference, moved = 0.0, 0.0
    if outcome.params is not None and reference.params is not None:
        difference = distance(outcome.params, reference.params)
        moved = distance(reference.params, workload.model.params)
    ours, theirs = (np.concatenate([one.loss, one.accuracy]) for one in (outcome, reference))
    measured = float(np.max(np.abs(ours - theirs)))
    # written so that NaN fails
    if not (difference <= contestant.tolerance * moved and measured <= contestant.tolerance):
        raise ValueError(
            f"{workload.name}/{contestant.name}: it must train as {REFERENCE} does, up to {contestant.tolerance:.0e}, "
            f"but its parameters are {difference:.1e} apart where training moves them by {moved:.1e}, its loss or "
            f"accuracy {measured:.1e}. Give it the same data, weights, order and optimizer."
        )


def distance(tree: Any, other: Any) -> float:
    """The Euclidean norm of the difference of two trees of arrays, leaf by leaf."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return float(np.sqrt(sum(float(np.sum(np.square(np.subtract(a, b, dtype=np.float64)))) for a, b in pairs)))
