"""What is left of a run that failed: errors at run time, the user's message first, and the loop before them."""

from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import jaxloop as jl
from jaxloop import Event
from jaxloop.engine.latest import Latest
from jaxloop.events import TRAINING
from jaxloop.ownership import own_copy
from jaxloop.phases import enter
from jaxloop.placement import resolve
from jaxloop.programs.step_trace import calls_python
from jaxloop.wire import layout_of
from tests import small

PLACEMENT = resolve(None)
FAILS_AT = 7


def complain(step):
    if step >= FAILS_AT:
        raise ValueError("the user's message")
    return np.float32(step)


NUMBER = jax.ShapeDtypeStruct((), jnp.float32)
HOW = {
    "debug.callback": lambda loop: jax.debug.callback(lambda step: (complain(step), None)[1], loop.step) or loop,
    "pure_callback": lambda loop: loop.record("mine", jax.pure_callback(complain, NUMBER, loop.step)),
    "io_callback": lambda loop: loop.record("mine", io_callback(complain, NUMBER, loop.step)),
    "error_if": lambda loop: loop.replace(
        key=loop.key, model=equinox.error_if(loop.model, loop.step >= FAILS_AT, "the user's message")
    ),
}


def failing(how: str, at: Event = Event.BATCH_START, **changes: Any) -> jl.TrainingLoop:
    def callback(loop, event):
        return HOW[how](loop) if event is at else loop

    callbacks = [callback, *changes.pop("callbacks", [])]
    training = jl.TrainingEpochs(small.samples(24), 4)
    return small.training_loop(training=training, callbacks=callbacks, **({"validation": None} | changes))


@jl.on_host(Event.UPDATE_START, reads="step")
def cuts(loop, event):
    pass


@pytest.fixture(scope="module")
def good() -> dict[int, jl.Loop]:
    """The loop after 6 and after 7 steps of a plain loop, taken one by one."""
    plain = small.training_loop(training=jl.TrainingEpochs(small.samples(24), 4), validation=None)
    loop, found = plain.start(small.model(), epochs=3), {}
    for epoch in range(2):
        loop = plain.begin_epoch(loop)
        for batch in plain.training[epoch]:
            loop = plain.train_step(loop, batch)
            found[int(loop.step)] = loop
        loop = plain.end_epoch(loop)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("steps_per_dispatch", "step"), [(1, 7), (3, 6), ("auto", 6), ("apart", 7)])
def test_the_users_message_comes_with_the_loop_before_the_dispatch(how, steps_per_dispatch, step, good) -> None:
    apart = steps_per_dispatch == "apart"
    training_loop = failing(how, steps_per_dispatch=1 if apart else steps_per_dispatch, callbacks=[cuts] * apart)
    with pytest.raises((ValueError, RuntimeError), match="the user's message") as caught:
        training_loop.fit(small.model(), 3)
    loop = caught.value.loop  # type: ignore[union-attr]
    assert int(loop.step) == step
    np.testing.assert_allclose(loop.model.params["kernel"], good[step].model.params["kernel"], rtol=1e-5)
    notes = [text for text in caught.value.__notes__ if "error.loop" in text]
    assert notes[0].endswith(f"error.loop is the loop in epoch 2 (counted from 1), after {step - 6} training batches")
    assert len(notes) == 1


BETWEEN = [event for event in Event if not event.in_step]


@pytest.mark.parametrize("event", BETWEEN, ids=lambda event: event.name)
def test_what_a_compiled_callback_does_to_the_world_between_steps_is_done(event: Event) -> None:
    told: list[int] = []

    def prints(loop, at):
        if at is event:
            jax.debug.callback(lambda step: told.append(int(step)), loop.step)
        return loop

    small.training_loop(callbacks=[prints]).fit(small.model(), 2)
    jax.effects_barrier()
    once = event in (Event.FIT_START, Event.FIT_END)
    assert len(told) == (1 if once else 2)


@pytest.mark.parametrize("event", [Event.FIT_START, Event.EPOCH_START, Event.TRAINING_END, Event.FIT_END])
def test_an_error_between_steps_leaves_the_loop_before_it(event: Event, good) -> None:
    training_loop = failing("debug.callback", event, steps_per_dispatch=3)
    given = good[12] if event is Event.FIT_START else small.model()
    with pytest.raises(RuntimeError, match="the user's message") as caught:
        training_loop.fit(given, 3)
    loop = caught.value.loop  # type: ignore[attr-defined]
    assert int(loop.step) == (18 if event is Event.FIT_END else 12)
    assert np.isfinite(loop.model.params["kernel"]).all()


