"""What happens to a loop between steps."""

import jax
import numpy as np
import pytest

from jaxloop.events import TRAINING, VALIDATION, Event, Phase, Plan, Scope
from jaxloop.phases import begin_epoch, begin_fit, close_epoch, enter, in_phase, leave_epoch, leave_phase, open_epoch

EVERY_SCOPE = np.int32(sum(Scope))


@pytest.fixture
def old(loop):
    """A loop that has run before."""
    loop = loop.replace(
        **{name: np.int32(5) for name in ("step", "epoch", "epoch_index", "epoch_count", "batch_index", "batch_count")},
        stop=EVERY_SCOPE,
        stats={"loss": np.float32(1), "norm": np.float32(2)},
    )
    return loop.remember("ema", 1.0, lasting=True).remember("best", 2.0)


def recorder(seen):
    """A compiled callback that writes down each event with the phase it came in."""

    def callback(loop, event):
        seen.append((event, loop.phase))
        return loop

    return callback


def test_a_new_fit_begins_at_position_zero(spec, old):
    loop = begin_fit(spec(), old, Plan(3, 7))
    assert (loop.epoch_index, loop.epoch_count, loop.batch_index, loop.batch_count) == (0, 3, 0, 7)


def test_a_new_fit_goes_on_with_the_life_of_the_loop(spec, old):
    loop = begin_fit(spec(), old, Plan(3, 7))
    assert (loop.step, loop.epoch, loop.key, loop.model, loop.opt_state) == (
        *(5, 5),
        *(old.key, old.model, old.opt_state),
    )


def test_a_new_fit_forgets_what_was_cancelled(spec, old):
    assert begin_fit(spec(), old, Plan(3, 7)).stop == 0


def test_a_new_fit_keeps_in_memory_only_what_lasts(spec, old):
    assert begin_fit(spec(), old, Plan(3, 7)).callback_state == {"ema": 1.0}


def test_a_new_fit_has_measured_nothing(spec, old):
    stats = begin_fit(spec(), old, Plan(3, 7)).stats
    assert set(stats) == {"loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"}
    assert all(np.isnan(value) for value in stats.values())


def test_a_new_epoch_counts_in_the_life_of_the_loop(spec, old):
    assert begin_epoch(spec(), old).epoch == 6


def test_a_new_epoch_has_measured_nothing_yet(spec, old):
    stats = begin_epoch(spec(), old.replace(stats=old.stats | {"validation_loss": 0.5, "norm": 2.0})).stats
    assert np.isnan(stats["validation_loss"])
    assert stats["norm"] == 2.0


def test_a_phase_begins_at_position_zero(spec, old):
    loop = enter(spec(), old, VALIDATION, np.int32(4))
    assert (loop.phase, loop.batch_index, loop.batch_count) == (Phase.VALIDATION, 0, 4)


def test_a_phase_begins_with_its_own_statistics_unmeasured_and_keeps_the_others(spec, old):
    loop = enter(spec(), old, VALIDATION, np.int32(4))
    assert (loop.stats["loss"], loop.stats["norm"]) == (1, 2)
    assert np.isnan(loop.stats["validation_loss"])


def test_a_phase_begins_with_empty_accumulators(spec, loop):
    filled = enter(spec(), loop, TRAINING, np.int32(4))
    filled = filled.replace(metrics=jax.tree.map(lambda leaf: leaf + 1, filled.metrics))
    assert not any(jax.tree.leaves(enter(spec(), filled, VALIDATION, np.int32(4)).metrics))


def test_leaving_a_phase_clears_its_own_scope(old):
    loop = leave_phase(old.replace(phase=Phase.TRAINING))
    assert (loop.phase, loop.stop) == (None, Scope.VALIDATION | Scope.EPOCH | Scope.FIT)


def test_leaving_an_epoch_moves_on_and_keeps_a_cancelled_fit(old):
    loop = leave_epoch(old)
    assert (loop.epoch_index, loop.stop) == (6, Scope.FIT)


def test_opening_an_epoch_sends_its_start_and_that_of_training(spec, loop):
    seen = []
    opened = open_epoch(spec(recorder(seen)), loop, np.int32(4))
    assert seen == [(Event.EPOCH_START, None), (Event.TRAINING_START, Phase.TRAINING)]
    assert (opened.epoch, opened.phase, opened.batch_count) == (1, Phase.TRAINING, 4)


def test_closing_an_epoch_sends_the_end_of_its_phase_and_its_own(spec, loop):
    seen = []
    closed = close_epoch(spec(recorder(seen)), loop.replace(phase=Phase.VALIDATION))
    assert seen == [(Event.VALIDATION_END, Phase.VALIDATION), (Event.EPOCH_END, None)]
    assert (closed.epoch_index, closed.phase) == (1, None)


def test_closing_an_epoch_between_phases_sends_only_its_own_end(spec, loop):
    seen = []
    close_epoch(spec(recorder(seen)), loop)
    assert seen == [(Event.EPOCH_END, None)]


def test_a_loop_that_is_in_the_phase_stays_as_it_is(spec, loop):
    training = loop.replace(phase=Phase.TRAINING)
    assert in_phase(spec(), training, TRAINING, np.int32(4)) is training


def test_going_to_the_other_phase_ends_the_one_at_hand(spec, loop):
    seen = []
    in_phase(spec(recorder(seen)), loop.replace(phase=Phase.TRAINING), VALIDATION, np.int32(4))
    assert seen == [(Event.TRAINING_END, Phase.TRAINING), (Event.VALIDATION_START, Phase.VALIDATION)]


def test_a_batch_cancelled_between_steps_is_nothing(spec, loop):
    def cancel(loop, event):
        return loop.cancel(Scope.BATCH | Scope.TRAINING)

    assert open_epoch(spec(cancel), loop, np.int32(4)).stop == Scope.TRAINING
