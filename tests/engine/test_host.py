"""The host's side of events: who is called when, with what, and what it may do."""

import jax
import numpy as np
import pytest

from jaxloop.callback import HostDeclaration, on_host
from jaxloop.engine.host import Host
from jaxloop.events import Event, Phase, Scope
from jaxloop.loop import COUNTERS, Loop
from jaxloop.placement import resolve
from jaxloop.views import LoopView

PLACEMENT = resolve(None)
STEP_EVENTS = (Event.BATCH_START, Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END)


def declared(*events, reads="stats", calls=None, give=lambda loop: None):
    """A host callback that writes down what it is called with."""

    @on_host(*events, reads=reads)
    def callback(loop, event):
        if calls is not None:
            calls.append((loop, event))
        return give(loop)

    return callback


def host(*callbacks):
    return Host(callbacks, PLACEMENT)


def test_who_reads_statistics_at_the_end_of_a_batch_cuts_nothing():
    assert host(declared(Event.BATCH_END, Event.EPOCH_END)).cuts(Phase.TRAINING) == frozenset()


@pytest.mark.parametrize("reads", ["step", "loop"])
def test_who_reads_more_at_the_end_of_a_batch_cuts_there(reads):
    assert host(declared(Event.BATCH_END, reads=reads)).cuts(Phase.TRAINING) == {Event.BATCH_END}


@pytest.mark.parametrize(
    ("phase", "cuts"),
    [
        (Phase.TRAINING, {Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END}),
        (Phase.VALIDATION, {Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END}),
    ],
)
def test_a_phase_is_cut_at_its_own_events(phase, cuts):
    assert host(declared(*STEP_EVENTS)).cuts(phase) == cuts


def test_who_is_asked_for_in_one_phase_does_not_cut_the_other():
    assert host(declared(Event.UPDATE_START, reads="step")).cuts(Phase.VALIDATION) == frozenset()


def observer(*deeper, seen=None):
    """A class that observes rows, and reads more at the events of `deeper`."""

    class Observer:
        host_declaration = HostDeclaration(
            frozenset({Event.BATCH_END, Event.EPOCH_END, *dict(deeper)}), "stats", tuple(deeper)
        )

        def __call__(self, loop, event):
            if seen is not None:
                seen.append((type(loop), event))

        def rows(self, columns):
            raise AssertionError("not delivered in these tests")

    return Observer()


def test_an_observer_that_reads_the_loop_between_phases_cuts_nothing_and_is_given_rows():
    one = host(observer((Event.EPOCH_END, "loop")))
    assert one.cuts(Phase.TRAINING) == frozenset()
    assert len(one.observers(Phase.TRAINING)) == 1
    assert one.may_change_the_loop


def test_an_observer_that_reads_the_step_at_one_event_cuts_there_alone_and_is_still_given_rows():
    one = host(observer((Event.UPDATE_START, "step")))
    assert one.cuts(Phase.TRAINING) == {Event.UPDATE_START}
    assert one.cuts(Phase.VALIDATION) == frozenset()
    assert [len(one.observers(phase)) for phase in Phase] == [1, 1]
    assert not one.may_change_the_loop


def test_an_observer_that_reads_more_at_the_end_of_a_batch_is_called_there_instead():
    one = host(observer((Event.BATCH_END, "step")))
    assert one.cuts(Phase.TRAINING) == {Event.BATCH_END}
    assert one.observers(Phase.TRAINING) == []


def test_an_observer_is_shown_what_it_reads_at_each_event(loop):
    seen = []
    one = host(observer((Event.UPDATE_START, "step"), (Event.EPOCH_END, "loop"), seen=seen))
    one.fire(loop, Event.UPDATE_START, Phase.TRAINING)
    one.fire(loop, Event.BATCH_END, Phase.TRAINING)
    one.fire(loop, Event.EPOCH_END)
    assert seen == [(LoopView, Event.UPDATE_START), (Loop, Event.EPOCH_END)]


def test_cuts_of_several_callbacks_add_up():
    callbacks = declared(Event.BATCH_START), declared(Event.UPDATE_START, reads="loop"), declared(Event.BATCH_END)
    assert host(*callbacks).cuts(Phase.TRAINING) == {Event.BATCH_START, Event.UPDATE_START}


