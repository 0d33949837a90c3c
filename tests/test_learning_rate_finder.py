"""`find_learning_rate`: the ramp, and what takes part in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.learning_rate_finder import LearningRateTest
from tests import small
from tests.finding import STEPS, batches_of, find, samples, training_loop


def by_hand(optimizer, batches, rates, clip=None):
    """The losses before each update of a plain loop, whose rate is set at each step."""
    params = small.model().params
    state = optimizer.init(params)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params, images, labels):
        logits = images @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    losses = []
    for rate, batch in zip(rates, batches, strict=False):
        loss, gradient = loss_and_gradient(params, *batch)
        if clip is not None:
            gradient = optax.clip_by_global_norm(clip).update(gradient, optax.EmptyState())[0]
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses


@pytest.fixture(scope="module")
def plain():
    """The test of a plain SGD, which ends early."""
    return find(training_loop())


def test_the_rate_grows_by_the_same_factor_from_first_to_last():
    test = find(training_loop(), end_rate=1.0)
    np.testing.assert_allclose(test.rates, np.geomspace(1e-3, 1.0, STEPS), rtol=1e-6)


@pytest.mark.parametrize("make", [optax.sgd, optax.adam], ids=["sgd", "adam"])
def test_the_losses_are_those_of_a_plain_loop_over_several_epochs(make):
    optimizer = optax.inject_hyperparams(make)(learning_rate=0.5)
    test = find(training_loop(optimizer=optimizer), end_rate=1.0)
    batches = batches_of(jl.TrainingEpochs(samples(), batch_size=8), 7)
    assert len(test.losses) == STEPS
    np.testing.assert_allclose(test.losses, by_hand(optimizer, batches, test.rates), rtol=2e-5)


def test_strict_promotion_of_dtypes_changes_nothing(plain):
    with jax.numpy_dtype_promotion("strict"):
        test = find(training_loop())
    np.testing.assert_allclose(test.losses, plain.losses, rtol=1e-6)


def test_it_ends_where_the_moving_average_is_four_times_its_lowest(plain):
    window, average, lowest, ends = STEPS // 10, 0.0, np.inf, None
    losses = by_hand(
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.5),
        batches_of(jl.TrainingEpochs(samples(), batch_size=8), 7),
        np.geomspace(1e-3, 1e3, STEPS),
    )
    for index, loss in enumerate(losses):
        average += (loss - average) / window
        smoothed = average / (1 - (1 - 1 / window) ** (index + 1))
        lowest = min(lowest, smoothed) if index + 1 >= window else np.inf
        if smoothed > lowest + 3 * max(lowest, 0.1 * losses[0]):
            ends = index + 1
            break
    assert ends is not None
    assert ends < STEPS
    assert (len(plain.rates), len(plain.losses), len(plain.smoothed)) == (ends, ends, ends)


def test_it_ends_with_the_first_loss_that_is_not_finite():
    def overflow(loop, event):
        if event is jl.Event.UPDATE_START:
            factor = jnp.where(loop.step == 35, jnp.inf, 1.0)
            return loop.replace(gradient=jax.tree.map(lambda leaf: leaf * factor, loop.gradient))
        return loop

    test = find(training_loop(callbacks=[overflow]), end_rate=10.0)
    assert np.isfinite(test.losses).tolist() == [True] * 36 + [False]
    assert np.isfinite(test.smoothed).all()


def test_a_loss_that_falls_below_zero_does_not_count_as_diverged():
    def loss_fn(output, target):
        return jl.losses.softmax_cross_entropy(output, target) - 1.0

    test = find(training_loop(loss_fn=loss_fn), end_rate=1.0)
    assert (test.losses[-1] < 0, len(test.losses)) == (True, STEPS)


@pytest.mark.parametrize("steps_per_dispatch", [8, 64])
def test_fused_and_stepwise_are_the_same_bit_for_bit(plain, steps_per_dispatch):
    fused = find(training_loop(steps_per_dispatch=steps_per_dispatch))
    for name in ("rates", "losses", "smoothed"):
        np.testing.assert_array_equal(getattr(fused, name), getattr(plain, name))
    assert fused.suggestion == plain.suggestion


def test_the_loop_that_it_is_given_is_untouched_bit_for_bit():
    trained, _ = training_loop().fit(small.model(), epochs=1)
    before = jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.array(leaf), trained
    )
    find(training_loop(), trained)
    small.assert_trees_equal(trained, before)


def test_a_loop_in_mid_life_goes_on_where_it_stands():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    trained, _ = training_loop(optimizer=optimizer).fit(small.model(), epochs=2)
    seen = training_loop(optimizer=optimizer)
    test = find(seen, trained, end_rate=1.0)
    loop = seen.begin_epoch(trained.with_hyperparameter("learning_rate", test.rates[0]))
    first, second = batches_of(jl.TrainingEpochs(samples(), batch_size=8), 3)[12:14]  # the third epoch begins
    loop, rows = seen.run_steps(loop, jax.tree.map(lambda leaf: leaf[None], first))
    assert test.losses[0] == pytest.approx(float(rows["loss"][0]), rel=1e-6)
    loop = loop.with_hyperparameter("learning_rate", test.rates[1]).replace(metrics=seen.begin_epoch(trained).metrics)
    _, rows = seen.run_steps(loop, jax.tree.map(lambda leaf: leaf[None], second))
    assert test.losses[1] == pytest.approx(float(rows["loss"][0]), rel=1e-6)


def test_the_training_loop_that_it_is_given_goes_on_as_before():
    used, fresh = training_loop(), training_loop()
    find(used)
    small.assert_trees_equal(used.fit(small.model(), epochs=2)[0], fresh.fit(small.model(), epochs=2)[0])


def test_a_second_test_compiles_nothing():
    used = training_loop()
    find(used)
    kept = len(used.setup.programs)
    find(used, small.model(seed=1))
    assert len(used.setup.programs) == kept


def test_host_callbacks_and_console_are_left_out(capsys):
    seen = []
    find(training_loop(callbacks=[small.witness(seen), small.witness(seen, reads="step")], progress=True))
    assert (seen, capsys.readouterr().out) == ([], "")


def test_compiled_callbacks_take_part():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    test = find(training_loop(optimizer=optimizer, callbacks=[jl.callbacks.clip_by_global_norm(0.1)]), end_rate=10.0)
    batches = batches_of(jl.TrainingEpochs(samples(), batch_size=8), 7)
    assert len(test.losses) == STEPS
    np.testing.assert_allclose(test.losses, by_hand(optimizer, batches, test.rates, clip=0.1), rtol=2e-5)


def test_a_callback_that_is_bound_to_the_plan_sees_one_epoch_of_the_ramp():
    class Seen:
        plans: list = []  # noqa: RUF012

        def bind(self, plan):
            self.plans.append((plan.epoch_count, plan.batch_count))
            return lambda loop, event: loop

    find(training_loop(callbacks=[Seen()]))
    assert Seen.plans == [(1, STEPS)]


@pytest.mark.parametrize("event", [jl.Event.BATCH_START, jl.Event.UPDATE_START])
def test_no_scheduler_wins_over_the_ramp(plain, event):
    def schedule(loop, at):
        return loop.with_hyperparameter("learning_rate", 0.123) if at is event else loop

    test = find(training_loop(callbacks=[schedule]))
    np.testing.assert_array_equal(test.rates, plain.rates)
    np.testing.assert_array_equal(test.losses, plain.losses)


def test_validation_is_left_out():
    def trace(loop, event):
        if loop.phase is jl.Phase.VALIDATION:
            raise AssertionError("validation was traced")
        return loop

    find(training_loop(callbacks=[trace], validate_at_start=True))


def test_batches_of_several_announced_lengths_take_part():
    def loss_fn(output, target):
        return (output - target) ** 2

    def mean_pixel(params, state, texts, *, training, key):
        return texts.mean(axis=1) * params, state

    random = np.random.default_rng(0)
    texts = [(np.full(length, 1.0, np.float32), np.float32(3.0)) for length in random.integers(2, 9, 64)]

    def pad(pairs):
        return jl.pad_and_collate(pairs, pad_value=(1.0, None), lengths=(4, 8))

    epochs = jl.NonuniformTrainingEpochs(
        texts, batch_size=8, size=lambda pair: len(pair[0]), collate=pad, lengths=(4, 8)
    )
    given = small.training_loop(training=epochs, validation=None, loss_fn=loss_fn, metrics=())
    test = find(given, jl.Model(mean_pixel, jnp.float32(0.0), {}), end_rate=100.0)
    assert test.losses[0] == 9.0
    assert test.suggestion < 1.0  # at which gradient descent on (w - 3)^2 stops to converge


def test_steps_beyond_the_data_are_refused():
    epochs = [list(epoch) for epoch in jl.TrainingEpochs(samples(), batch_size=8)[:2]]
    with pytest.raises(ValueError, match=r"`steps` is 40, but from epoch 1 on .* only 12 batches\. Give fewer steps"):
        find(training_loop(training=epochs))


def test_as_many_steps_as_the_data_have_are_taken():
    epochs = [list(epoch) for epoch in jl.TrainingEpochs(samples(), batch_size=24)[:6]]
    assert len(find(training_loop(training=epochs), steps=12, end_rate=10.0).rates) == 12


def test_an_epoch_without_a_batch_is_no_endless_loop():
    with pytest.raises(ValueError, match="the data have only 0 batches"):
        find(training_loop(training=[[], []]))


def test_an_optimizer_that_exposes_no_rate_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"optax\.inject_hyperparams\(optax\.sgd\)\(learning_rate=0\.1\)") as caught:
        find(training_loop(optimizer=optax.sgd(0.1)))
    assert "in callback 'find_learning_rate'" in caught.value.__notes__[0]


def test_what_is_no_training_loop_is_refused():
    with pytest.raises(TypeError, match="`training_loop` must be a TrainingLoop, got Model"):
        jl.find_learning_rate(small.model(), training_loop())


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1e-3, float("inf")), (float("nan"), 1)]
)
def test_rates_that_do_not_grow_are_refused(start, end):
    with pytest.raises(ValueError, match="the rate grows from `start_rate`, above 0, to `end_rate`, got"):
        find(training_loop(), start_rate=start, end_rate=end)


@pytest.mark.parametrize("steps", [9, 10.5, True])
def test_steps_that_are_no_count_of_at_least_ten_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be a whole number of at least 10, got"):
        find(training_loop(), steps=steps)


def test_where_callbacks_cancel_all_steps_it_is_said():
    def nothing(loop, event):
        return loop.cancel(jl.Scope.BATCH) if event is jl.Event.BATCH_START else loop

    with pytest.raises(ValueError, match="a compiled callback cancelled each training step"):
        find(training_loop(callbacks=[nothing]))


def test_its_repr_tells_the_suggestion():
    test = LearningRateTest(np.array([0.01, 1.0]), np.array([2.0, 1.0]), np.array([1.75, 1.25]), 0.125)
    assert repr(test) == (
        "LearningRateTest(suggestion 0.12; 2 rates from 0.01 to 1, smoothed loss 1.75 at first, 1.25 at best)"
    )


def test_it_is_drawn_and_saved(plain, tmp_path):
    pytest.importorskip("matplotlib")
    figure = plain.plot(tmp_path / "rates.png")
    assert figure.axes[0].get_xlabel() == "learning rate"
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_callbacks_that_wait_for_validation_or_raise_at_the_end_do_not_disturb_it(plain):
    callbacks = [
        jl.callbacks.stop_on_non_finite(),
        jl.callbacks.early_stopping("validation_loss", patience=1),
        jl.callbacks.reduce_on_plateau("validation_accuracy", patience=1),
        jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.1))),
    ]
    test = find(training_loop(callbacks=callbacks))
    assert test.suggestion == plain.suggestion
    np.testing.assert_array_equal(test.losses, plain.losses)
