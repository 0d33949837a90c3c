"""Schedules over epochs of several lengths: which steps count."""

from typing import Any

import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import learning_rate_scheduler
from jaxloop.events import Event
from tests import small
from tests.callbacks.spying import given_to_the_spy, scheduled


def curriculum() -> list[Any]:
    """Epochs of 6, 2 and 10 batches."""
    images, labels = small.samples(40)
    batches = [(images[at : at + 4], labels[at : at + 4]) for at in range(0, 40, 4)]
    return [batches[:6], batches[:2], batches]


def falling() -> Any:
    """A rate that falls from 1 at the first step to 0 at the last."""
    return learning_rate_scheduler(
        jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, start_rate=1.0, end_rate=0.0)])
    )


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_schedule_counts_the_steps_of_epochs_of_several_lengths(steps_per_dispatch: int) -> None:
    training_loop = scheduled(falling(), training=curriculum(), steps_per_dispatch=steps_per_dispatch)
    loop, history = training_loop.fit(small.model(), 3)
    np.testing.assert_allclose(given_to_the_spy(loop), np.linspace(1, 0, 18), atol=1e-6)
    assert history.batches["learning_rate"].tolist() == given_to_the_spy(loop)


def test_a_fit_from_the_middle_of_a_curriculum_has_the_steps_that_are_left() -> None:
    training_loop = scheduled(falling(), training=curriculum())
    loop, first = training_loop.fit(small.model(), 1)
    loop, second = training_loop.fit(loop, 2)
    np.testing.assert_allclose(first.batches["learning_rate"], np.linspace(1, 0, 6), atol=1e-6)
    np.testing.assert_allclose(second.batches["learning_rate"], np.linspace(1, 0, 12), atol=1e-6)
    assert int(loop.first_step) == 6


def test_a_limit_of_batches_cuts_each_epoch_of_a_schedule() -> None:
    training_loop = scheduled(falling(), training=curriculum())
    _, history = training_loop.fit(small.model(), 3, limit_batches=4)
    np.testing.assert_allclose(history.batches["learning_rate"], np.linspace(1, 0, 4 + 2 + 4), atol=1e-6)


def test_the_loop_of_ones_own_follows_a_schedule_over_epochs_of_several_lengths() -> None:
    training_loop = scheduled(falling(), training=curriculum())
    loop = training_loop.start(small.model(), epochs=3)
    lengths = []
    for epoch in curriculum():
        loop = training_loop.begin_epoch(loop)
        lengths.append(int(loop.batch_count))
        for batch in epoch:
            loop = training_loop.train_step(loop, batch)
        loop = training_loop.end_epoch(loop)
    np.testing.assert_allclose(given_to_the_spy(loop), np.linspace(1, 0, 18), atol=1e-6)
    assert lengths == [6, 2, 10]


@jl.on_host(*jl.Event)
class Told:
    """Keeps what is told to a person."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str, seconds: float = 0.0) -> None:
        self.notices.append(text)

    def __call__(self, loop: Any, event: Event) -> None: ...


def test_lengths_that_epochs_do_not_tell_are_taken_from_the_first_and_the_user_is_told() -> None:
    told = Told()
    training_loop = scheduled(falling(), told, training=iter(curriculum()))
    with pytest.warns(UserWarning, match="an epoch has (2|10) batches, where the first has 6") as warned:
        loop, _ = training_loop.fit(small.model(), 3)
    np.testing.assert_allclose(given_to_the_spy(loop), np.linspace(1, 0, 18), atol=1e-6)
    assert "goes by 18" in str(warned[0].message)
    assert "Takes each epoch to have 6 batches, as the first has: 18 steps in all" in told.notices


def test_nothing_is_told_of_lengths_where_no_callback_asks_for_them() -> None:
    told = Told()
    scheduled(told, learning_rate_scheduler(optax.constant_schedule(0.1)), training=iter(curriculum())).fit(
        small.model(), 3
    )
    assert not [text for text in told.notices if "Takes each epoch" in text]


@pytest.mark.slow
def test_a_batch_that_was_cancelled_counts_in_a_schedule_and_one_that_never_came_does_not() -> None:
    def cancel(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is not Event.UPDATE_START:
            return loop
        loop = loop.cancel(jl.Scope.BATCH, when=loop.step == 1)
        return loop.cancel(jl.Scope.TRAINING, when=loop.step == 3)

    for steps in (1, 3):
        training_loop = scheduled(falling(), cancel, training=curriculum(), steps_per_dispatch=steps)
        _, history = training_loop.fit(small.model(), 2)
        expected = np.linspace(1, 0, 8)[[0, 2, 4, 5]]
        np.testing.assert_allclose(history.batches["learning_rate"], expected, atol=1e-6)