def test_only_who_declares_an_event_is_called_in_list_order(loop):
    order = []
    callbacks = [
        declared(event, give=lambda _, name=name: order.append(name))
        for name, event in (("first", Event.EPOCH_END), ("never", Event.FIT_END), ("second", Event.EPOCH_END))
    ]
    host(*callbacks).fire(loop, Event.EPOCH_END)
    assert order == ["first", "second"]


def test_who_reads_statistics_sees_a_view(loop):
    calls = []
    host(declared(Event.EPOCH_END, calls=calls)).fire(loop.replace(epoch=np.int32(3)), Event.EPOCH_END)
    ((seen, event),) = calls
    assert (type(seen), event, seen.epoch) == (LoopView, Event.EPOCH_END, 3)


def test_who_reads_statistics_leaves_the_loop(loop):
    assert host(declared(Event.EPOCH_END)).fire(loop, Event.EPOCH_END) is loop


def test_who_reads_the_loop_sees_the_loop_as_device_arrays(loop):
    calls = []
    host(declared(Event.EPOCH_END, reads="loop", calls=calls)).fire(loop, Event.EPOCH_END)
    ((seen, _),) = calls
    assert isinstance(seen, Loop)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(seen))


def test_who_reads_the_loop_has_arrays_of_its_own(loop):
    calls = []
    host(declared(Event.EPOCH_END, reads="loop", calls=calls)).fire(loop, Event.EPOCH_END)
    jax.tree.map(lambda leaf: leaf.delete(), calls[0][0].model)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(loop.model))


def test_what_a_reader_of_the_loop_returns_takes_its_place(loop):
    callback = declared(Event.EPOCH_END, reads="loop", give=lambda loop: loop.replace(step=loop.step + 7))
    assert host(callback).fire(loop, Event.EPOCH_END).step == 7


def test_a_loop_that_was_returned_stays_its_givers(loop):
    held = []

    def keep(loop):
        held.append(loop)
        return loop

    after = host(declared(Event.EPOCH_END, reads="loop", give=keep)).fire(loop, Event.EPOCH_END)
    jax.tree.map(lambda leaf: leaf.delete(), after.model)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(held[0].model))


def test_the_next_callback_sees_what_the_one_before_returned(loop):
    calls = []
    change = declared(Event.EPOCH_END, reads="loop", give=lambda loop: loop.replace(step=loop.step + 7))
    host(change, declared(Event.EPOCH_END, calls=calls)).fire(loop, Event.EPOCH_END)
    assert calls[0][0].step == 7


@pytest.mark.parametrize("reads", ["stats", "step", "loop"])
def test_a_cancel_at_an_event_is_in_the_loop(loop, reads):
    callback = declared(Event.EPOCH_END, reads=reads, give=lambda loop: loop.cancel(Scope.FIT))
    after = host(callback).fire(loop.cancel(Scope.EPOCH), Event.EPOCH_END)
    assert after.stop == Scope.FIT | Scope.EPOCH


def test_two_cancels_at_one_event_both_count(loop):
    callback = declared(Event.EPOCH_END, give=lambda loop: loop.cancel(Scope.FIT).cancel(Scope.VALIDATION))
    assert host(callback).fire(loop, Event.EPOCH_END).stop == Scope.FIT | Scope.VALIDATION


def test_a_reader_of_the_step_sees_the_step_at_hand(loop):
    calls = []
    cut = host(declared(Event.UPDATE_START, reads="step", calls=calls))
    cut.fire(loop.replace(loss="the loss"), Event.UPDATE_START, Phase.TRAINING)
    assert calls[0][0].loss == "the loss"


def test_an_observer_is_not_called_at_the_end_of_a_batch_but_given_rows(loop):
    calls = []
    host(declared(Event.BATCH_END, calls=calls)).fire(loop, Event.BATCH_END, Phase.TRAINING)
    assert calls == []


