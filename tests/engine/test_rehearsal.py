"""What is found out before a run: once, and kept."""

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from jaxloop.programs.programs import Programs
from tests import small


def setup(**changes) -> Setup:
    return small.training_loop(**changes).setup


def begun(of: Setup, given, epochs: int = 2, **changes) -> Session:
    return of.fit(given, epochs, **changes)


def test_the_abstract_trace_is_kept_from_fit_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    import jaxloop.engine.rehearsal as module

    trace_fit = module.trace_fit
    monkeypatch.setattr(module, "trace_fit", lambda *arguments: traces.append(1) or trace_fit(*arguments))
    of = setup()
    begun(of, small.model())
    begun(of, small.model(), epochs=5)
    assert len(traces) == 1
    assert isinstance(of.programs, Programs)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
@pytest.mark.parametrize("callbacks", [[], [jl.callbacks.clip_by_global_norm(1.0)]], ids=["plain", "recording"])
def test_loss_and_model_are_traced_once_for_each_phase(steps_per_dispatch, callbacks) -> None:
    traces = []

    def loss_fn(output, target):
        traces.append(1)
        return jl.losses.softmax_cross_entropy(output, target)

    training_loop = small.training_loop(loss_fn=loss_fn, callbacks=callbacks, steps_per_dispatch=steps_per_dispatch)
    training_loop.fit(small.model(), 2)
    assert len(traces) == 2


def test_weights_that_change_no_loss_are_told():
    images, labels = small.samples(8)
    weighted = (images, labels, np.ones(8, np.float32))

    def scalar(output, target):
        return jl.losses.softmax_cross_entropy(output, target).mean()

    training_loop = small.training_loop(training=weighted, validation=None, batch_size=4, loss_fn=scalar)
    with pytest.warns(RuntimeWarning, match="training: its batches have weights, but `loss_fn` gives a scalar"):
        training_loop.fit(small.model(), 1)
    small.training_loop(training=weighted, validation=None, batch_size=4).fit(small.model(), 1)
