"""The loop in one's own hands: the same as a fit, and what each call knows of the epoch it is in."""

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.engine.step_by_step import StepByStep
from jaxloop.events import TRAINING, VALIDATION
from tests import small


@pytest.fixture(scope="module")
def training_loop() -> jl.TrainingLoop:
    return small.training_loop(callbacks=[jl.callbacks.ema(0.9)])


def test_steps_of_ones_own_give_what_a_fit_gives(training_loop) -> None:
    steps = StepByStep(training_loop.setup)
    loop = training_loop.start(small.model(), epochs=2)
    for epoch in range(2):
        loop = steps.begin_epoch(loop)
        for batch in training_loop.training[epoch]:
            loop = steps.step(loop, batch, TRAINING)
        for batch in training_loop.validation:
            loop = steps.step(loop, batch, VALIDATION)
        loop = steps.end_epoch(loop)
    fitted, _ = training_loop.fit(small.model(), 2)
    small.assert_trees_equal(loop.model, fitted.model)
    small.assert_trees_equal(loop.callback_state, fitted.callback_state)
    assert {name: float(value) for name, value in loop.stats.items()} == {
        name: float(value) for name, value in fitted.stats.items()
    }


def test_the_length_of_a_phase_is_known_in_it() -> None:
    images, labels = small.samples(12)
    epochs = [[(images[:4], labels[:4])] * 3, [(images[:4], labels[:4])] * 2]
    training_loop = small.training_loop(training=epochs)
    steps = StepByStep(training_loop.setup)
    loop = training_loop.start(small.model(), epochs=2)
    counts = []
    for epoch in epochs:
        loop = steps.begin_epoch(loop)
        counts.append(int(loop.batch_count))
        loop = steps.step(loop, epoch[0], TRAINING)
        counts.append(int(loop.batch_count))
        loop = steps.step(loop, epoch[0], VALIDATION)
        counts.append(int(loop.batch_count))
        loop = steps.end_epoch(loop)
    assert counts == [3, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("every", [None, 5])
def test_the_length_of_a_loader_is_known_after_a_validation(every) -> None:
    """Its epochs come in turn, so they cannot be asked for it."""
    images, labels = small.samples(12)
    loader = type("Loader", (), {"__len__": lambda self: 3, "__iter__": lambda self: iter([(images, labels)] * 3)})()
    epochs = jl.repeat(loader)
    training_loop = small.training_loop(training=epochs if every is None else epochs.every(every))
    steps = StepByStep(training_loop.setup)
    loop = steps.begin_epoch(training_loop.start(small.model(), epochs=2))
    loop = steps.step(loop, (images, labels), VALIDATION)
    assert int(loop.batch_count) == 2
    assert int(steps.begin_epoch(steps.end_epoch(loop)).batch_count) == (every or 3)


def test_wild_numbers_are_refused_where_each_batch_is_looked_into() -> None:
    training_loop = small.training_loop(check="all")
    steps = StepByStep(training_loop.setup)
    loop = steps.begin_epoch(training_loop.start(small.model(), epochs=1))
    images, _ = small.samples(4)
    with pytest.raises(ValueError, match=r"batch: batch 0's target is 9 at \(2,\)"):
        steps.step(loop, (images, np.array([0, 1, 9, 2], np.int32)), TRAINING)