@pytest.mark.parametrize("reads", ["stats", "step"])
def test_a_view_that_returns_something_else_is_refused_with_the_fix(loop, reads):
    callback = declared(Event.EPOCH_END, reads=reads, give=lambda loop: 3)
    with pytest.raises(
        TypeError, match=rf"declared.callback' at EPOCH_END: with reads='{reads}'.*got int.*reads='loop'"
    ):
        host(callback).fire(loop, Event.EPOCH_END)


def test_a_reader_of_the_loop_that_returns_something_else_is_refused(loop):
    callback = declared(Event.EPOCH_END, reads="loop", give=lambda loop: loop.stats)
    with pytest.raises(TypeError, match="at EPOCH_END: with reads='loop' it must return a loop or None, got dict"):
        host(callback).fire(loop, Event.EPOCH_END)


@pytest.mark.parametrize("event", [Event.BATCH_END, Event.EPOCH_END])
def test_what_is_recorded_too_late_for_a_column_is_refused_with_the_fix(loop, event):
    late = declared(event, reads="loop", give=lambda loop: loop.record("late", 1.0))
    phase = Phase.TRAINING if event.in_step else None
    with pytest.raises(ValueError, match=rf"at {event.name}: it records 'late'.*no column.*Declare FIT_START too"):
        host(late).fire(loop, event, phase)
    assert host(late).fire(loop.record("late", 0.0), event, phase).stats["late"] == 1


def observe(callback, columns):
    """Gives rows to a host of one observer, and the host."""
    one = host(callback)
    one.delivery(Phase.TRAINING)(columns)
    return one


def test_an_observer_sees_every_row_in_order(columns):
    calls = []
    observe(declared(Event.BATCH_END, calls=calls), columns(step=7, loss=[0.5, 0.25]))
    seen = [(event, view.step, view.batch_index, view.phase, view.stats["loss"]) for view, event in calls]
    assert seen == [(Event.BATCH_END, 7, 0, Phase.TRAINING, 0.5), (Event.BATCH_END, 8, 1, Phase.TRAINING, 0.25)]


def test_the_statistics_of_a_row_are_the_statistics_alone(columns):
    calls = []
    observe(declared(Event.BATCH_END, calls=calls), columns(loss=[0.5], norm=[2.0]))
    assert dict(calls[0][0].stats) == {"loss": 0.5, "norm": 2.0}


@pytest.mark.parametrize("name", COUNTERS)
def test_a_row_has_every_counter(columns, name):
    calls = []
    observe(declared(Event.BATCH_END, calls=calls), columns(loss=[0.5]))
    assert getattr(calls[0][0], name).dtype == np.int32


def test_an_observer_that_takes_rows_is_given_them_at_once(columns):
    given = []

    @on_host(Event.BATCH_END)
    class Logger:
        def rows(self, columns):
            given.append(columns)

        def __call__(self, loop, event): ...

    rows = columns(loss=[0.5, 0.25])
    observe(Logger(), rows)
    assert given == [rows]


def test_who_does_not_declare_the_end_of_a_batch_is_given_no_rows():
    assert host(declared(Event.EPOCH_END)).observers(Phase.TRAINING) == []


def test_who_cuts_the_step_is_given_no_rows():
    assert host(declared(Event.BATCH_END, reads="step")).observers(Phase.TRAINING) == []


def test_what_an_observer_cancels_is_taken_once(loop, columns):
    one = observe(declared(Event.BATCH_END, give=lambda loop: loop.cancel(Scope.EPOCH)), columns(loss=[0.5]))
    assert one.take_requests(loop).stop == Scope.EPOCH
    assert one.take_requests(loop).stop == 0


