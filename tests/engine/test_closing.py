"""Host callbacks are bound before a fit and closed after it, all of them, whatever fails."""

import contextlib

import pytest

from jaxloop.callback import on_host
from jaxloop.engine.closing import bound_or_closed
from jaxloop.engine.host import Host
from jaxloop.events import Event, Plan, Scope
from jaxloop.placement import resolve
from tests import small

PLACEMENT = resolve(None)


def host(*callbacks):
    return Host(callbacks, PLACEMENT)


@on_host(Event.FIT_END)
class Closing:
    """A callback that writes down its closing, and may fail at it."""

    def __init__(self, closed, name, error=None):
        self.closed, self.name, self.error = closed, name, error

    def __call__(self, loop, event): ...

    def close(self):
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error


def closing(closed):
    """Three, of which the first two fail at their closing."""
    return Closing(closed, 1, OSError("disk full")), Closing(closed, 2, OSError("too")), Closing(closed, 3)


def test_after_a_fit_that_went_well_every_callback_is_closed_once_and_each_failure_is_warned_of():
    closed = []
    one = host(*closing(closed), small.witness([]))
    with pytest.warns(
        RuntimeWarning, match=r"'Closing' could not be closed, OSError\('.*loop and history are whole"
    ) as told:
        one.close()
    one.close()
    assert closed == [1, 2, 3]
    assert [str(warning.message).split("OSError")[1][:13] for warning in told] == ["('disk full')", "('too'). The "]


def test_after_an_error_every_callback_is_closed_and_each_failure_is_noted_on_it():
    closed, error = [], KeyError("mine")
    host(*closing(closed)).close(error)
    assert closed == [1, 2, 3]
    assert error.__notes__ == [
        "jaxloop: callback 'Closing' could not be closed either, OSError('disk full')",
        "jaxloop: callback 'Closing' could not be closed either, OSError('too')",
    ]


@pytest.mark.parametrize("error", [None, KeyError("mine")])
def test_an_interrupt_at_a_closing_does_not_keep_the_others_open(error):
    closed = []
    callbacks = Closing(closed, 1, KeyboardInterrupt()), Closing(closed, 2)
    with pytest.raises(KeyboardInterrupt) if error is None else contextlib.nullcontext():
        host(*callbacks).close(error)
    assert closed == [1, 2]


def test_where_one_cannot_be_bound_those_before_it_are_closed():
    closed = []

    class Broken:
        def bind(self, plan):
            raise KeyError("mine")

    callbacks = Closing(closed, 1), Closing(closed, 2, OSError("too")), Broken(), Closing(closed, 3)
    with pytest.raises(KeyError, match="mine") as caught:
        bound_or_closed(callbacks, Plan(1, 1, ("loss",), "batch"))
    assert closed == [1, 2]
    assert caught.value.__notes__[0].endswith("Broken' was bound to the plan of the fit")
    assert "OSError('too')" in caught.value.__notes__[1]


@on_host(Event.FIT_START)
class Ending:
    """Writes down how it was told that a fit has ended, and that it was closed after that."""

    def __init__(self):
        self.told = []

    def __call__(self, loop, event):
        pass

    def ended(self, how):
        self.told.append(how)

    def close(self):
        self.told.append("closed")


@pytest.mark.parametrize("how", ["completed", "cancelled", "failed"])
def test_a_callback_is_told_how_the_fit_ended_before_it_is_closed(how):
    def end(loop, event):
        return loop.cancel(Scope.FIT, when=loop.step >= 2) if event is Event.BATCH_END else loop

    @on_host(Event.EPOCH_END)
    def fail(loop, event):
        raise RuntimeError("out of luck")

    ending = Ending()
    others = {"completed": [], "cancelled": [end], "failed": [fail]}[how]
    with pytest.raises(RuntimeError, match="out of luck") if how == "failed" else contextlib.nullcontext():
        small.training_loop(callbacks=[ending, *others]).fit(small.model(), 1)
    assert ending.told == [how, "closed"]
