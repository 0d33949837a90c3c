"""The compiled programs, and what they are kept by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.events import TRAINING, Event, Phase, Plan, Scope
from jaxloop.feeding.contract import contract_of
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.forward import hold
from jaxloop.ownership import own_copy
from jaxloop.phases import begin_fit, enter
from jaxloop.placement import resolve
from jaxloop.programs.memo import ByIdentity
from jaxloop.programs.programs import Program, Programs
from jaxloop.step import step
from jaxloop.wire import layout_of

PLACEMENT = resolve(None)
BATCHES = (
    np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32),
    np.random.default_rng(1).integers(0, 2, size=(3, 4)).astype(np.int32),
    None,
)
ALL_CUTS = frozenset({Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END})


def batch(index):
    return jax.tree.map(lambda leaf: leaf[index], BATCHES)


def at(event, change):
    return lambda loop, seen: change(loop) if seen is event else loop


@pytest.fixture
def in_training(loop, spec):
    """The engine's own loop at the start of training, and the spec around some callbacks."""

    def make(*callbacks):
        made = spec(*callbacks)
        return made, own_copy(enter(made, begin_fit(made, loop, Plan(1, 3)), TRAINING, np.int32(3)), PLACEMENT)

    return make


def steps_of(programs, spec, layout, count):
    """The program of so many training steps over batches like `BATCHES`."""
    chunk = ChunkSpec(count, contract_of(batch(0), "training").first)
    return programs.steps(spec, layout, TRAINING, chunk, placement=PLACEMENT)


def stepwise(spec, loop):
    """The loop after each batch, by the plain step."""
    loops = []
    for index in range(3):
        loop, _ = jax.jit(lambda loop, batch: step(spec, loop, batch))(loop, batch(index))
        loops.append(loop)
    return loops


def test_a_program_gives_what_its_function_gives():
    assert Program("double", lambda x: 2 * x)(3) == 6


def test_a_program_tells_the_time_of_its_first_call_alone():
    program = Program("double", lambda x: 2 * x)
    assert program.compile_seconds is None
    program(3)
    first = program.compile_seconds
    program(jnp.zeros(3))
    assert program.compile_seconds == first > 0


def test_a_program_is_named_in_what_the_compiler_sees():
    assert "jit_training_step_x4" in Program("training_step x4", lambda x: 2 * x).jitted.lower(1).as_text()


def test_an_object_is_the_same_as_itself_alone():
    value = [1]
    assert ByIdentity(value) == ByIdentity(value)
    assert hash(ByIdentity(value)) == hash(ByIdentity(value))
    assert ByIdentity(value) != ByIdentity([1])


def test_what_is_kept_is_made_once():
    programs, made = Programs(), []
    for key in ("a", "b", "a"):
        programs.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b"]


def test_one_step_over_the_wire_is_the_step(in_training):
    spec, loop = in_training()
    layout = layout_of(loop)
    expected = stepwise(spec, loop)[0]
    wire, row = steps_of(Programs(), spec, layout, 1)(layout.to_wire(loop), batch(0), None)
    jax.tree.map(np.testing.assert_array_equal, layout.from_wire(wire).model.params, expected.model.params)
    columns, stop = layout.reader(TRAINING, 4)(np.asarray(row))
    assert (columns["loss"].item(), columns["step"].item(), stop) == (expected.stats["loss"].item(), 0, 0)


def test_many_steps_over_the_wire_are_the_steps_one_by_one(in_training):
    spec, loop = in_training()
    layout = layout_of(loop)
    expected = stepwise(spec, loop)
    wire, rows = steps_of(Programs(), spec, layout, 3)(layout.to_wire(loop), BATCHES, None)
    jax.tree.map(np.testing.assert_array_equal, layout.from_wire(wire).model.params, expected[-1].model.params)
    columns, _ = layout.reader(TRAINING, 4)(np.asarray(rows))
    assert columns["loss"].tolist() == [after.stats["loss"].item() for after in expected]
    assert columns["step"].tolist() == [0, 1, 2]


