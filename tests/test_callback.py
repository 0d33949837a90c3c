"""What a callback is: its declaration, its binding, and how it is fired."""

import doctest

import pytest

import jaxloop as jl
from jaxloop.callback import HostDeclaration, bound, fire, name_of, on_host, sort_out
from jaxloop.events import Event, Plan, Scope
from tests import small
from tests.callbacks import replaying


class Bindable:
    """A callback that is made for each plan."""

    def bind(self, plan):
        return lambda loop, event: loop.record("total", plan.total_steps)


@on_host(Event.EPOCH_END)
def tell(loop, event):
    return "told"


def test_a_declared_function_can_still_be_called():
    assert tell(None, Event.EPOCH_END) == "told"


def test_a_declared_function_keeps_its_name():
    assert name_of(tell) == "tell"


def test_a_declaration_holds_events_and_what_is_read():
    declared = on_host(Event.BATCH_END, Event.FIT_END, reads="loop")(lambda loop, event: None)
    assert declared.host_declaration.events == {Event.BATCH_END, Event.FIT_END}
    assert declared.host_declaration.reads == "loop"


def test_a_declaration_may_read_more_at_single_events():
    declaration = HostDeclaration(frozenset({Event.BATCH_END, Event.EPOCH_END}), "stats", ((Event.EPOCH_END, "loop"),))
    assert declaration.reads_at(Event.BATCH_END) == "stats"
    assert declaration.reads_at(Event.EPOCH_END) == "loop"


def test_a_host_callback_reads_statistics_by_default():
    assert tell.host_declaration.reads == "stats"


def test_a_declared_class_stays_that_class():
    @on_host(Event.EPOCH_END)
    class Teller:
        def __call__(self, loop, event):
            return None

    assert isinstance(Teller(), Teller)
    assert Teller().host_declaration.events == {Event.EPOCH_END}


def test_on_host_without_events_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"one or more jaxloop.Event, got none. Write @on_host\(Event.EPOCH_END\)"):
        on_host()


def test_on_host_without_brackets_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"got <function .*forgetful.*Write @on_host\(Event.EPOCH_END\)"):

        @on_host
        def forgetful(loop, event): ...


def test_on_host_refuses_the_name_of_an_event():
    with pytest.raises(TypeError, match="got 'epoch_end'"):
        on_host("epoch_end")


def test_on_host_refuses_to_read_what_is_not_known():
    with pytest.raises(ValueError, match="`reads` must be 'stats', 'step' or 'loop', got 'all'"):
        on_host(Event.EPOCH_END, reads="all")


def test_callbacks_are_sorted_into_compiled_and_host_in_list_order():
    first, second = small.at(Event.BATCH_END, None), small.at(Event.BATCH_END, None)
    sorted_out = sort_out([first, tell, second])
    assert sorted_out.compiled == (first, second)
    assert sorted_out.host == (tell,)


class Accompanied:
    """A compiled callback with a host callback of its own."""

    def __init__(self, companion):
        self.companion = companion

    def __call__(self, loop, event):
        return loop


def test_companions_come_after_the_host_callbacks_of_the_list():
    first = on_host(Event.FIT_END)(lambda loop, event: None)
    second = on_host(Event.FIT_END)(lambda loop, event: None)
    callbacks = [Accompanied(first), tell, Accompanied(second)]
    sorted_out = sort_out(callbacks)
    assert sorted_out.compiled == (callbacks[0], callbacks[2])
    assert sorted_out.host == (tell, first, second)


@on_host(Event.FIT_END)
class NotCalled:
    def __call__(self, loop, event): ...


@pytest.mark.parametrize("companion", [lambda loop, event: None, None, NotCalled])
def test_a_companion_that_is_no_host_callback_is_refused_by_its_owner(companion):
    with pytest.raises(
        TypeError, match=r"`companion` of 'Accompanied' must be a host callback, got .*@jaxloop.on_host"
    ):
        sort_out([Accompanied(companion)])


