"""Setting up: what a run begins with, and what is refused before it does."""

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callback import sort_out
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from tests import small


def setup(**changes) -> Setup:
    return small.training_loop(**changes).setup


def begun(of: Setup, given, epochs: int = 2, **changes) -> Session:
    return of.fit(given, epochs, **changes)


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
    assert of.spec_for(sort_out([one]), None) is of.spec_for(sort_out([one]), None)
    assert of.spec_for(sort_out([one]), None) is not of.spec_for(sort_out([other]), None)


def test_an_evaluation_of_other_batches_than_the_first_is_right_too() -> None:
    training_loop, others = small.training_loop(), jl.in_batches(small.samples(6), 6)
    training_loop.evaluate(small.model(), jl.in_batches(small.samples(8), 4))
    assert training_loop.evaluate(small.model(), others) == small.training_loop().evaluate(small.model(), others)


def test_a_fit_under_another_precision_has_programs_of_that_precision() -> None:
    training_loop = small.training_loop()
    training_loop.fit(small.model(), 1)
    with jax.default_matmul_precision("highest"):
        training_loop.fit(small.model(), 1)
        steps, wire = small.steps_of(training_loop)
        chunk = steps.feed.expected(1)
        text = str(steps.program(chunk).jitted.trace(wire, chunk.abstract, None).jaxpr)
    assert "HIGHEST" in text


@pytest.mark.parametrize(("training", "validation"), [([[]], None), ([[small.samples(4)]], [])])
def test_data_without_a_batch_is_refused(training, validation) -> None:
    with pytest.raises(ValueError, match=r"(training|validation): there is no batch"):
        begun(setup(training=training, validation=validation), small.model())