def test_the_wire_that_goes_in_is_donated(in_training):
    spec, loop = in_training()
    layout = layout_of(loop)
    wire = layout.to_wire(loop)
    steps_of(Programs(), spec, layout, 1)(wire, batch(0), None)
    _, arrays = wire
    assert all(leaf.is_deleted() for leaf in arrays if leaf.size > 2)


@pytest.mark.parametrize("count", [1, 2])
def test_programs_of_one_kind_are_one(in_training, count):
    spec, loop = in_training()
    programs = Programs()
    first, second = (steps_of(programs, spec, layout_of(one), count) for one in (loop, loop.replace()))
    assert first is second
    assert steps_of(programs, spec, layout_of(loop), count + 1) is not first


def test_a_phase_event_gives_what_its_callbacks_give(in_training):
    spec, loop = in_training(at(Event.EPOCH_END, lambda loop: loop.record("steps", loop.step + 5)))
    after = Programs().event(spec, layout_of(loop), Event.EPOCH_END, PLACEMENT)(loop)
    assert after.stats["steps"] == 5


def test_a_phase_event_leaves_the_arrays_that_it_does_not_change(in_training):
    spec, loop = in_training(at(Event.EPOCH_END, lambda loop: loop.cancel(Scope.FIT)))
    after = Programs().event(spec, layout_of(loop), Event.EPOCH_END, PLACEMENT)(loop)
    assert after.model.params["weight"] is loop.model.params["weight"]


def test_a_phase_event_may_make_room_in_memory(in_training):
    spec, loop = in_training(at(Event.FIT_START, lambda loop: loop.remember("best", 3.0)))
    assert Programs().event(spec, layout_of(loop), Event.FIT_START, PLACEMENT)(loop).callback_state == {"best": 3.0}


def test_a_phase_event_may_be_called_again_with_other_values(in_training):
    spec, loop = in_training(at(Event.EPOCH_END, lambda loop: loop.record("steps", loop.step)))
    event = Programs().event(spec, layout_of(loop), Event.EPOCH_END, PLACEMENT)
    event(loop)
    assert event(loop.replace(step=np.int32(9))).stats["steps"] == 9


def test_an_array_that_a_phase_event_puts_in_two_places_is_copied(in_training):
    spec, loop = in_training(at(Event.FIT_START, lambda loop: loop.remember("ema", loop.model.params)))
    after = Programs().event(spec, layout_of(loop), Event.FIT_START, PLACEMENT)(loop)
    assert after.callback_state["ema"]["weight"] is not after.model.params["weight"]
    np.testing.assert_array_equal(after.callback_state["ema"]["weight"], loop.model.params["weight"])


@pytest.mark.parametrize(
    ("cuts", "events"),
    [
        (frozenset({Event.UPDATE_START}), [Event.UPDATE_START, None]),
        (frozenset({Event.BATCH_END}), [Event.BATCH_END, None]),
        (ALL_CUTS, [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END, None]),
    ],
)
def test_a_step_is_cut_behind_the_events_that_are_asked_for(in_training, cuts, events):
    spec, _ = in_training()
    programs = Programs().stages(spec, Phase.TRAINING, cuts, PLACEMENT)
    assert [event for _, event in programs] == events


@pytest.mark.parametrize("cuts", [frozenset(), frozenset({Event.UPDATE_START}), ALL_CUTS])
def test_a_step_that_is_cut_is_the_step(in_training, cuts):
    spec, loop = in_training()
    expected = stepwise(spec, loop)[0]
    after, counted = hold(loop, batch(0)), np.bool_(True)
    for program, _ in Programs().stages(spec, Phase.TRAINING, cuts, PLACEMENT):
        after, counted = program(after, counted)
    assert bool(counted)
    assert jax.tree.structure(after) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, after.model.params, expected.model.params)
