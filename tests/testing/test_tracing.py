"""Compiled callbacks that are pure pass, and those that change something as they are traced do not."""

import itertools
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.testing.tracing import ImpureError, check_purity
from jaxloop.testing.training import Training, small_model, small_training_loop
from tests.testing import candidates

TRAINING = Training(small_training_loop, small_model, 2)


def test_pure_callbacks_pass_even_with_constants_and_a_plan() -> None:
    table = np.arange(8.0, dtype=np.float32)

    def recording(loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.record("table", jnp.asarray(table)[loop.step]) if event is Event.UPDATE_START else loop

    schedule = jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.1)))
    given = [jl.callbacks.ema(0.9, evaluate=True), jl.callbacks.early_stopping(restore_best=True), recording, schedule]
    assert check_purity([*given, candidates.remembering], TRAINING) == []


def test_a_count_in_a_variable_gives_two_programs_and_the_event_is_named() -> None:
    with pytest.raises(ImpureError, match=r"(?s)'counting_in_a_variable.counted', traced twice at UPDATE_START, gave"):
        check_purity([candidates.counting_in_a_variable(Path())], TRAINING)


def test_a_clock_and_random_numbers_give_two_programs() -> None:
    def timed(loop: jl.Loop, event: Event) -> jl.Loop:
        now = time.perf_counter_ns() % 2**20  # float32 holds these exactly; seconds since the start it rounds
        return loop.record("now", float(now)) if event is Event.BATCH_END else loop

    numbers = itertools.count()

    def random(loop: jl.Loop, event: Event) -> jl.Loop:
        noise = np.full(3, next(numbers), np.float32)
        return loop.record("noise", jnp.asarray(noise).sum()) if event is Event.EPOCH_END else loop

    for callback, event in ((timed, "BATCH_END"), (random, "EPOCH_END")):
        with pytest.raises(ImpureError, match=f"traced twice at {event}"):
            check_purity([callback], TRAINING)


def test_a_variable_that_changes_is_named_even_if_no_program_depends_on_it() -> None:
    ((callback, name, values),) = check_purity([candidates.watching_in_a_variable(Path())], TRAINING)
    assert (callback, name) == ("watching_in_a_variable.watched", "events")
    assert values.startswith("['list'], and then ['list', 'Event.FIT_START'")
