"""Scores that a test sets, one an epoch, and fits that are judged by them."""

from typing import Any

import jax.numpy as jnp

import jaxloop as jl
from jaxloop import Event
from tests import small

NAN, INF = float("nan"), float("inf")


def scored(scores: list[float]) -> Any:
    """A compiled callback that records `scores`, one an epoch, as `score`."""

    def score(loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.record("score", jnp.array(scores)[loop.epoch_index]) if event is Event.EPOCH_END else loop

    return score


def best_of(callbacks: list[Any], epochs: int, **changes: Any) -> tuple[jl.Loop, jl.History]:
    return small.training_loop(callbacks=callbacks, **changes).fit(small.model(), epochs)
