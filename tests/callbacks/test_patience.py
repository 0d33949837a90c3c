"""Patience with a statistic, against plain Python and optax."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from jaxloop.callbacks import early_stopping, reduce_on_plateau
from jaxloop.loop import new_loop
from jaxloop.measured import UNMEASURED, is_measured
from tests import small
from tests.callbacks.scores import INF, NAN, best_of, scored
from tests.compiling import counted_compiles, steps_in

NOT = float(UNMEASURED)
SCORES = st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 2.0, NAN, INF, -INF, NOT]), min_size=1, max_size=12)


def stopped_after(scores: list[float], patience: int, min_delta: float, sign: int) -> tuple[int, float]:
    """How many epochs of `scores` there are until patience ends, and the best score, in plain Python."""
    best, waited = sign * INF, 0
    for count, score in enumerate(scores, start=1):
        if not is_measured(score):
            continue
        if math.isfinite(score) and sign * score < sign * best - min_delta:
            best, waited = score, 0
        else:
            waited += 1
        if waited >= patience:
            return count, best
    return len(scores), best


@settings(max_examples=30)
@given(
    scores=SCORES,
    patience=st.integers(1, 3),
    min_delta=st.sampled_from([0.0, 0.25]),
    mode=st.sampled_from(["min", "max"]),
)
@example(scores=[1.0, 1.0, 0.5, 1.0, 1.0], patience=2, min_delta=0.0, mode="min")
@example(scores=[NAN, 1.0, NAN, NAN], patience=2, min_delta=0.0, mode="min")
@example(scores=[1.0, NOT, NOT, NOT, 0.5, 1.0, NOT, 1.0], patience=2, min_delta=0.0, mode="min")
def test_it_stops_where_plain_python_does(scores, patience, min_delta, mode):
    callback = early_stopping("score", patience=patience, min_delta=min_delta, mode=mode)
    loop = callback(new_loop(small.model(), (), jax.random.key(0)), Event.FIT_START)
    count = 0
    for score in scores:
        loop = callback(loop.record("score", score), Event.EPOCH_END)
        count += 1
        if loop.stop & Scope.FIT:
            break
    best = float(loop.callback_state["early_stopping"]["best"])
    assert (count, best) == stopped_after(scores, patience, min_delta, 1 if mode == "min" else -1)


def test_the_fit_ends_once_patience_does_and_the_next_is_patient_anew():
    training_loop = small.training_loop(
        callbacks=[scored([3.0, 2.0, 2.5, NAN, 0.0, 0.0, 0.0]), early_stopping("score", patience=2, mode="min")]
    )
    loop, history = training_loop.fit(small.model(), 7)
    assert (history.stopped, len(history.epochs["loss"])) == ("cancelled", 4)
    loop, history = training_loop.fit(loop, 3)
    assert (history.stopped, int(loop.epoch), int(loop.step)) == ("completed", 7, 21)


def test_the_validation_loss_is_monitored_by_default():
    loop, history = best_of([early_stopping(patience=1, min_delta=100.0)], 5)
    assert len(history.epochs["loss"]) == 2
    assert loop.callback_state["early_stopping"]["best"] == np.float32(history.epochs["validation_loss"][0])


@pytest.mark.parametrize(("stat", "at"), [("perplexity", 1), ("validation_accuracy", -1), ("training_error", 1)])
def test_the_direction_is_known_by_name(loop, stat, at):
    callback = early_stopping(stat)
    assert callback(loop, Event.FIT_START).callback_state["early_stopping"]["best"] == at * INF


def rates_by_plain_python(
    scores: list[float], factor: float, patience: int, cooldown: int, min_rate: float
) -> list[float]:
    """The rate behind each epoch, from 1 at the start; less is better, by more than 0.25."""
    best, waited, cooling, rate, rates = INF, 0, 0, 1.0, []
    for score in scores:
        if not is_measured(score):
            rates.append(rate)
            continue
        improved = math.isfinite(score) and score < best - 0.25
        best = score if improved else best
        waited = 0 if improved or cooling else waited + 1
        cooling = max(cooling - 1, 0)
        if waited >= patience:
            rate, waited, cooling = max(rate * factor, min(min_rate, rate)), 0, cooldown
        rates.append(rate)
    return rates


def with_rate(rate: float = 1.0) -> tuple[optax.GradientTransformation, jl.Loop]:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    model = small.model()
    return optimizer, new_loop(model, optimizer.init(model.params), jax.random.key(0))


def rates_of(callback: Any, scores: list[float], rate: float = 1.0) -> list[float]:
    loop = callback(with_rate(rate)[1], Event.FIT_START)
    rates = []
    for score in scores:
        loop = callback(loop.record("score", score), Event.EPOCH_END)
        rates.append(float(loop.hyperparameter("learning_rate")))
    return rates


@settings(max_examples=30)
@given(scores=SCORES, patience=st.integers(1, 3), cooldown=st.integers(0, 2))
@example(scores=[1.0] * 12, patience=2, cooldown=1)
@example(scores=[1.0, 1.0, NOT, 1.0, NOT, NOT, 1.0, NOT, 1.0], patience=2, cooldown=1)
def test_the_rate_falls_where_it_does_in_plain_python(scores, patience, cooldown):
    callback = reduce_on_plateau(
        "score", factor=0.5, patience=patience, min_delta=0.25, mode="min", cooldown=cooldown, min_rate=0.2
    )
    expected = rates_by_plain_python(scores, 0.5, patience, cooldown, 0.2)
    np.testing.assert_allclose(rates_of(callback, scores), expected, rtol=1e-6)


@pytest.mark.parametrize("cooldown", [0, 2])
def test_the_rate_is_that_of_optax(cooldown):
    scores = [5.0, 4.0, 4.0, 3.95, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    transformation = optax.contrib.reduce_on_plateau(0.5, patience=2, rtol=0.0, atol=0.1, cooldown=cooldown)
    state, expected = transformation.init(jnp.zeros(1)), []
    for score in scores:
        updates, state = transformation.update(jnp.ones(1), state, value=score)
        expected.append(float(updates[0]))
    callback = reduce_on_plateau("score", factor=0.5, patience=2, min_delta=0.1, mode="min", cooldown=cooldown)
    assert rates_of(callback, scores) == expected


def test_a_rate_below_the_least_is_left_alone():
    callback = reduce_on_plateau("score", patience=1, mode="max", min_rate=0.5)
    assert rates_of(callback, [1.0, 1.0, 1.0], rate=0.25) == [0.25] * 3


def test_a_reduced_rate_trains_from_the_next_epoch_on_and_stays_in_the_next_fit():
    callbacks = [scored([1.0] * 4), reduce_on_plateau("score", factor=0.5, patience=1, mode="min")]
    training_loop = small.training_loop(callbacks=callbacks)
    loop, history = training_loop.fit(small.model(), 3)
    rates = np.float32([0.1, 0.1, 0.05])
    np.testing.assert_allclose(history.batches["learning_rate"], np.repeat(rates, 3), rtol=1e-6)
    _, history = training_loop.fit(loop, 2)  # the best is unknown again
    np.testing.assert_allclose(history.epochs["learning_rate"], [0.025, 0.025], rtol=1e-6)


def test_any_injected_hyperparameter_can_be_reduced():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.8)
    callback = reduce_on_plateau("score", factor=0.5, patience=1, mode="min", hyperparameter="momentum")
    loop, _ = best_of([scored([1.0] * 3), callback], 3, optimizer=optimizer)
    assert loop.hyperparameter("momentum") == pytest.approx(0.2)
    assert loop.hyperparameter("learning_rate") == pytest.approx(0.1)


@pytest.mark.parametrize("make", [early_stopping, reduce_on_plateau])
def test_an_unknown_statistic_is_refused_before_any_step_is_compiled_with_those_there_are(make):
    with counted_compiles() as compiled, pytest.raises(ValueError, match="must be a statistic that is meas") as caught:
        best_of([make("loss_of_memory")], 1)
    assert (
        "got 'loss_of_memory'; there are accuracy, learning_rate, loss, validation_accuracy, validation_loss."
        in str(caught.value)
    )
    assert steps_in(compiled) == {}


def test_validation_that_there_is_none_of_is_not_waited_for():
    with pytest.raises(
        ValueError, match=r"got 'validation_loss'; there are accuracy, learning_rate, loss\. Check"
    ) as caught:
        best_of([early_stopping()], 1, validation=None)
    assert "give the training loop `validation`" in str(caught.value)


def test_a_model_can_be_evaluated_by_a_loop_that_monitors_what_training_records():
    training_loop = small.training_loop(
        callbacks=[jl.callbacks.clip_by_global_norm(1.0), early_stopping("gradient_norm", mode="min")]
    )
    assert set(training_loop.evaluate(small.model(), jl.in_batches(small.samples(8), 4))) == {"loss", "accuracy"}


def test_an_optimizer_without_a_rate_to_reduce_is_refused():
    with pytest.raises(ValueError, match=r"the optimizer exposes no 'learning_rate'\. Make it as"):
        best_of([reduce_on_plateau()], 1, optimizer=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"monitor": "gradient_norm"},
            "whether less or more of 'gradient_norm' is better cannot be told .* mode='min'",
        ),
        ({"monitor": None}, "`monitor` must be the name of a statistic, such as 'loss', got None"),
        ({"mode": "least"}, "`mode` must be 'auto', 'min' or 'max', got 'least'"),
        ({"min_delta": -1.0}, "`min_delta` must be at least 0, got -1.0"),
        ({"min_delta": NAN}, "`min_delta` must be at least 0, got nan"),
        ({"patience": 0}, "`patience` must be a whole number of epochs, at least 1, got 0"),
        ({"patience": 2.5}, "`patience` must be a whole number of epochs, at least 1, got 2.5"),
    ],
)
@pytest.mark.parametrize("make", [early_stopping, reduce_on_plateau])
def test_a_wrong_argument_is_refused_by_name(make, arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"{make.__name__}: {message}"):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, "`factor` must be above 0 and below 1, got 1.0"),
        ({"factor": 0.0}, "`factor` must be above 0 and below 1, got 0.0"),
        ({"cooldown": -1}, "`cooldown` must be a whole number of epochs, at least 0, got -1"),
        ({"min_rate": -0.1}, "`min_rate` must be at least 0, got -0.1"),
    ],
)
def test_a_wrong_argument_of_a_reduction_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=f"reduce_on_plateau: {message}"):
        reduce_on_plateau(**arguments)


IMPROVING = jl.in_batches(small.samples(12), 4)  # what it trains on, so that each epoch improves


def without_validation(at: Event, scope: Scope, *, phase: Phase | None = None) -> Any:
    """A compiled callback that leaves out the validation of each epoch but every third."""

    def leave_out(loop: jl.Loop, event: Event) -> jl.Loop:
        here = event is at and loop.phase in (phase, at_phase)
        return loop.cancel(scope, when=loop.epoch_index % 3 != 0) if here else loop

    at_phase = {Event.TRAINING_END: Phase.TRAINING, Event.VALIDATION_START: Phase.VALIDATION}.get(at)
    return leave_out


@pytest.mark.parametrize(
    ("leave_out", "steps"),
    [
        (without_validation(Event.EPOCH_START, Scope.VALIDATION), 1),
        (without_validation(Event.EPOCH_START, Scope.EPOCH), 1),
        (without_validation(Event.TRAINING_END, Scope.EPOCH), 3),
        (without_validation(Event.VALIDATION_START, Scope.VALIDATION), 3),
        (without_validation(Event.BATCH_START, Scope.BATCH, phase=Phase.VALIDATION), 2),
    ],
)
def test_an_epoch_without_a_measurement_is_neither_waited_for_nor_counted(leave_out, steps):
    callbacks = [leave_out, early_stopping(patience=1), reduce_on_plateau(patience=1, min_delta=0.0, factor=0.5)]
    loop, history = best_of(callbacks, 7, validation=IMPROVING, steps_per_dispatch=steps)
    measured = is_measured(history.epochs["validation_loss"])
    assert measured.tolist() == [True, False, False, True, False, False, True]
    assert history.stopped == "completed"
    assert loop.hyperparameter("learning_rate") == pytest.approx(0.1)
    assert loop.callback_state["early_stopping"]["best"] == np.float32(history.epochs["validation_loss"][-1])


def test_those_who_own_the_loop_may_leave_validation_out():
    training_loop = small.training_loop(callbacks=[reduce_on_plateau(patience=1, factor=0.5)], validation=IMPROVING)
    loop = training_loop.start(small.model(), epochs=4)
    for validates in (True, False, False, True):
        loop = training_loop.begin_epoch(loop)
        loop = training_loop.train_step(loop, IMPROVING[0])
        loop = training_loop.end_epoch(training_loop.eval_step(loop, IMPROVING[0]) if validates else loop)
    assert loop.hyperparameter("learning_rate") == pytest.approx(0.1)
    assert loop.callback_state["reduce_on_plateau"]["waited"] == 0


def test_what_has_diverged_is_waited_for():
    loop, _ = best_of([scored([1.0, NAN, NAN]), reduce_on_plateau("score", patience=1, factor=0.5, mode="min")], 3)
    assert loop.hyperparameter("learning_rate") == pytest.approx(0.025)


def test_what_is_recorded_counts_in_the_epochs_in_which_it_is():
    def score(loop, event):
        loop = loop.remember("score", jnp.float32(0.0))
        if event is not Event.TRAINING_END:
            return loop
        seen = jnp.where(loop.epoch_index % 2 == 0, 3.0 - loop.epoch_index, loop.stats.get("score", 0.0))
        return loop.record("score", seen)  # as one does that has nothing to say in every second epoch

    _, history = best_of([early_stopping("score", patience=1, mode="min"), score], 5)
    assert history.stopped == "completed"
    assert is_measured(history.epochs["score"]).tolist() == [True, False, True, False, True]
    assert history.epochs["score"][::2].tolist() == [3.0, 1.0, -1.0]


def test_what_nobody_monitors_keeps_its_value_from_epoch_to_epoch():
    def score(loop, event):
        return loop.record("score", 1.0) if event is Event.FIT_START else loop

    _, history = best_of([score, early_stopping()], 2)
    assert history.epochs["score"].tolist() == [1.0, 1.0]


def test_a_whole_number_can_be_monitored():
    def count(loop, event):
        return loop.record("wrong", 7 - loop.epoch_index) if event is Event.EPOCH_END else loop

    loop, history = best_of([count, early_stopping("wrong", patience=1, mode="min", restore_best=True)], 3)
    assert (history.stopped, history.epochs["wrong"].dtype) == ("completed", np.int32)
    assert loop.callback_state["early_stopping"]["best"] == 5.0
