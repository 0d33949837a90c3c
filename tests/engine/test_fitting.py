"""A fit as a whole: however it ends, host callbacks are closed and what is left is given."""

import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small


def test_host_callbacks_are_closed_once_however_the_fit_ends() -> None:
    closed: list[str] = []

    @jl.on_host(Event.EPOCH_END)
    class Closing:
        def __init__(self, fails: bool):
            self.fails = fails

        def __call__(self, loop, event):
            if self.fails:
                raise KeyError("on purpose")

        def close(self):
            closed.append("closed")

    small.training_loop(callbacks=[Closing(fails=False)]).fit(small.model(), 2)
    assert closed == ["closed"]
    with pytest.raises(KeyError, match="on purpose"):
        small.training_loop(callbacks=[Closing(fails=True), Closing(fails=False)]).fit(small.model(), 2)
    assert closed == ["closed"] * 3
