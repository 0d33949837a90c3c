"""Sums, means and norms of narrow floats are taken in float32; strict promotion of dtypes and ranks changes nothing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss, matthews_corrcoef

import jaxloop as jl
from jaxloop import callbacks, losses, metrics
from jaxloop.losses import weighted_mean, weighted_sum
from jaxloop.output_losses import as_loss_fn
from jaxloop.precision import global_norm, wide_dtype, widened
from tests import small

NARROW = [jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float8_e4m3fn", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("complex64", "complex64"),
        ("complex128", "complex128"),
        ("int8", "float32"),
        ("int64", "float32"),
        ("bool", "float32"),
    ],
)
def test_a_float_of_32_bits_or_more_stays_what_it_is(given: str, wide: str) -> None:
    assert wide_dtype(jnp.dtype(given)) == jnp.dtype(wide)


def test_what_is_wide_is_not_touched() -> None:
    values = jnp.ones(3)
    assert widened(values) is values


@pytest.mark.parametrize("dtype", NARROW)
def test_the_norm_of_a_narrow_gradient_is_that_of_its_numbers(dtype: Any) -> None:
    gradient = {"a": jnp.full((1625,), 1.0, dtype), "b": jnp.full((3,), 300.0, dtype)}  # 300**2 overflows float16
    assert float(global_norm(gradient)) == pytest.approx(np.sqrt(1625 + 3 * 300.0**2), rel=1e-6)
    assert global_norm(gradient).dtype == jnp.float32


def test_the_norm_of_complex_and_of_no_numbers() -> None:
    assert float(global_norm([jnp.array([3 + 4j]), jnp.array([12.0])])) == pytest.approx(13.0)
    assert float(global_norm({})) == 0.0


def test_the_norm_of_float64_stays_float64() -> None:
    with jax.enable_x64(True):
        gradient = [jnp.asarray([1.0, 1e-9], jnp.float64), jnp.ones(1, jnp.bfloat16)]
        assert global_norm(gradient).dtype == jnp.float64
        assert float(global_norm(gradient)) == np.sqrt(2 + 1e-18)


def clipped(gradient: Any, max_norm: float, loop: jl.Loop) -> jl.Loop:
    return callbacks.clip_by_global_norm(max_norm)(loop.replace(gradient=gradient), jl.Event.UPDATE_START)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_gradient_is_clipped_to_the_norm_that_was_asked_for(dtype: Any, loop: jl.Loop) -> None:
    after = clipped({"a": jnp.full(1625, 1.0, dtype)}, 1.0, loop)
    assert after.gradient["a"].dtype == dtype
    assert np.linalg.norm(np.asarray(after.gradient["a"], np.float64)) == pytest.approx(1.0, rel=4e-3)
    assert float(after.stats["gradient_norm"]) == pytest.approx(np.sqrt(1625), rel=1e-6)


def test_a_wide_gradient_is_clipped_as_by_optax(loop: jl.Loop) -> None:
    gradient = {"a": jnp.arange(5.0), "b": jnp.array([3 + 4j])}
    expected: Any = optax.clip_by_global_norm(0.5).update(gradient, optax.EmptyState())[0]
    after = clipped(gradient, 0.5, loop)
    for name in gradient:
        np.testing.assert_allclose(after.gradient[name], expected[name], rtol=1e-6)
        assert after.gradient[name].dtype == gradient[name].dtype


def numbers(shape: tuple[int, ...], dtype: Any = jnp.bfloat16, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("target", [np.int32, np.float32, np.bool_, "narrow"])
def test_losses_of_narrow_outputs_are_those_of_their_numbers(dtype: Any, target: Any) -> None:
    target = dtype if target == "narrow" else target
    output, answer = numbers((4, 50), dtype), (numbers((4, 50), dtype, seed=1) > 0).astype(target)
    wide, wide_answer = np.asarray(output, np.float64), np.asarray(answer, np.float64)
    expected = {
        losses.mean_squared_error: ((wide - wide_answer) ** 2).mean(axis=1),
        losses.mean_absolute_error: np.abs(wide - wide_answer).mean(axis=1),
        losses.sigmoid_cross_entropy: [
            log_loss(*pair) for pair in zip(wide_answer, 1 / (1 + np.exp(-wide)), strict=True)
        ],
    }
    for loss, values in expected.items():
        found = loss(output, answer)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, values, rtol=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_cross_entropy_of_narrow_logits_is_that_of_their_numbers(dtype: Any) -> None:
    logits, label = numbers((6, 1000), dtype), np.arange(6)
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), label)
    one_hot = jax.nn.one_hot(label, 1000, dtype=dtype)
    for target in (label, one_hot):
        found = losses.softmax_cross_entropy(logits, jnp.asarray(target))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    gradient = jax.grad(lambda logits: losses.softmax_cross_entropy(logits, jnp.asarray(label)).mean())(logits)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("dtype", NARROW)
def test_means_of_narrow_losses_are_those_of_their_numbers(dtype: Any) -> None:
    values = jnp.asarray(np.linspace(1, 1000, 999), dtype)
    weight = np.arange(999) % 3 / 2
    wide = np.asarray(values, np.float64)
    expected = (wide * weight).sum() / weight.sum()
    assert float(weighted_mean(values, None)) == pytest.approx(wide.mean(), rel=1e-6)
    assert float(weighted_mean(values, jnp.asarray(weight))) == pytest.approx(expected, rel=1e-6)
    assert float(weighted_mean(values, jnp.asarray(weight, dtype))) == pytest.approx(expected, rel=1e-6)
    assert float(weighted_sum(values, jnp.asarray(weight, dtype))) == pytest.approx((wide * weight).sum(), rel=1e-6)
    assert weighted_mean(jnp.asarray(3, dtype), None).dtype == jnp.float32
    for metric in (metrics.Loss(), metrics.Mean(lambda output, target: output, "value")):
        state = metric.update(metric.init(), output=values, target=values, loss=values, weight=jnp.asarray(weight))
        assert float(metric.compute(state)) == pytest.approx(expected, rel=1e-6)


def test_a_scalar_loss_counts_as_often_as_its_narrow_weights_say() -> None:
    weight, target = jnp.ones(1001, jnp.bfloat16), jnp.zeros(1001)
    metric = metrics.Loss()
    state = metric.update(metric.init(), output=target, target=target, loss=jnp.bfloat16(2), weight=weight)
    assert float(state["weight"]) == 1001


def test_float64_losses_stay_float64() -> None:
    with jax.enable_x64(True):
        output, target = jnp.asarray([[1.0 + 1e-12], [2.0]]), jnp.asarray([[1.0], [2.0]])
        assert losses.mean_absolute_error(output, target).dtype == jnp.float64
        mean = weighted_mean(losses.mean_absolute_error(output, target), jnp.ones(2))
        assert mean.dtype == jnp.float64
        assert float(mean) == pytest.approx(0.5e-12, rel=1e-3)


def test_weights_of_classes_outputs_and_examples_keep_the_digits_of_float64() -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        logits, label = jnp.zeros((2, 3), jnp.float64), jnp.asarray([0, 1], jnp.int32)
        weighted = functools.partial(losses.softmax_cross_entropy, class_weights=[0.1, 0.7, 1])
        expected = np.array([0.1, 0.7]) * np.log(3)
        np.testing.assert_allclose(weighted(logits, label), expected, rtol=1e-14)
        one_hot = jax.nn.one_hot(label, 3, dtype=jnp.float32)
        np.testing.assert_allclose(weighted(logits, one_hot), expected, rtol=1e-14)
        yes = losses.sigmoid_cross_entropy(logits[:, 0], jnp.ones(2, jnp.float32), pos_weight=0.1)
        np.testing.assert_allclose(yes, 0.1 * np.log(2), rtol=1e-14)
        both: Any = as_loss_fn({"a": (weighted, 0.1), "b": (losses.mean_squared_error, 0.3)})
        total = both({"a": logits, "b": jnp.ones(2, jnp.float32)}, {"a": label, "b": jnp.zeros(2, jnp.float64)})
        np.testing.assert_allclose(total, 0.1 * expected + 0.3, rtol=1e-14)
        weight = np.array([0.1, 0.3])
        expected = np.average(total, weights=weight)
        assert float(weighted_mean(total, jnp.asarray(weight))) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float32", "float64"), ("float64", "uint8")])
def test_losses_and_errors_of_two_dtypes_are_those_of_the_wider_one_under_strict_promotion(dtypes: Any) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        output, target = jnp.asarray([0.0, 1.0], dtypes[0]), jnp.asarray([1, 1], dtypes[1])
        for loss in (losses.mean_squared_error, losses.mean_absolute_error):
            assert loss(output, target).dtype == jnp.float64
        for metric in (metrics.MeanAbsoluteError(), metrics.MeanSquaredError(), metrics.R2()):
            state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
            assert float(metric.compute(state)) == (0.0 if isinstance(metric, metrics.R2) else 0.5)


def test_microbatches_divide_by_the_weight_of_the_batch_in_float64() -> None:
    weight = np.random.default_rng(0).uniform(size=8)

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input * params["slope"], state

    with jax.enable_x64(True):
        batch = np.arange(8.0), np.zeros(8), weight
        training_loop = small.training_loop(
            training=[[batch]],
            validation=None,
            loss_fn=lambda output, target: output - target,
            optimizer=optax.sgd(1.0),
            accumulate=2,
            metrics=[],
        )
        loop, _ = training_loop.fit(jl.Model(apply, {"slope": np.float64(0)}, {}), 1)
        assert float(loop.model.params["slope"]) == pytest.approx(-np.average(batch[0], weights=weight), rel=1e-14)


def narrow_model() -> jl.Model:
    """A linear classifier in bfloat16."""

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input.astype(jnp.bfloat16) @ params["kernel"] + params["bias"][None], state

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), small.model().params)
    return jl.Model(apply, params, {})


def test_a_model_in_bfloat16_is_measured_and_averaged_in_float32() -> None:
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(96), 32),
        metrics=["perplexity"],
        optimizer=optax.sgd(0.5),
        callbacks=[callbacks.clip_by_global_norm(0.25), callbacks.ema(0.5)],
        validation=None,
    )
    loop, history = training_loop.fit(narrow_model(), 2)
    params: Any = narrow_model().params
    kernels, norms, values = [], [], []
    for epoch in range(2):
        values.clear()
        for input, target in training_loop.training[epoch]:

            def loss(params: Any, input: Any = input, target: Any = target) -> Any:
                logits, _ = narrow_model().apply(params, {}, jnp.asarray(input), training=True, key=None)
                return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), target).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            values.append(float(value))
            leaves = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradient)])
            norms.append(np.linalg.norm(leaves))
            scale = np.float32(0.25 / max(norms[-1], 0.25))
            scaled = [(leaf.astype(jnp.float32) * scale).astype(leaf.dtype) for leaf in jax.tree.leaves(gradient)]
            gradient = jax.tree.unflatten(jax.tree.structure(gradient), scaled)
            params = optax.apply_updates(params, jax.tree.map(lambda leaf: jnp.bfloat16(-0.5) * leaf, gradient))
            kernels.append(np.asarray(params["kernel"], np.float64))
    np.testing.assert_allclose(history.batches["gradient_norm"], norms, rtol=4e-3)
    assert history.epochs["loss"][-1] == pytest.approx(np.mean(values), rel=1e-4)
    average = loop.callback_state["ema"]["average"]["kernel"]
    assert average.dtype == jnp.float32
    np.testing.assert_allclose(average, np.average(kernels, axis=0, weights=0.5 ** np.arange(6)[::-1]), atol=4e-3)


def measured() -> list[Any]:
    coefficient = metrics.MatthewsCorrelationCoefficient(classes=3)
    hit = metrics.Mean(lambda output, target: jnp.argmax(output, axis=-1).astype(target.dtype) == target, "hit")
    return ["accuracy", "top2_accuracy", "perplexity", coefficient, hit]


def everything() -> list[Any]:
    """Every compiled callback that does not exclude another."""
    segment = jl.ScheduleSegment
    shapes = (jl.shapes.linear, jl.shapes.exponential, jl.shapes.polynomial(2), jl.shapes.Shape(lambda x: x * x))
    rates = [segment(shape, start_rate=0.1, end_rate=0.5, step_count=2) for shape in shapes]
    return [
        callbacks.learning_rate_scheduler(jl.make_schedule([*rates, segment(jl.shapes.cosine, end_rate=0.1)])),
        callbacks.hyperparameter_scheduler("momentum", jl.make_schedule(jl.one_cycle(0.9, rise=2, fall=2))),
        callbacks.clip_by_global_norm(0.1),
        callbacks.stop_on_non_finite(),
        callbacks.ema(0.9, evaluate=True),
        callbacks.ema(0.5, debias=False, name="second"),
        callbacks.early_stopping("validation_loss", patience=2, restore_best=True),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
def test_strict_promotion_of_dtypes_and_ranks_changes_nothing(x64: bool) -> None:
    images, labels = small.samples(24)

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input @ params["kernel"] + params["bias"][None], state

    def fit() -> jl.Loop:
        training_loop = small.training_loop(
            training=jl.TrainingEpochs((images, labels.astype(np.uint8), np.ones(24, np.bool_)), 8),
            validation=jl.in_batches((images, labels.astype(np.uint8)), 5),
            metrics=measured(),
            callbacks=everything(),
            optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
            steps_per_dispatch=3,
        )
        return training_loop.fit(jl.Model(apply, small.model().params, {}), 2)[0]

    with jax.enable_x64(x64):
        plain = fit()
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            strict = fit()
    for leaf, other in zip(jax.tree.leaves(strict.stats), jax.tree.leaves(plain.stats), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5)


@pytest.mark.slow
def test_the_other_losses_and_callbacks_take_strict_promotion_too() -> None:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        images, labels = small.samples(24)
        yes = (labels > 0)[:, np.newaxis]

        def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
            return input @ params["kernel"][:, :1], state

        for loss, target in (("sigmoid_cross_entropy", yes), ("mean_absolute_error", yes.astype(np.int32))):
            training_loop = small.training_loop(
                training=jl.TrainingEpochs((images, target), 8),
                validation=jl.in_batches((images, target), 5),
                loss_fn=getattr(losses, loss),
                metrics=["accuracy", "matthews_correlation_coefficient"],
                callbacks=[callbacks.reduce_on_plateau("loss"), callbacks.stop_on_non_finite(skip=True)],
            )
            loop, history = training_loop.fit(jl.Model(apply, small.model().params, {}), 1)
            found = training_loop.predict(loop, jl.in_batches((images, target), 8))[:, 0] > 0
            expected = matthews_corrcoef(yes[:, 0], found)
            assert history.epochs["validation_matthews_correlation_coefficient"][-1] == pytest.approx(
                expected, abs=1e-6
            )


@pytest.mark.parametrize("label", [np.uint8, np.int8, np.int16, np.uint32, np.int32])
def test_labels_of_any_integer_dtype_are_compared_by_value(label: Any) -> None:
    output = np.zeros((4, 300), np.float32)
    output[np.arange(4), [5, 260, 5, 100]] = 1  # 260 is 4 in eight bits
    target = np.array([5, 4, 6, 100], label)
    for metric, right in ((metrics.Accuracy(), 2), (metrics.TopKAccuracy(1), 2)):
        given = {"output": jnp.asarray(output), "target": jnp.asarray(target), "loss": None, "weight": None}
        assert float(metric.compute(metric.update(metric.init(), **given))) == right / 4
