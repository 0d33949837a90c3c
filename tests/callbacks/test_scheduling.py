"""Schedules of hyperparameters: what is set, when, what the log says of it, and what is refused."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import hyperparameter_scheduler, learning_rate_scheduler
from jaxloop.events import Event, Phase
from tests import small
from tests.callbacks.spying import given_to_the_spy, scheduled, spy
from tests.compiling import counted_compiles

RISE_AND_FALL = jl.make_schedule(
    [
        jl.ScheduleSegment(jl.shapes.linear, start_rate=0.0, end_rate=1.0, step_count=4),
        jl.ScheduleSegment(jl.shapes.linear, end_rate=0.0),
    ]
)
BY_STEP = {3: [0, 1 / 3, 2 / 3], 6: [0, 1 / 3, 2 / 3, 1, 0.5, 0], 12: [0, 1 / 3, 2 / 3, *np.linspace(1, 0, 9)]}


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_the_rate_in_the_log_is_the_one_that_the_optimizer_was_given(steps_per_dispatch: int) -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL), steps_per_dispatch=steps_per_dispatch)
    loop, history = training_loop.fit(small.model(), 4)
    np.testing.assert_allclose(given_to_the_spy(loop), BY_STEP[12], atol=1e-6)
    assert history.batches["learning_rate"].tolist() == given_to_the_spy(loop)


def test_a_new_fit_begins_the_schedule_anew_over_its_own_number_of_steps() -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL))
    loop, first = training_loop.fit(small.model(), 2)
    _, second = training_loop.fit(loop, 4)
    np.testing.assert_allclose(first.batches["learning_rate"], BY_STEP[6], atol=1e-6)
    np.testing.assert_allclose(second.batches["learning_rate"], BY_STEP[12], atol=1e-6)


def test_limited_batches_count_as_the_whole_fit() -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL))
    _, history = training_loop.fit(small.model(), 6, limit_batches=1)
    np.testing.assert_allclose(history.batches["learning_rate"], BY_STEP[6], atol=1e-6)


def test_a_second_fit_of_the_same_plan_compiles_nothing() -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL))
    loop, _ = training_loop.fit(small.model(), 2)
    with counted_compiles() as counts:
        training_loop.fit(loop, 2)
    assert counts == {}
    with counted_compiles() as counts:
        training_loop.fit(loop, 3)
    assert counts["jit(training_step)"] == 1


def test_a_schedule_of_optax_is_taken_as_it_is_and_does_not_depend_on_the_plan() -> None:
    scheduler = learning_rate_scheduler(optax.linear_schedule(0.0, 1.0, 10))
    training_loop = scheduled(scheduler)
    loop, history = training_loop.fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["learning_rate"], [0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-6)
    with counted_compiles() as counts:
        training_loop.fit(loop, 3)
    assert counts == {}


def test_a_schedule_that_was_made_for_a_number_of_steps_is_one_of_optax() -> None:
    _, history = scheduled(learning_rate_scheduler(RISE_AND_FALL(12))).fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["learning_rate"], BY_STEP[12][:6], atol=1e-6)


def test_the_stepwise_loop_follows_the_schedule_too() -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL))
    loop, rates = training_loop.start(small.model(), epochs=2), []
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        for batch in training_loop.training[epoch]:
            loop = training_loop.train_step(loop, batch)
            rates.append(float(loop.stats["learning_rate"]))
        loop = training_loop.end_epoch(loop)
    np.testing.assert_allclose(rates, BY_STEP[6], atol=1e-6)


def test_momentum_is_set_and_recorded_under_its_name_beside_the_rate() -> None:
    training_loop = scheduled(
        learning_rate_scheduler(RISE_AND_FALL),
        hyperparameter_scheduler("momentum", optax.linear_schedule(0.5, 1.0, 5)),
        optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.0),
    )
    loop, history = training_loop.fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["momentum"], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], rtol=1e-6)
    np.testing.assert_allclose(history.batches["learning_rate"], BY_STEP[6], atol=1e-6)
    assert float(loop.hyperparameter("momentum")) == 1.0


@pytest.mark.parametrize(
    "around",
    [
        lambda one: optax.chain(optax.clip(1.0), optax.chain(one)),
        lambda one: optax.masked(one, {"kernel": True, "bias": False}),
        lambda one: optax.multi_transform({"one": one, "none": optax.set_to_zero()}, {"kernel": "one", "bias": "none"}),
        lambda one: optax.MultiSteps(one, 2).gradient_transformation(),
    ],
    ids=["chain", "masked", "multi_transform", "MultiSteps"],
)
def test_the_rate_is_set_however_deep_it_lies(around: Any) -> None:
    optimizer = around(optax.inject_hyperparams(optax.adam)(learning_rate=0.5))
    _, history = scheduled(learning_rate_scheduler(RISE_AND_FALL), optimizer=optimizer).fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["learning_rate"], BY_STEP[6], atol=1e-6)


def test_training_by_a_scheduler_is_training_by_a_schedule_inside_the_optimizer() -> None:
    ours, _ = scheduled(
        learning_rate_scheduler(RISE_AND_FALL), optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    ).fit(small.model(), 2)
    theirs, _ = scheduled(optimizer=optax.sgd(RISE_AND_FALL(6))).fit(small.model(), 2)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), ours.model.params, theirs.model.params)


def test_a_batch_that_is_cancelled_uses_up_its_step() -> None:
    def skip_the_second(loop: jl.Loop, event: Event) -> jl.Loop:
        if event is Event.BATCH_START:
            return loop.cancel(jl.Scope.BATCH, when=loop.batch_index == 1)
        return loop

    _, history = scheduled(skip_the_second, learning_rate_scheduler(RISE_AND_FALL)).fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["learning_rate"], np.array(BY_STEP[6])[[0, 2, 3, 5]], atol=1e-6)


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.VALIDATION, Event.BATCH_START),
        *((Phase.TRAINING, event) for event in Event if event is not Event.BATCH_START),
    ],
)
def test_nothing_is_set_but_at_the_start_of_a_training_batch(loop: jl.Loop, phase: Phase, event: Event) -> None:
    there = loop.replace(phase=phase)
    assert learning_rate_scheduler(optax.constant_schedule(0.5))(there, event) is there


def test_an_evaluation_needs_no_schedule_that_lasts() -> None:
    exact = jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, end_rate=1.0, step_count=6)])
    training_loop = scheduled(learning_rate_scheduler(exact), validation=jl.in_batches(small.samples(8, seed=1), 4))
    many = jl.in_batches(small.samples(40, seed=1), 4)
    assert training_loop.evaluate(small.model(), many)["loss"] > 0
    loop, _ = training_loop.fit(small.model(), 2)
    assert training_loop.evaluate(loop, many)["loss"] > 0


def step_program(training_loop: jl.TrainingLoop, steps: int) -> str:
    """The compiled text of a program of `steps` training steps."""
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=4))
    batches = [training_loop.training[0][index] for index in range(steps)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    return jax.jit(training_loop.run_steps).lower(loop, stacked).compile().as_text()


HOST_CALL = re.compile(r'custom_call_target="[^"]*callback|infeed|outfeed| send\(| recv\(')


@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_step_with_a_schedule_calls_nothing_on_the_host(steps: int) -> None:
    text = step_program(scheduled(learning_rate_scheduler(RISE_AND_FALL)), steps)
    assert "ENTRY" in text
    assert not HOST_CALL.search(text)


def test_a_host_call_would_be_seen_in_the_program() -> None:
    def asked(step: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda step: np.float32(0.5), jax.ShapeDtypeStruct((), np.float32), step)

    assert HOST_CALL.search(step_program(scheduled(learning_rate_scheduler(asked)), 1))


def test_the_rate_of_a_schedule_inside_the_optimizer_is_logged_as_it_was_applied() -> None:
    optimizer = optax.inject_hyperparams(spy)(learning_rate=optax.linear_schedule(0.0, 1.0, 4))
    loop, history = scheduled(optimizer=optimizer).fit(small.model(), 2)
    assert given_to_the_spy(loop) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert history.batches["learning_rate"].tolist() == given_to_the_spy(loop)


def test_a_rate_that_the_optimizer_does_not_tell_is_not_logged() -> None:
    _, history = scheduled(optimizer=optax.sgd(optax.linear_schedule(0.0, 1.0, 4))).fit(small.model(), 1)
    assert np.isnan(history.batches["learning_rate"]).all()


def refused(*callbacks: Any, **changes: Any) -> str:
    """What a fit says before any step is compiled."""
    with counted_compiles() as counts, pytest.raises((TypeError, ValueError)) as error:
        scheduled(*callbacks, **changes).fit(small.model(), 4)
    assert [name for name in counts if "_step" in name] == []
    return str(error.value)


def test_an_optimizer_that_does_not_expose_its_rate_is_refused_with_the_fix() -> None:
    message = refused(learning_rate_scheduler(RISE_AND_FALL), optimizer=optax.sgd(0.1))
    assert "the optimizer exposes no 'learning_rate'" in message
    assert "`optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)`" in message


def test_a_hyperparameter_that_is_not_exposed_is_refused_with_those_that_are() -> None:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    message = refused(hyperparameter_scheduler("momentum", RISE_AND_FALL), optimizer=optimizer)
    assert "exposes no 'momentum', only learning_rate. Make it as" in message
    assert "(learning_rate=0.1, momentum=0.1)`" in message


def test_two_rates_in_one_optimizer_are_refused() -> None:
    one = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    both = optax.multi_transform({"one": one, "other": one}, {"kernel": "one", "bias": "other"})
    message = refused(learning_rate_scheduler(RISE_AND_FALL), optimizer=both)
    assert "2 parts of the optimizer expose 'learning_rate'" in message


def test_a_rate_that_has_a_schedule_already_is_refused() -> None:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.0, 1.0, 4))
    message = refused(learning_rate_scheduler(RISE_AND_FALL), optimizer=optimizer)
    assert "the optimizer drives 'learning_rate' by a schedule of its own" in message


def test_a_rate_that_is_a_whole_number_in_the_optimizer_is_refused() -> None:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1)
    assert "Make it a float" in refused(learning_rate_scheduler(RISE_AND_FALL), optimizer=optimizer)


def test_a_rate_for_each_unit_is_trained_with_and_is_no_column() -> None:
    rates = np.array([0.1, 0.0, 0.2], np.float32)
    _, plain = small.training_loop(validation=None).fit(small.model(), 1)
    optimizer = optax.inject_hyperparams(_by_unit)(learning_rate=rates)
    loop, history = small.training_loop(optimizer=optimizer, validation=None).fit(small.model(), 1)
    moved = np.asarray(loop.model.params["kernel"]) != small.model().params["kernel"]
    assert moved.any(axis=0).tolist() == [True, False, True]
    assert np.isnan(history.batches["learning_rate"]).all()
    assert history.batches.keys() == plain.batches.keys()
    scheduler = jl.callbacks.learning_rate_scheduler(lambda step: jnp.where(step < 3, jnp.float32(rates), 0))
    same, _ = small.training_loop(optimizer=optimizer, validation=None, callbacks=[scheduler]).fit(small.model(), 1)
    for name, found in same.model.params.items():  # another program, which XLA may round otherwise in the last place
        np.testing.assert_allclose(found, loop.model.params[name], rtol=1e-6, atol=1e-7)


def _by_unit(learning_rate: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: -learning_rate * leaf, updates))


def test_two_schedulers_of_one_hyperparameter_are_refused() -> None:
    message = refused(
        learning_rate_scheduler(RISE_AND_FALL), hyperparameter_scheduler("learning_rate", optax.constant_schedule(0.5))
    )
    assert message == (
        "callbacks: 'learning_rate_scheduler' and \"hyperparameter_scheduler('learning_rate')\" both record "
        "'learning_rate', and would overwrite each other. Leave one out, or give it another name."
    )


def test_segments_that_end_before_the_fit_are_refused_before_any_step_is_compiled() -> None:
    short = jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, end_rate=1.0, step_count=10)])
    message = refused(learning_rate_scheduler(short))
    assert message.endswith("they cover 10 of its 12 steps. Leave out the last one's step_count, or make it 12.")


def test_a_loop_that_was_begun_without_the_scheduler_is_refused_with_the_fix() -> None:
    training_loop = scheduled(learning_rate_scheduler(RISE_AND_FALL))
    loop = scheduled().start(small.model(), epochs=2)
    assert training_loop.eval_step(loop, training_loop.training[0][0]).phase is Phase.VALIDATION
    with pytest.raises(ValueError, match=r"learning_rate_scheduler: how many steps the fit has is not known"):
        training_loop.train_step(loop, training_loop.training[0][0])


def test_a_function_of_the_number_of_steps_is_refused_with_the_fix() -> None:
    message = refused(learning_rate_scheduler(lambda total_steps: optax.constant_schedule(0.5)))
    assert message.startswith("learning_rate_scheduler: `schedule` must give a number for a step, got a function.")


@pytest.mark.parametrize("schedule", [0.1, None, []], ids=["a number", "None", "an empty list"])
def test_what_is_no_schedule_is_refused_with_the_fix(schedule: Any) -> None:
    with pytest.raises(TypeError, match=r"learning_rate_scheduler: `schedule` must be what .* Write make_schedule\(\["):
        learning_rate_scheduler(schedule)
    with pytest.raises(TypeError, match=r"hyperparameter_scheduler\('momentum'\): `schedule` must be"):
        hyperparameter_scheduler("momentum", schedule)


@pytest.mark.parametrize("name", ["", "learning rate", None, RISE_AND_FALL])
def test_what_is_no_name_of_a_hyperparameter_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match=r"`name` must be the name of a hyperparameter, got"):
        hyperparameter_scheduler(name, RISE_AND_FALL)


def test_schedulers_of_equal_schedules_are_equal() -> None:
    equal = jl.make_schedule(list(RISE_AND_FALL.segments))
    assert learning_rate_scheduler(RISE_AND_FALL) == learning_rate_scheduler(equal)
    assert learning_rate_scheduler(RISE_AND_FALL) != hyperparameter_scheduler("momentum", equal)