def test_an_observer_that_returns_something_else_is_refused(columns):
    with pytest.raises(TypeError, match=r"at BATCH_END: with reads='stats' it can change nothing.*got int"):
        observe(declared(Event.BATCH_END, give=lambda loop: 3), columns(loss=[0.5]))


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt("mine")], ids=repr)
@pytest.mark.parametrize("by_row", [True, False])
def test_an_observer_that_fails_keeps_the_rows_from_nobody_and_its_rows_are_named(error, by_row, columns):
    seen = []

    def fail(loop):
        if not by_row or loop.batch_index == 4:
            raise error

    observe = declared(Event.BATCH_END, give=fail)
    if not by_row:
        observe = observer()
        observe.rows = fail

    error.__notes__ = []
    before, after, late = (observer(), observer(), observer())
    before.rows = after.rows = lambda given: seen.append(given.count)
    late.rows = lambda given: 1 / 0
    deliver = host(before, observe, after, late).delivery(Phase.TRAINING)
    with pytest.raises(type(error), match="mine") as caught:
        deliver(columns(batch_index=3, step=10, loss=[0.5, 0.25, 0.125]))
    assert seen == [3, 3]
    which = "batch 5" if by_row else "batches 4 to 6"
    first, second = caught.value.__notes__
    assert first.endswith(f"at BATCH_END, training {which} of epoch 1 (counted from 1)")
    assert second == "jaxloop: the next observer failed too, ZeroDivisionError('division by zero')"


def test_a_notice_goes_to_whoever_speaks_to_a_person():
    told = []

    @on_host(Event.FIT_END)
    class Console:
        def __call__(self, loop, event): ...

        def notice(self, text, seconds):
            told.append((text, seconds))

    host(declared(Event.FIT_END), Console()).notice("Compiled training_step", 1.5)
    assert told == [("Compiled training_step", 1.5)]


@on_host(Event.FIT_START, Event.EPOCH_END)
class Counts:
    """Has a memory."""

    def __init__(self, calls):
        self.calls = calls
        self.count = 0

    def __call__(self, loop, event):
        self.calls.append(event.name)
        self.count += 1

    def state(self):
        return {"count": self.count}

    def resume(self, loop, state):
        self.calls.append(f"resume at {int(loop.epoch)}")
        self.count = state["count"]


def test_states_are_kept_by_name_and_a_second_of_one_name_has_a_number(loop):
    first, second, forgetful = Counts([]), Counts([]), declared(Event.FIT_START)
    first.count, second.count = 3, 5
    assert host(first, forgetful, second).states() == {"Counts": {"count": 3}, "Counts 2": {"count": 5}}


def test_a_callback_with_a_memory_resumes_in_place_of_the_start(loop):
    calls = []
    first, second = Counts(calls), Counts(calls)
    host(first, second).resume(loop, {"Counts": {"count": 3}, "Counts 2": {"count": 5}})
    assert calls == ["resume at 0", "resume at 0"]
    assert (first.count, second.count) == (3, 5)


def test_one_that_was_not_in_the_run_begins_and_one_without_a_memory_is_not_called(loop):
    calls, others = [], []
    host(Counts(calls), declared(Event.FIT_START, calls=others)).resume(loop, {})
    assert (calls, others) == (["FIT_START"], [])


def test_a_state_without_its_callback_is_told_of(loop):
    told = []

    @on_host(Event.EPOCH_END)
    class Console:
        def __call__(self, loop, event): ...

        def notice(self, text, seconds):
            told.append(text)

    host(Console()).resume(loop, {"CSVLogger": {}})
    assert told == ["The checkpoint holds the state of CSVLogger, which this fit does not have"]


@pytest.mark.parametrize("state", [{"when": {1, 2}}, {"array": np.zeros(2)}])
def test_a_state_that_json_cannot_hold_is_an_error_that_names_its_callback(state):
    counts = Counts([])
    counts.state = lambda: state
    with pytest.raises(TypeError) as raised:
        host(counts).states()
    assert raised.value.__notes__ == ["jaxloop: while the state of callback 'Counts' was saved"]


def test_nothing_can_be_cancelled_while_a_callback_resumes(loop):
    counts = Counts([])
    counts.resume = lambda loop, state: loop.cancel(Scope.FIT)
    with pytest.raises(RuntimeError, match="cannot cancel while it goes on"):
        host(counts).resume(loop, {"Counts": {}})


def test_an_attribute_that_only_has_the_name_is_no_memory(loop):
    @on_host(Event.EPOCH_END)
    class Named:
        state = "ready"

        def __call__(self, loop, event): ...

    assert host(Named()).states() == {}
