"""What ended a fit is one sentence, on the console and in the history."""

import datetime
import io
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callback import name_of
from jaxloop.callbacks import ProgressBar, early_stopping, stop_after
from tests import small


def ended(*callbacks: Any, epochs: int = 6, **changes: Any) -> str:
    """How a fit with these callbacks ended; the last line of the console says the same."""
    stream = io.StringIO()
    training_loop = small.training_loop(callbacks=[ProgressBar(stream), *callbacks], **changes)
    _, history = training_loop.fit(small.model(), epochs)
    last = stream.getvalue().splitlines()[-1]
    assert last == history.ending if history.ending else last.startswith("Epoch ")
    return history.ending


def scores(*values: float) -> Any:
    """A compiled callback that records a value as `score` at the end of each epoch."""
    table = np.array(values, np.float32)

    def record(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        return loop.record("score", jnp.asarray(table)[loop.epoch_index]) if event is jl.Event.EPOCH_END else loop

    return record


def cancels(scope: jl.Scope, event: jl.Event, epoch_index: int = 1, batch_index: int = 0) -> Any:
    """A compiled callback that cancels at an event, from a batch of an epoch on."""

    def cancel(loop: jl.Loop, at: jl.Event) -> jl.Loop:
        here = (loop.epoch_index == epoch_index) & (loop.batch_index >= batch_index)
        return loop.cancel(scope, when=here) if at is event else loop

    return cancel


def test_a_fit_that_takes_all_its_epochs_says_nothing_of_its_end() -> None:
    assert ended(epochs=2) == ""


def test_early_stopping_says_why_and_which_epoch_it_has_restored() -> None:
    stop = early_stopping("score", mode="min", patience=3, restore_best=True)
    assert ended(scores(3, 1, 2, 2, 2, 2), stop) == (
        "Stopped after epoch 5 of 6: early_stopping (score did not improve for 3 epochs); "
        "the best model, of epoch 2, was restored"
    )


def test_early_stopping_says_that_its_statistic_has_diverged() -> None:
    stop = early_stopping("score", mode="min", patience=1)
    assert ended(scores(3, np.nan, 2, 2, 2, 2), stop) == (
        "Stopped after epoch 2 of 6: early_stopping (score is nan, and did not improve for 1 epoch)"
    )


def test_a_whole_fit_says_which_epoch_was_restored() -> None:
    stop = early_stopping("score", mode="max", patience=9, restore_best=True)
    assert ended(scores(1, 3, 2), stop, epochs=3) == "Took all 3 epochs; the best model, of epoch 2, was restored"


def test_a_fit_whose_last_epoch_is_the_best_restores_nothing() -> None:
    assert ended(scores(1, 2, 3), early_stopping("score", mode="max", restore_best=True), epochs=3) == ""
    assert ended(scores(*[np.nan] * 3), early_stopping("score", mode="max", restore_best=True), epochs=3) == ""


def test_epochs_that_are_restored_are_counted_in_this_fit() -> None:
    stop = early_stopping("score", mode="min", patience=1, restore_best=True)
    training_loop = small.training_loop(callbacks=[scores(2, 1, 3), stop])
    loop, _ = training_loop.fit(small.model(), 3)
    _, history = training_loop.fit(loop, 3)
    assert history.epochs["epoch"].tolist() == [4, 5, 6]
    assert history.ending.endswith("the best model, of epoch 2, was restored")


def test_a_host_callback_is_named() -> None:
    @jl.on_host(jl.Event.EPOCH_END)
    def stop_when_good(loop: Any, event: jl.Event) -> None:
        loop.cancel(jl.Scope.FIT, when=loop.epoch_index == 1)

    assert ended(small.traced(), stop_when_good) == "Stopped after epoch 2 of 6: " + name_of(stop_when_good)


@pytest.mark.parametrize("reads", ["stats", "step", "loop"])
def test_a_host_callback_that_cancels_within_a_phase_is_named_with_the_batch(reads: Any) -> None:
    @jl.on_host(jl.Event.BATCH_END, reads=reads)
    def stop(loop: Any, event: jl.Event) -> Any:
        found = loop.cancel(jl.Scope.FIT, when=(loop.epoch_index == 1) & (loop.batch_index == 1))
        return found if reads == "loop" else None

    said = ended(stop, training=jl.TrainingEpochs(small.samples(400), batch_size=4))
    # Rows are read late, so that more steps may have been taken than were told of.
    assert said.startswith("Stopped in epoch 2 of 6, training batch ")
    assert said.endswith(" of 100" if reads == "loop" else f" of 100: {name_of(stop)}")


def test_the_only_compiled_callback_is_named_if_no_other_can_have_cancelled() -> None:
    stop = cancels(jl.Scope.FIT, jl.Event.BATCH_END, batch_index=1)
    assert ended(stop) == "Stopped in epoch 2 of 6, training batch 2 of 3: cancels.cancel"
    assert ended(stop, scores(*range(6))) == "Stopped in epoch 2 of 6, training batch 2 of 3"


@pytest.mark.parametrize(
    ("event", "where"),
    [
        (jl.Event.EPOCH_START, "after epoch 2 of 6"),
        (jl.Event.TRAINING_END, "after the training of epoch 2 of 6"),
        (jl.Event.VALIDATION_START, "in epoch 2 of 6, validation batch 0 of 2"),
        (jl.Event.VALIDATION_END, "after epoch 2 of 6"),
        (jl.Event.EPOCH_END, "after epoch 2 of 6"),
    ],
)
def test_the_place_is_that_of_the_event(event: jl.Event, where: str) -> None:
    assert ended(cancels(jl.Scope.FIT, event)) == f"Stopped {where}: cancels.cancel"


def test_a_fit_that_is_cancelled_at_once_has_no_epoch() -> None:
    stream = io.StringIO()
    stop = cancels(jl.Scope.FIT, jl.Event.FIT_START, epoch_index=0)
    _, history = small.training_loop(callbacks=[ProgressBar(stream), stop]).fit(small.model(), 2)
    assert history.ending == stream.getvalue().splitlines()[-1] == "Stopped before the first epoch: cancels.cancel"


def test_the_end_of_the_time_is_said_with_the_batch() -> None:
    training = jl.TrainingEpochs(small.samples(800), batch_size=4)
    said = ended(stop_after(datetime.timedelta(microseconds=1)), training=training)
    assert said.startswith("Stopped in epoch 1 of 6, training batch ")
    assert said.endswith(" of 200: stop_after (0:00:00.000001 are over)")
