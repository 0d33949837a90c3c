"""What one abstract trace of a fit finds out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.events import TRAINING, VALIDATION, Event, Phase, Plan, Scope
from jaxloop.losses import softmax_cross_entropy
from jaxloop.phases import begin_fit
from jaxloop.programs.fit_trace import trace_fit

BATCH = (np.zeros((4, 3), np.float32), np.zeros(4, np.int32), None)
MEASURED = {"loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"}


def batches(training, validation):
    return {split: batch for split, batch in ((TRAINING, training), (VALIDATION, validation)) if batch is not None}


@pytest.fixture
def find(loop, spec):
    """What a trace shows of the compiled callbacks it is given."""

    def find(*callbacks, training=BATCH, validation=BATCH, **options):
        made = spec(*callbacks, **options)
        return trace_fit(made, begin_fit(made, loop, Plan(1, 1)), batches(training, validation))[0]

    return find


def at(event, change):
    return lambda loop, seen: change(loop) if seen is event else loop


def test_without_callbacks_the_statistics_are_what_is_always_measured(find):
    assert find().stats.keys() == MEASURED


@pytest.mark.parametrize("event", list(Event))
def test_what_a_callback_records_is_found_at_every_event(find, event):
    assert find(at(event, lambda loop: loop.record("norm", 1.0))).stats.keys() == MEASURED | {"norm"}


def test_the_dtype_of_each_statistic_is_found(find):
    found = find(at(Event.UPDATE_START, lambda loop: loop.record("norm", 1.0).record("tokens", loop.step)))
    assert (found.stats["norm"], found.stats["tokens"], found.stats["loss"]) == ("float32", "int32", "float32")


def test_a_statistic_of_another_kind_that_is_set_past_record_is_refused(find):
    change = at(Event.BATCH_END, lambda loop: loop.replace(stats=loop.stats | {"loss": loop.step}))
    with pytest.raises(TypeError, match=r"field 'stats'\['loss'\] must stay float32\[\], got int32\[\]"):
        find(change)
    change = at(Event.BATCH_END, lambda loop: loop.replace(stats=loop.stats | {"loss": 1}))
    assert find(change).stats["loss"] == "float32"


def test_without_callbacks_no_event_is_active(find):
    assert find().active == frozenset()


def test_a_callback_that_gives_back_the_very_loop_is_not_active(find):
    assert find(lambda loop, event: loop).active == frozenset()


@pytest.mark.parametrize("event", [event for event in Event if not event.in_step])
def test_an_event_between_steps_is_active_where_a_callback_acts(find, event):
    assert find(at(event, lambda loop: loop.record("norm", 1.0))).active == {event}


def test_events_in_steps_need_no_program_of_their_own(find):
    assert find(at(Event.BATCH_END, lambda loop: loop.record("norm", 1.0))).active == frozenset()


def test_validation_is_not_traced_where_there_is_none(find):
    found = find(at(Event.VALIDATION_START, lambda loop: loop.record("norm", 1.0)), validation=None)
    assert found.active == frozenset()
    assert not found.maskable


def test_training_is_not_traced_where_there_is_none(find):
    assert find(at(Event.TRAINING_START, lambda loop: loop.record("norm", 1.0)), training=None).active == frozenset()


def test_statistics_of_a_validation_that_there_is_none_of_are_hidden_from_callbacks(find):
    seen = []
    found = find(at(Event.EPOCH_END, lambda loop: seen.append(set(loop.stats)) or loop), validation=None)
    assert seen == [{"loss", "accuracy", "learning_rate"}]
    assert found.stats.keys() == seen[0]


def test_no_epoch_is_traced_where_there_is_no_training(find):
    seen = []
    find(lambda loop, event: seen.append(event) or loop, training=None)
    step = [Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END]
    assert seen == [Event.FIT_START, Event.VALIDATION_START, *step, Event.VALIDATION_END]


def test_a_loss_per_example_can_be_masked(find):
    assert find().maskable


def test_a_scalar_loss_cannot_be_masked(find):
    assert not find(loss_fn=lambda output, target: softmax_cross_entropy(output, target).mean()).maskable


@pytest.mark.parametrize("recorded_at", [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END])
@pytest.mark.parametrize("cancelled_at", [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END])
def test_one_callback_may_record_and_another_cancel(find, recorded_at, cancelled_at):
    record = at(recorded_at, lambda loop: loop.record("norm", 1.0))
    cancel = at(cancelled_at, lambda loop: loop.cancel(Scope.FIT, when=loop.step == 2))
    assert find(record, cancel).stats.keys() == MEASURED | {"norm"}


def test_what_a_callback_remembers_at_the_start_is_there_in_the_steps(find):
    def count(loop, event):
        if event is Event.FIT_START:
            return loop.remember("count", 0)
        if event is Event.BATCH_END:
            return loop.replace(callback_state={"count": loop.callback_state["count"] + 1})
        return loop

    assert find(count).active == {Event.FIT_START}


def test_an_error_in_a_callback_is_found_by_name_and_event(find):
    with pytest.raises(TypeError, match=r"at.<lambda>' at UPDATE_START: it must return a loop, got NoneType"):
        find(at(Event.UPDATE_START, lambda loop: None))


def test_an_error_in_the_data_is_found(find):
    with pytest.raises(TypeError, match="dot_general"):
        find(training=(np.zeros((4, 5), np.float32), np.zeros(4, np.int32), None))


def test_nothing_runs(find):
    traced = []
    find(at(Event.BATCH_END, lambda loop: traced.append(isinstance(loop.loss, jax.core.Tracer)) or loop))
    assert all(traced)


def test_what_is_recorded_may_depend_on_traced_values(find):
    change = at(Event.UPDATE_START, lambda loop: loop.record("norm", jnp.sum(loop.gradient["bias"])))
    assert "norm" in find(change).stats


def test_without_callbacks_no_step_can_be_cancelled(find):
    assert find().cancels == frozenset()


@pytest.mark.parametrize(
    ("event", "phases"),
    [
        (Event.BATCH_END, {Phase.TRAINING, Phase.VALIDATION}),
        (Event.UPDATE_START, {Phase.TRAINING}),
        (Event.INFERENCE_PREDICTION_END, {Phase.VALIDATION}),
        (Event.EPOCH_START, set()),
    ],
)
def test_a_cancel_in_a_step_is_found_in_the_phases_that_have_its_event(find, event, phases):
    assert find(at(event, lambda loop: loop.cancel(Scope.EPOCH, when=loop.step < 0))).cancels == phases


GRAPHS = ({"edges": np.zeros((5, 2), np.int32), "nodes": np.zeros((4, 3), np.float32)}, np.zeros(2, np.int32), None)


def of_graphs(params, state, input, *, training, key):
    return jnp.zeros((2, 2)).at[input["edges"][:2, 0]].add(input["nodes"][:2] @ params["weight"]), state


@pytest.fixture
def graph_loop(loop):
    return loop.replace(model=loop.model.replace(apply=of_graphs))


def test_examples_are_counted_by_the_loss(graph_loop, spec):
    made = spec()
    begun = begin_fit(made, graph_loop, Plan(1, 1))
    assert trace_fit(made, begun, batches(GRAPHS, GRAPHS))[0].examples == {TRAINING: 2, VALIDATION: 2}


def test_a_loss_that_is_of_nothing_in_the_batch_is_refused(graph_loop, spec):
    made = spec(loss_fn=lambda output, target: jnp.zeros(3))
    with pytest.raises(ValueError, match=r"its shape must be \(\) or begin with the batch's 2 or 5 or 4 examples"):
        trace_fit(made, begin_fit(made, graph_loop, Plan(1, 1)), batches(GRAPHS, None))
