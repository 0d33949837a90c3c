"""What a compiled callback may do to a loop inside a step, and what it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.callback import fire, name_of, on_host, within_steps
from jaxloop.events import Event, Phase, Plan, Scope
from tests import small


def in_step(loop, change, *, new_stats=False):
    """What `change` as a callback at BATCH_END makes of a loop that is traced."""
    callback = small.at(Event.BATCH_END, change)
    return jax.jit(lambda loop: fire([callback], loop, Event.BATCH_END, new_stats=new_stats))(loop)


@pytest.fixture
def loop(loop):
    memory = {"count": np.int32(2), "mean": np.float32(0.5), "ema": jnp.zeros(3), "key": jax.random.key(0)}
    return loop.replace(callback_state=memory, stats={"loss": np.float32(1)})


def remembering(name, value):
    return lambda loop: loop.replace(callback_state=loop.callback_state | {name: value})


@pytest.mark.parametrize(
    ("field", "change"),
    [
        (r"'callback_state'", remembering("new", 1.0)),
        (r"'callback_state'", lambda loop: loop.replace(callback_state={})),
        (r"'input'", lambda loop: loop.replace(input=jnp.zeros(2))),
        (r"'stats'", lambda loop: loop.record("new", 1.0)),
    ],
)
def test_a_callback_that_changes_the_structure_is_refused_by_field(loop, field, change):
    with pytest.raises(TypeError, match=rf"'at.callback' at BATCH_END: field {field} must keep its structure"):
        in_step(loop, change)


def test_the_refusal_of_a_new_structure_says_where_to_make_room(loop):
    with pytest.raises(TypeError, match=r"Make room for it at FIT_START, by loop.remember\(\.\.\.\)"):
        in_step(loop, remembering("new", 1.0))


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("ema", np.zeros(2, np.float32), r"float32\[3\]", r"float32\[2\]"),
        ("ema", np.float32(0), r"float32\[3\]", r"float32\[\]"),
        ("count", np.float32(1), r"int32\[\]", r"float32\[\]"),
        ("count", 1.5, r"int32\[\]", r"float32\[\]"),
        ("mean", jnp.bfloat16(1), r"float32\[\]", r"bfloat16\[\]"),
        ("mean", np.int32(1), r"float32\[\]", r"int32\[\]"),
    ],
)
def test_a_callback_that_changes_shape_or_dtype_is_refused_by_leaf(loop, name, value, expected, got):
    where = rf"'at.callback' at BATCH_END: field 'callback_state'\['{name}'\]"
    with pytest.raises(TypeError, match=rf"{where} must stay {expected}, got {got}"):
        in_step(loop, remembering(name, value))


@pytest.mark.parametrize(("name", "value"), [("mean", 0.25), ("mean", 3), ("count", 3)])
def test_a_python_number_takes_on_the_type_of_what_it_replaces(loop, name, value):
    after = in_step(loop, remembering(name, value)).callback_state[name]
    assert after == value
    assert after.dtype == loop.callback_state[name].dtype
    assert not after.weak_type


def test_a_callback_may_replace_a_typed_key(loop):
    after = in_step(loop, lambda loop: loop.replace(key=jax.random.fold_in(loop.key, 1)))
    expected = jax.random.key_data(jax.random.fold_in(loop.key, 1))
    np.testing.assert_array_equal(jax.random.key_data(after.key), expected)


@pytest.mark.parametrize("field", [{"phase": Phase.VALIDATION}, {"lasting": frozenset({"ema"})}, {"plan": Plan(1, 1)}])
def test_a_callback_may_not_change_what_is_static_in_a_step(loop, field):
    with pytest.raises(TypeError, match=rf"field '{next(iter(field))}' is static and cannot change inside a step"):
        in_step(loop, lambda loop: loop.replace(**field))


def test_what_is_new_in_a_phase_event_is_free(loop):
    change = small.at(Event.EPOCH_START, remembering("new", jnp.zeros(3)))
    assert "new" in fire([change], loop, Event.EPOCH_START).callback_state


def test_a_new_statistic_may_be_recorded_where_that_is_allowed(loop):
    after = in_step(loop, lambda loop: loop.record("norm", 2.0), new_stats=True)
    assert after.stats == {"loss": 1.0, "norm": 2.0}


def test_a_statistic_may_not_be_dropped(loop):
    with pytest.raises(TypeError, match="field 'stats' must keep its structure"):
        in_step(loop, lambda loop: loop.replace(stats={}), new_stats=True)


def branch(loop):
    return loop.record("loss", 0.0) if loop.stats["loss"] > 1 else loop


def to_number(loop):
    return loop.record("loss", float(loop.stats["loss"]))


def to_numpy(loop):
    return loop.record("loss", np.sum(np.asarray(loop.callback_state["ema"])))


def to_index(loop):
    return loop.record("loss", [1.0, 2.0, 3.0][loop.callback_state["count"]])


@pytest.mark.parametrize("change", [branch, to_number, to_numpy, to_index])
def test_asking_a_traced_array_for_its_value_is_refused_with_the_fix(loop, change):
    message = r"'at.callback' at BATCH_END: it is compiled, and asked for the value.*jnp.where.*@jaxloop.on_host"
    with pytest.raises(TypeError, match=message):
        in_step(loop, change)


@pytest.mark.parametrize("event", [Event.FIT_START, Event.EPOCH_END])
def test_between_steps_a_dtype_alone_cannot_change_but_a_structure_can(loop, event):
    before = loop.remember("best", np.float32(1))

    def whole(loop, event):
        return loop.replace(callback_state=loop.callback_state | {"best": np.int32(1)})

    def more(loop, event):
        return loop.remember("more", np.zeros(3))

    with pytest.raises(TypeError, match=rf"whole' at {event.name}: field 'callback_state'\['best'\] must stay float32"):
        fire([whole], before, event)
    assert fire([more], before, event).callback_state["more"].shape == (3,)


def test_within_steps_a_callback_is_called_at_fit_start_and_in_steps_alone(loop):
    seen = []

    def note(loop, event):
        seen.append(event)
        return loop.cancel(Scope.FIT)

    inner = within_steps(note)
    assert name_of(inner) == name_of(note)
    assert not hasattr(inner, "bind")
    for event in Event:
        changed = inner(loop, event).stop != loop.stop
        assert changed == (event.in_step or event is Event.FIT_START)
    assert set(seen) == {Event.FIT_START, *(event for event in Event if event.in_step)}


def test_within_steps_a_callback_is_bound_and_has_no_companion(loop):
    class Bound:
        companion = on_host(Event.FIT_END)(lambda loop, event: None)

        def bind(self, plan):
            return lambda loop, event: loop.record("count", plan.epoch_count)

    inner = within_steps(Bound())
    assert not hasattr(inner, "companion")
    assert inner.bind(Plan(7, 3))(loop, Event.BATCH_END).stats["count"] == 7
    assert inner.bind(Plan(7, 3))(loop, Event.EPOCH_END) is loop
