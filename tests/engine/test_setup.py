"""Setting up: what a run begins with, and what is refused before it does."""

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callback import sort_out
from jaxloop.engine.programs import Programs
from jaxloop.engine.setup import Setup, Start
from tests import small


def setup(**changes) -> Setup:
    return small.training_loop(**changes)._setup


def begun(of: Setup, given, epochs: int = 2, **changes) -> Start:
    options = {"callbacks": (), "on": None, "seed": 0, "limit": None} | changes
    return of.fit(given, epochs, **options)


def test_the_plan_counts_the_batches_that_are_trained_on() -> None:
    assert begun(setup(), small.model()).plan == jl.Plan(2, 3, ("loss", "accuracy"), "batch")
    assert begun(setup(report="epoch"), small.model(), 4, limit=2).plan == jl.Plan(4, 2, ("loss", "accuracy"), "epoch")


@pytest.mark.parametrize("changes", [{}, {"validation": None}])
def test_a_fit_begins_with_all_statistics_not_yet_measured(changes) -> None:
    start = begun(setup(callbacks=[jl.callbacks.clip_by_global_norm(1.0)], **changes), small.model())
    names = ["accuracy", "gradient_norm", "learning_rate", "loss", "validation_accuracy", "validation_loss"]
    assert sorted(start.loop.stats) == names
    assert all(np.isnan(value) for value in start.loop.stats.values())


def test_the_loop_holds_the_plan_only_where_a_compiled_callback_is_bound_to_it() -> None:
    class Bound:
        def bind(self, plan):
            return lambda loop, event: loop

    assert begun(setup(), small.model()).loop.plan is None
    assert begun(setup(callbacks=[Bound()]), small.model()).loop.plan == jl.Plan(2, 3, ("loss", "accuracy"))


def test_the_same_callbacks_share_their_parts_and_others_do_not() -> None:
    one, other = jl.callbacks.clip_by_global_norm(1.0), jl.callbacks.clip_by_global_norm(1.0)
    of = setup()
    assert of.parts_for(sort_out([one]), None) is of.parts_for(sort_out([one]), None)
    assert of.parts_for(sort_out([one]), None) is not of.parts_for(sort_out([other]), None)


def test_the_abstract_trace_is_kept_from_fit_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    import jaxloop.engine.setup as module

    probe = module.probe
    monkeypatch.setattr(module, "probe", lambda *arguments: traces.append(1) or probe(*arguments))
    of = setup()
    begun(of, small.model())
    begun(of, small.model(), epochs=5)
    assert len(traces) == 1
    assert isinstance(of.programs, Programs)


@pytest.mark.parametrize(("training", "validation"), [([[]], None), ([[small.samples(4)]], [])])
def test_data_without_a_batch_is_refused(training, validation) -> None:
    with pytest.raises(ValueError, match=r"(training|validation): there is no batch"):
        begun(setup(training=training, validation=validation), small.model())