def test_evaluation_prediction_and_single_steps_tell_the_message_and_leave_what_they_were_given(good) -> None:
    training_loop, loop = failing("debug.callback"), good[12]
    batches = jl.in_batches(small.samples(8), 4)
    with pytest.raises(RuntimeError, match="the user's message") as caught:
        training_loop.evaluate(loop, batches)
    assert "jaxloop: while it evaluated `batches`" in caught.value.__notes__
    with pytest.raises(RuntimeError, match="the user's message") as caught:
        training_loop.predict(loop, batches)
    assert "jaxloop: while it predicted for `batches`" in caught.value.__notes__
    with pytest.raises(RuntimeError, match="the user's message"):
        jax.block_until_ready(training_loop.train_step(loop, training_loop.training[0][0]))
    assert np.isfinite(loop.model.params["kernel"]).all()


def test_a_compiled_map_of_the_data_that_raises_leaves_the_loop_too() -> None:
    epoch = jl.TrainingEpochs(small.samples(24), 4)[0]
    third = float(epoch[3][0][0, 0])

    def checked(batch):
        return equinox.error_if(batch[0], batch[0][0, 0] == third, "the user's message"), batch[1]

    training_loop = small.training_loop(training=[epoch.map(checked, compiled=True)], validation=None)
    with pytest.raises((ValueError, RuntimeError), match="the user's message") as caught:
        training_loop.fit(small.model(), 1)
    assert int(caught.value.loop.step) == 3  # type: ignore[union-attr]


def test_a_step_that_cannot_raise_writes_over_its_wire_and_one_that_can_does_not() -> None:
    assert small.steps_of(small.training_loop())[0].donates
    assert not small.steps_of(failing("error_if"))[0].donates


@pytest.mark.parametrize(("how", "calls"), [(jax.debug.print, False), (jax.debug.callback, True)])
def test_what_prints_cannot_raise_and_what_calls_python_can(how, calls: bool) -> None:
    def scanned(numbers):
        first = "{}" if how is jax.debug.print else complain
        return jax.lax.scan(lambda carry, number: (carry, how(first, number)), 0, numbers)[0]

    assert calls_python(jax.make_jaxpr(scanned)(jnp.arange(3))) is calls


class Failed:
    """Rows of a dispatch that failed."""

    def __init__(self, message: str):
        self.message = message

    def block_until_ready(self):
        raise RuntimeError(self.message)


@pytest.fixture
def wires(loop, spec):
    """A layout and three wires of it, of steps 0, 1 and 2."""
    made = spec()
    own = own_copy(enter(made, loop, TRAINING, np.int32(3)), PLACEMENT)
    layout = layout_of(own)
    steps = [own_copy(own.replace(step=np.int32(step), batch_index=np.int32(step)), PLACEMENT) for step in range(3)]
    return layout, [layout.to_wire(step) for step in steps]


def delete(wire) -> None:
    for leaf in wire[1]:
        leaf.delete()


def test_where_later_dispatches_were_sent_the_newest_that_is_whole_is_left(wires) -> None:
    layout, (start, first, second) = wires
    latest = Latest()
    sent = latest.phase(layout, start, donated=False)
    sent((first, np.zeros(3)))
    sent((second, Failed("the user's message")))
    delete(second)
    follows = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Buffer has been deleted or donated.")
    told = latest.told(lambda error: latest.leave_with(error, PLACEMENT))
    with pytest.raises(RuntimeError, match="the user's message") as caught, told:
        raise follows
    assert caught.value.loop.step == 1  # type: ignore[attr-defined]
    assert caught.value.__notes__ == [
        "jaxloop: a step failed as it ran, and before its dispatch error.loop is the loop in epoch 1 (counted from 1), "
        "after 1 training batches"
    ]


def test_where_nothing_is_left_that_is_said(wires) -> None:
    layout, (start, first, _) = wires
    latest = Latest()
    latest.between(layout.from_wire(start).replace(phase=None, epoch_index=np.int32(4)))
    latest.phase(layout, start, donated=True)((first, np.zeros(3)))
    delete(first)
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with (
        pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"),
        latest.told(lambda e: latest.leave_with(e, PLACEMENT)),
    ):
        raise error
    assert not hasattr(error, "loop")
    assert "in epoch 5 (counted from 1); there is no error.loop: a step that failed as it ran" in error.__notes__[0]


def test_before_the_first_event_nothing_is_lost_and_nothing_is_said() -> None:
    error = ValueError("no such folder")
    Latest().leave_with(error, PLACEMENT)
    assert not hasattr(error, "__notes__")


def test_an_error_that_is_not_the_runtimes_stays_what_it_is(wires) -> None:
    layout, (start, first, _) = wires
    latest = Latest()
    latest.phase(layout, start, donated=True)((first, Failed("not this")))
    assert latest.cause(KeyError("mine")) is None
