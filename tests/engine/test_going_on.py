"""Loops that are given: from the middle of a step, from another optimizer, from another training loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.loop import STEP_FIELDS
from tests import small
from tests.compiling import counted_compiles

BATCH = jl.TrainingEpochs(small.samples(12), 4)[0][0]
PLAIN = small.training_loop(callbacks=[jl.callbacks.ema(0.9)])
KEPT_AT = [
    *(Event.TRAINING_START, Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END, Event.TRAINING_END),
    *(Event.VALIDATION_START, Event.INFERENCE_PREDICTION_END, Event.EPOCH_END),
]


def between_steps(loop: jl.Loop, phase: Any = None) -> jl.Loop:
    return loop.replace(phase=phase, **dict.fromkeys(STEP_FIELDS))


@pytest.fixture(scope="module")
def kept() -> dict[Event, tuple[jl.Loop, dict[str, float], Any]]:
    """For each event the loop that a host callback was given, and what evaluating and predicting there gave."""
    found: dict[Event, tuple[jl.Loop, dict[str, float], Any]] = {}

    @jl.on_host(*KEPT_AT, reads="loop")
    def keep(loop, event):
        if event not in found:
            found[event] = loop, PLAIN.evaluate(loop, PLAIN.validation), PLAIN.predict(loop, PLAIN.validation)

    small.training_loop(callbacks=[jl.callbacks.ema(0.9), keep]).fit(small.model(), 1)
    return found


@pytest.mark.parametrize("event", KEPT_AT, ids=lambda event: event.name)
def test_a_loop_from_the_middle_of_a_step_is_what_it_is_between_steps(kept, event: Event) -> None:
    loop, metrics, outputs = kept[event]
    by_hand = between_steps(loop)
    assert metrics == PLAIN.evaluate(by_hand, PLAIN.validation) == PLAIN.evaluate(loop, PLAIN.validation)
    np.testing.assert_array_equal(outputs, PLAIN.predict(by_hand, PLAIN.validation))
    logits = small.samples(8, seed=1)[0] @ loop.model.params["kernel"] + loop.model.params["bias"]
    np.testing.assert_allclose(outputs, logits, rtol=1e-5, atol=1e-6)
    small.assert_trees_equal(PLAIN.start(loop, epochs=1), PLAIN.start(by_hand, epochs=1))
    small.assert_trees_equal(PLAIN.fit(loop, 1)[0], PLAIN.fit(by_hand, 1)[0])


@pytest.mark.parametrize("event", [Event.BATCH_START, Event.BATCH_END, Event.INFERENCE_PREDICTION_END])
def test_a_loop_from_the_middle_of_a_step_goes_on_step_by_step(kept, event: Event) -> None:
    loop = kept[event][0]
    by_hand = between_steps(loop, loop.phase)
    two = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), BATCH)
    for go_on in (
        *(lambda loop: PLAIN.train_step(loop, BATCH), lambda loop: PLAIN.eval_step(loop, BATCH)),
        *(PLAIN.begin_epoch, PLAIN.end_epoch, lambda loop: PLAIN.run_steps(loop, two)[0]),
    ):
        after = go_on(loop)
        assert all(getattr(after, name) is None for name in STEP_FIELDS)
        small.assert_trees_equal(after, go_on(by_hand))


def test_an_epoch_that_is_begun_within_a_phase_begins_with_its_first_batch(kept) -> None:
    loop = PLAIN.begin_epoch(kept[Event.BATCH_END][0])
    assert (int(loop.batch_index), int(loop.batch_count), loop.phase) == (0, 3, jl.Phase.TRAINING)


def test_a_loop_from_a_step_may_be_given_back_between_steps_but_not_the_other_way() -> None:
    mid: list[jl.Loop] = []

    @jl.on_host(Event.BATCH_END, Event.EPOCH_END, reads="loop")
    def rolls_back(loop, event):
        if event is Event.BATCH_END:
            mid.append(loop)
            return None
        return mid[0].replace(epoch_index=loop.epoch_index)

    loop, _ = small.training_loop(callbacks=[rolls_back], validation=None).fit(small.model(), 1)
    small.assert_trees_equal(loop.model.params, mid[0].model.params)

    @jl.on_host(Event.UPDATE_START, Event.TRAINING_START, reads="loop")
    def gives_another(loop, event):
        return between_steps(loop, loop.phase) if event is Event.UPDATE_START else None

    with pytest.raises(TypeError, match=r"gives_another' at UPDATE_START: field 'gradient' must keep its structure"):
        small.training_loop(callbacks=[gives_another], validation=None).fit(small.model(), 1)


def fitted(optimizer: Any, model: Any = None) -> jl.Loop:
    loop = small.training_loop().start(model or small.model(), epochs=1)
    return loop.replace(opt_state=optimizer.init(loop.model.params))


OTHERS = {
    "no state": (optax.sgd(0.1), optax.adam(0.1), r"loop\.opt_state\[0\]\.count is nothing, where .* has int32\[\]"),
    "more": (optax.adam(0.1), optax.sgd(0.1), r"loop\.opt_state\[0\]\.count is int32\[\], where .* has nothing"),
    "same leaves": (optax.adam(0.1), optax.adabelief(0.1), "holds ScaleByAdamState, where .* has ScaleByBeliefState"),
    "injected": (
        *(optax.adam(0.1), optax.inject_hyperparams(optax.adam)(0.1)),
        r"loop\.opt_state\.count is nothing, where .* has int32\[\]",
    ),
    "another dtype": (
        *(optax.adam(0.1, mu_dtype=jnp.bfloat16), optax.adam(0.1)),
        r"loop\.opt_state\[0\]\.mu\['bias'\] is bfloat16\[3\], where .* has float32\[3\]",
    ),
}


@pytest.mark.parametrize(("made_by", "mine", "message"), OTHERS.values(), ids=OTHERS)
def test_a_loop_that_another_optimizer_made_is_refused_before_anything_is_compiled(made_by, mine, message) -> None:
    loop, training_loop = fitted(made_by), small.training_loop(optimizer=mine)
    two = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), BATCH)
    with counted_compiles() as counts:
        for run in (
            *(lambda: training_loop.fit(loop, 1), lambda: training_loop.start(loop, epochs=1)),
            *(lambda: training_loop.compile(loop), lambda: training_loop.train_step(loop, BATCH)),
            lambda: training_loop.run_steps(loop, two),
        ):
            with pytest.raises(ValueError, match=rf"made by another optimizer.*{message}.*optimizer='mine'"):
                run()
    assert counts == {}


def test_a_loop_of_another_model_is_refused_and_names_the_leaf() -> None:
    loop = fitted(optax.adam(0.1)).replace(model=small.model(classes=5))
    with pytest.raises(
        ValueError, match=r"for another model: loop\.opt_state\[0\]\.mu\['bias'\] is float32\[3\], .*\[5\]"
    ):
        small.training_loop(optimizer=optax.adam(0.1)).fit(loop, 1)


def test_an_optimizer_whose_structure_is_never_twice_the_same_is_taken_by_its_leaves() -> None:
    def with_function(params: Any) -> Any:
        return jax.tree_util.Partial(lambda count: count, jnp.int32(0))

    odd = optax.GradientTransformation(with_function, lambda updates, state, params=None: (updates, state))
    training_loop = small.training_loop(optimizer=odd, validation=None)
    training_loop.fit(training_loop.start(small.model(), epochs=1), 1)


def test_what_is_only_evaluated_may_be_of_any_optimizer() -> None:
    loop, training_loop = fitted(optax.adam(0.1)), small.training_loop()
    assert training_loop.evaluate(loop, training_loop.validation) == training_loop.evaluate(
        small.model(), training_loop.validation
    )


@pytest.mark.parametrize("made_by", [optax.adam(0.1), optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)])
def test_an_optimizer_begins_anew_on_a_loop_where_that_is_asked_for(made_by) -> None:
    training_loop = small.training_loop(validation=None)
    loop = fitted(made_by)
    after, _ = training_loop.fit(loop, 1, optimizer="mine")
    expected, _ = training_loop.fit(small.model(), 1)
    small.assert_trees_equal(after.model.params, expected.model.params)
    assert float(after.hyperparameter("learning_rate")) == np.float32(0.1)
    small.assert_trees_equal(
        training_loop.start(loop, epochs=1, optimizer="mine").opt_state,
        training_loop.start(small.model(), epochs=1).opt_state,
    )
    with pytest.raises(ValueError, match="`optimizer` must be 'loop' or 'mine', got 'yours'"):
        training_loop.fit(loop, 1, optimizer="yours")  # type: ignore[arg-type]


@pytest.mark.parametrize("begun", [False, True])
def test_hyperparameters_that_a_loop_keeps_are_told(begun: bool) -> None:
    told: list[str] = []

    @jl.on_host(Event.FIT_END)
    class Tells:
        def __call__(self, loop, event):
            pass

        def notice(self, text, seconds=0.0):
            told.append(text)

    training_loop = small.training_loop(callbacks=[Tells()], validation=None)
    loop = small.training_loop().start(small.model(), epochs=1)
    if begun:
        training_loop.start(small.model(), epochs=1)
    training_loop.fit(loop, 1)
    assert not [text for text in told if "keeps" in text]
    after, _ = training_loop.fit(loop.with_hyperparameter("learning_rate", 0.05), 1)
    assert [text for text in told if "keeps" in text] == [
        "The loop keeps its learning_rate, 0.05; the optimizer was made with 0.1, which optimizer='mine' would take, "
        "and begin anew"
    ]
    assert float(after.hyperparameter("learning_rate")) == np.float32(0.05)


def test_a_loop_without_a_metric_in_its_phase_is_refused_by_name_and_begun_again_it_is_taken() -> None:
    with_accuracy, without = small.training_loop(), small.training_loop(metrics=[])
    loop = without.begin_epoch(without.start(small.model(), epochs=1))
    with pytest.raises(ValueError, match=r"begun without the metric 'accuracy'.*training_loop\.begin_epoch\(loop\)"):
        with_accuracy.train_step(loop, BATCH)
    assert "accuracy" in with_accuracy.train_step(with_accuracy.begin_epoch(loop), BATCH).metrics
    assert with_accuracy.evaluate(loop, with_accuracy.validation).keys() == {"loss", "accuracy"}


def test_a_loop_whose_callbacks_are_missing_says_where_they_would_have_made_room() -> None:
    def counts(loop, event):
        loop = loop.remember("mine", 0) if event is Event.FIT_START else loop
        return loop.record("mine", loop.callback_state["mine"]) if event is Event.EPOCH_END else loop

    bare, counting = small.training_loop(), small.training_loop(callbacks=[counts])
    with pytest.raises(KeyError, match="mine") as caught:
        counting.end_epoch(bare.begin_epoch(bare.start(small.model(), epochs=1)))
    assert "made at FIT_START" in "".join(caught.value.__notes__)