@pytest.mark.parametrize("given", [tell, small.at(Event.BATCH_END, None), "CSVLogger"])
def test_one_callback_in_place_of_a_list_is_refused_with_the_fix(given):
    with pytest.raises(TypeError, match=r"expected a list of callbacks, got .*Put it in brackets"):
        sort_out(given)


def test_what_can_be_read_only_once_is_refused_and_not_left_out_in_silence():
    for make in (lambda given: small.training_loop(callbacks=given), lambda given: sort_out([], given)):
        with pytest.raises(TypeError, match=r"expected a list .*Make a list of it, as \[\*callbacks\]"):
            make(each for each in [tell])


def test_a_class_that_was_not_called_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"Bindable is a class; call it: Bindable\(\.\.\.\)"):
        sort_out([Bindable])


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match=r"each must be a function of \(loop, event\), got 3.*on_host\(jaxloop.Event"):
        sort_out([3])


def test_only_a_compiled_callback_that_binds_makes_programs_depend_on_the_plan():
    @on_host(Event.EPOCH_END)
    class Logger(Bindable):
        pass

    assert sort_out([Bindable()]).uses_plan
    assert not sort_out([Logger(), small.at(Event.BATCH_END, None)]).uses_plan


def test_binding_gives_the_callback_of_the_plan(loop):
    (callback,) = bound([Bindable()], Plan(epoch_count=3, batch_count=7))
    assert callback(loop, Event.FIT_START).stats["total"] == 21


def test_what_cannot_be_bound_stays_as_it_is():
    assert bound([tell], Plan(3, 7)) == (tell,)


def test_without_a_plan_nothing_is_bound():
    callback = Bindable()
    assert bound([callback], None) == (callback,)


def test_the_name_of_an_object_is_its_class():
    assert name_of(Bindable()) == "Bindable"


def test_the_name_of_an_inner_function_says_where_it_is_from():
    assert name_of(small.at(Event.BATCH_END, None)) == "at.callback"


def test_callbacks_are_fired_in_order(loop):
    first = small.at(Event.EPOCH_END, lambda loop: loop.record("seen", 1))
    second = small.at(Event.EPOCH_END, lambda loop: loop.record("seen", loop.stats["seen"] * 10 + 2))
    assert fire([first, second], loop, Event.EPOCH_END).stats["seen"] == 12


def test_callbacks_that_do_nothing_give_the_very_loop(loop):
    assert fire([small.at(Event.EPOCH_END, None)] * 3, loop, Event.BATCH_END) is loop


def test_all_callbacks_see_the_event_that_one_cancels(loop):
    first = small.at(Event.BATCH_START, lambda loop: loop.cancel(Scope.FIT))
    second = small.at(Event.BATCH_START, lambda loop: loop.cancel(Scope.BATCH))
    assert fire([first, second], loop, Event.BATCH_START).stop == 17


@pytest.mark.parametrize("event", [Event.BATCH_END, Event.EPOCH_END])
def test_a_callback_that_returns_nothing_is_refused_by_name_and_event(loop, event):
    with pytest.raises(TypeError, match=rf"'at.callback' at {event.name}: it must return a loop, got NoneType"):
        fire([small.at(event, lambda loop: None)], loop, event)


@pytest.mark.parametrize("save", [1, 5, 9, 20])
def test_the_example_of_a_callback_with_a_memory_goes_on_where_it_was_saved(save, view):
    known = {"jl": jl}
    for example in doctest.DocTestParser().get_examples(on_host.__doc__ or ""):
        exec(example.source, known)
    make = known["CountSpikes"]
    told = [(Event.BATCH_END, view(stats={"loss": loss})) for loss in [0.5, 11.0, 12.0, float("nan"), 13.0] * 4]
    resumed = replaying.killed_and_resumed(make, told, save, save + 3, lambda callback: None)
    assert resumed.count == 12
