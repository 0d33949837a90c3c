"""A traced step in the place of the step itself: the same values, where it takes what it is given."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.events import TRAINING, VALIDATION, Event, Phase, Plan, Scope
from jaxloop.phases import begin_fit, enter
from jaxloop.programs.step_trace import traced_step
from jaxloop.step import step

BATCH = (np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.arange(4, dtype=np.int32) % 2, None)


@pytest.fixture
def entered(loop):
    """The loop at the start of a phase."""

    def entered(spec, split=TRAINING):
        return enter(spec, begin_fit(spec, loop, Plan(1, 1)), split, np.int32(3))

    return entered


def at(event, change):
    return lambda loop, seen: change(loop) if seen is event else loop


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
            one, other = map(jax.random.key_data, (one, other))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("split", [TRAINING, VALIDATION])
def test_it_does_what_the_step_does(spec, entered, split):
    made = spec(at(Event.BATCH_END, lambda loop: loop.record("loss", loop.loss.mean() + 1)))
    loop = entered(made, split)
    traced = traced_step(made, loop, BATCH)
    assert traced.takes(loop, BATCH)
    expected = jax.jit(lambda loop, batch: step(made, loop, batch))(loop, BATCH)
    assert_same(jax.jit(traced)(loop, BATCH), expected)
    assert_same(jax.jit(traced.canonical)(loop, BATCH), expected)


def test_leaves_that_the_step_leaves_alone_are_the_very_same(spec, entered):
    made = spec()
    loop = entered(made)
    traced = traced_step(made, loop, BATCH)

    def unchanged(loop, batch):
        after, counted = traced(loop, batch)
        assert counted is True
        assert after.stop is loop.stop
        assert after.key is loop.key
        assert after.epoch is loop.epoch
        assert after.step is not loop.step
        return after

    jax.jit(unchanged)(loop, BATCH)


def test_a_step_that_can_be_cancelled_says_whether_it_counts(spec, entered):
    made = spec(at(Event.UPDATE_START, lambda loop: loop.cancel(Scope.BATCH, when=loop.batch_index == 0)))
    loop = entered(made)
    traced = traced_step(made, loop, BATCH)
    assert not traced.counts
    assert [bool(jax.jit(traced)(loop.replace(batch_index=np.int32(index)), BATCH)[1]) for index in (0, 1)] == [
        *(False, True),
    ]


def test_statistics_that_it_does_not_know_stay_as_they_were(spec, entered):
    made = spec()
    loop = entered(made)
    traced = traced_step(made, loop, BATCH)
    more = loop.replace(stats=loop.stats | {"norm": np.float32(7)})
    assert traced.takes(more, BATCH)
    after, _ = jax.jit(traced)(more, BATCH)
    assert float(after.stats["norm"]) == 7
    assert_same(after.replace(stats={name: after.stats[name] for name in loop.stats}), jax.jit(traced)(loop, BATCH)[0])


def recording(loop):
    return loop.record("norm", loop.loss.mean())


def test_a_statistic_that_is_recorded_for_the_first_time_must_have_room(spec, entered):
    made = replace(spec(at(Event.BATCH_END, recording)), new_stats=True)
    loop = entered(made)
    traced = traced_step(made, loop, BATCH)
    assert not traced.takes(loop, BATCH)
    assert traced.takes(loop.replace(stats=loop.stats | {"norm": np.float32(np.nan)}), BATCH)


def test_it_is_not_taken_where_a_cancel_would_have_to_keep_what_it_does_not_know(spec, entered):
    def change(loop):
        return recording(loop.cancel(Scope.BATCH, when=loop.batch_index == 0))

    made = replace(spec(at(Event.UPDATE_START, change)), new_stats=True)
    loop = entered(made)
    traced = traced_step(made, loop, BATCH)
    assert not traced.takes(loop.replace(stats=loop.stats | {"norm": np.float32(7)}), BATCH)


@pytest.mark.parametrize(
    "change",
    [
        lambda loop: loop.replace(phase=Phase.VALIDATION),
        lambda loop: loop.replace(step=jnp.uint32(0)),
        lambda loop: loop.replace(step=0),
        lambda loop: loop.remember("best", np.float32(0)),
        lambda loop: loop.replace(stats={}),
    ],
    ids=["phase", "dtype", "weak type", "memory", "statistics"],
)
def test_a_loop_of_another_kind_is_not_taken(spec, entered, change):
    made = spec()
    loop = entered(made)
    assert not traced_step(made, loop, BATCH).takes(change(loop), BATCH)


@pytest.mark.parametrize("batch", [(BATCH[0][:2], BATCH[1][:2], None), (*BATCH[:2], np.ones(4))])
def test_a_batch_of_another_kind_is_not_taken(spec, entered, batch):
    made = spec()
    loop = entered(made)
    assert not traced_step(made, loop, BATCH).takes(loop, batch)


def test_the_ends_of_the_model_are_found_and_the_program_is_as_without_them(spec, entered) -> None:
    held = []

    def note(loop, event):
        if event is Event.UPDATE_START:
            held.append((loop.output, loop.gradient))
        return loop

    made = spec(note)
    loop = entered(made)
    plain = traced_step(made, loop, BATCH)
    held.clear()
    found = traced_step(made, loop, BATCH, held.pop)
    assert (found.ends.activations, found.ends.weighed, found.ends.flat) == ({}, {""}, False)
    assert str(found.jaxpr) == str(plain.jaxpr)
    assert plain.ends.weighed == frozenset()
