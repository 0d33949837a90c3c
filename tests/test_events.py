"""Events, phases, scopes and the plan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.events import Event, Phase, Plan, Scope, leave, should_run


def test_there_are_twelve_events():
    assert len(Event) == 12


def test_four_events_happen_in_a_step():
    in_step = {event for event in Event if event.in_step}
    assert in_step == {Event.BATCH_START, Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END}


def test_the_repr_of_an_event_is_how_it_is_written():
    assert repr(Event.EPOCH_END) == "Event.EPOCH_END"


def test_each_scope_has_a_bit_of_its_own():
    assert sum(Scope) == 0b11111
    assert len(Scope) == 5


@pytest.mark.parametrize(
    ("phase", "scope", "start", "end", "middle"),
    [
        (Phase.TRAINING, Scope.TRAINING, Event.TRAINING_START, Event.TRAINING_END, Event.UPDATE_START),
        (
            Phase.VALIDATION,
            Scope.VALIDATION,
            Event.VALIDATION_START,
            Event.VALIDATION_END,
            Event.INFERENCE_PREDICTION_END,
        ),
    ],
)
def test_a_phase_knows_its_scope_and_events(phase, scope, start, end, middle):
    assert (phase.scope, phase.start, phase.end, phase.step_event) == (scope, start, end, middle)


def test_training_reports_a_metric_under_its_own_name():
    assert Phase.TRAINING.stat("accuracy") == "accuracy"


def test_validation_reports_a_metric_with_a_prefix():
    assert Phase.VALIDATION.stat("accuracy") == "validation_accuracy"


@pytest.mark.parametrize(
    ("phase", "skipping"),
    [
        (None, {Scope.EPOCH, Scope.FIT}),
        (Phase.TRAINING, {Scope.BATCH, Scope.TRAINING, Scope.EPOCH, Scope.FIT}),
        (Phase.VALIDATION, {Scope.BATCH, Scope.VALIDATION, Scope.EPOCH, Scope.FIT}),
    ],
)
def test_a_step_is_skipped_by_its_own_phase_and_what_is_around_it(phase, skipping):
    assert {scope for scope in Scope if not should_run(int(scope), phase)} == skipping


@pytest.mark.parametrize("phase", [None, *Phase])
def test_work_goes_on_where_nothing_is_cancelled(phase):
    assert should_run(0, phase)


def test_should_run_agrees_when_it_is_traced():
    stops = jnp.arange(32)
    traced = jax.jit(jax.vmap(lambda stop: should_run(stop, Phase.TRAINING)))(stops)
    np.testing.assert_array_equal(traced, [should_run(int(stop), Phase.TRAINING) for stop in range(32)])


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        (Scope.BATCH, Scope.TRAINING | Scope.VALIDATION | Scope.EPOCH | Scope.FIT),
        (Scope.TRAINING, Scope.VALIDATION | Scope.EPOCH | Scope.FIT),
        (Scope.VALIDATION, Scope.TRAINING | Scope.EPOCH | Scope.FIT),
        (Scope.EPOCH, Scope.FIT),
        (Scope.FIT, Scope(0)),
    ],
)
def test_leaving_a_scope_clears_it_and_what_is_inside(scope, kept):
    assert leave(0b11111, scope) == kept


def test_leaving_keeps_the_kind_of_the_number():
    assert leave(np.int32(0b11111), Scope.EPOCH).dtype == np.int32


def test_the_plan_multiplies_epochs_by_batches():
    assert Plan(epoch_count=12, batch_count=468).total_steps == 5616


def test_equal_plans_are_equal_and_hash_alike():
    plans = [Plan(2, 3, ("loss", "accuracy"), "epoch") for _ in range(2)]
    assert plans[0] == plans[1]
    assert hash(plans[0]) == hash(plans[1])


def test_a_plan_has_as_many_steps_as_its_epochs_together() -> None:
    assert Plan(3, 5).total_steps == 15
    assert Plan(3, 6, total_steps=18) == Plan(3, 6) != Plan(3, 6, total_steps=17)
