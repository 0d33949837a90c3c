"""What weighs nothing does not matter: in loss, gradient, statistics and checks, however steps are taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.masks import with_stand_ins, without_wild
from tests import small

NAN, INF = np.nan, np.inf
KEPT = np.array([True, True, False, True, False, True])  # of the six examples of each batch, those that count
RATE = 0.1


def batches(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs float32[4, 6, 3] and labels int32[4, 6] of two classes: four batches of six examples."""
    random = np.random.default_rng(seed)
    return random.normal(size=(4, 6, 3)).astype(np.float32), random.integers(0, 2, (4, 6)).astype(np.int32)


def linear(features: int = 3, classes: int = 2) -> jl.Model:
    return small.model(features=features, classes=classes)


def by_hand(batches: list[tuple[Any, Any]], loss_fn: Any, model: Any = None) -> Any:
    """The parameters behind plain SGD over the rows that count alone, and the mean of all their losses."""
    model = linear() if model is None else model
    params, losses = model.params, []

    def mean(params: Any, input: Any, target: Any) -> Any:
        loss = loss_fn(model.apply(params, model.state, input, training=True, key=None)[0], target)
        return jnp.mean(loss), loss

    for input, target in batches:
        gradient, loss = jax.grad(mean, has_aux=True)(params, input, target)
        params = jax.tree.map(lambda leaf, change: leaf - RATE * change, params, gradient)
        losses.append(np.asarray(loss).reshape(-1))
    return params, float(np.mean(np.concatenate(losses)))


@jl.on_host(jl.Event.UPDATE_START, reads="step")
def cut(loop: Any, event: Any) -> None:
    """Makes the steps be taken apart."""


def fitted(data: list[tuple[Any, ...]], way: Any, loss_fn: Any, model: Any = None, **changes: Any) -> tuple[Any, float]:
    """Parameters and mean loss behind an epoch over `data`: K steps a dispatch, `"apart"`, `"own"` or `"rows"`."""
    model = linear() if model is None else model
    arguments = {
        "training": [data],
        "validation": None,
        "optimizer": optax.sgd(RATE),
        "loss_fn": loss_fn,
        "metrics": [],
        "callbacks": [cut] if way == "apart" else [],
        "steps_per_dispatch": way if way in (1, 3, "auto") else 1,
    }
    training_loop = small.training_loop(**(arguments | changes))
    if way not in ("own", "rows"):
        loop, history = training_loop.fit(model, epochs=1)
        return loop.model.params, float(history.epochs["loss"][0])
    loop = training_loop.begin_epoch(training_loop.start(model, epochs=1))
    if way == "own":
        for batch in data:
            loop = training_loop.train_step(loop, batch)
    else:
        loop, _ = training_loop.run_steps(loop, jax.tree.map(lambda *leaves: np.stack(leaves), *data))
    return loop.model.params, float(loop.stats["loss"])


def assert_equal(found: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def spoilt(array: np.ndarray, value: Any, kept: np.ndarray = KEPT) -> np.ndarray:
    """`array` with `value` in all examples that do not count."""
    return np.where(kept.reshape(kept.shape + (1,) * (array.ndim - kept.ndim)), array, array.dtype.type(value))


SPOILT = {
    "label -100": lambda x, y: (x, spoilt(y, -100)),
    "label 10**6": lambda x, y: (x, spoilt(y, 10**6)),
    "NaN input": lambda x, y: (spoilt(x, NAN), y),
    "infinite input": lambda x, y: (spoilt(x, -INF), spoilt(y, -1)),
    "other numbers": lambda x, y: (spoilt(x, 7.0), np.where(KEPT, y, 1 - y)),
}


@pytest.mark.parametrize("way", [1, 3, "auto", "apart", "own", "rows"])
def test_examples_that_weigh_nothing_do_not_matter_however_steps_are_taken(way: Any) -> None:
    loss_fn = jl.losses.softmax_cross_entropy
    inputs, labels = batches()
    expected = by_hand([(x[KEPT], y[KEPT]) for x, y in zip(inputs, labels, strict=True)], loss_fn)
    data = [
        (*spoil(x, y), KEPT.astype(np.float32))
        for x, y, spoil in zip(inputs, labels, [SPOILT[name] for name in list(SPOILT)[:4]], strict=True)
    ]
    assert_equal(fitted(data, way, loss_fn), expected)


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("dtype", [np.bool_, np.int32])
def test_weights_may_be_of_any_dtype(spoil: Any, dtype: Any) -> None:
    loss_fn = jl.losses.softmax_cross_entropy
    inputs, labels = batches()
    expected = by_hand([(inputs[0][KEPT], labels[0][KEPT])], loss_fn)
    assert_equal(fitted([(*spoil(inputs[0], labels[0]), KEPT.astype(dtype))], "own", loss_fn), expected)


@pytest.mark.parametrize("value", [NAN, INF, 1e30])
@pytest.mark.parametrize("loss_fn", [jl.losses.mean_squared_error, jl.losses.mean_absolute_error])
def test_targets_that_weigh_nothing_may_be_nan(loss_fn: Any, value: float) -> None:
    inputs, _ = batches()
    targets = np.random.default_rng(1).normal(size=(4, 6, 2)).astype(np.float32)
    expected = by_hand([(x[KEPT], y[KEPT]) for x, y in zip(inputs, targets, strict=True)], loss_fn)
    data = [(x, spoilt(y, value), KEPT) for x, y in zip(inputs, targets, strict=True)]
    assert_equal(fitted(data, "rows", loss_fn), expected)


@pytest.mark.parametrize("value", [NAN, INF])
def test_outputs_that_weigh_nothing_may_be_nan(value: float) -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return input @ params["kernel"] + params["bias"] + jnp.where(input[:, :1] > 50, value, 0), state

    model = linear().replace(apply=apply)
    inputs, labels = batches()
    loss_fn = jl.losses.softmax_cross_entropy
    expected = by_hand([(inputs[0][KEPT], labels[0][KEPT])], loss_fn, model)
    assert_equal(fitted([(spoilt(inputs[0], 99), labels[0], KEPT)], "own", loss_fn, model), expected)


def test_a_loss_that_has_no_gradient_at_zero_is_masked_too() -> None:
    def distance(output: Any, target: Any) -> Any:
        return jnp.sqrt(jnp.sum((output - target) ** 2, axis=-1))

    inputs, _ = batches()
    targets = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    expected = by_hand([(inputs[0][KEPT], targets[KEPT])], distance)
    assert_equal(fitted([(spoilt(inputs[0], 0), spoilt(targets, 0), KEPT)], "own", distance), expected)


TOKENS = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], np.float32)


def attend(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    """A classifier of tokens, each of which sees the mean of all."""
    mixed = input + 0.1 * jnp.mean(input, axis=1, keepdims=True)
    return mixed @ params["kernel"] + params["bias"], state


@pytest.mark.parametrize("way", [3, "apart"])
def test_tokens_that_weigh_nothing_do_not_matter_save_as_context(way: Any) -> None:
    random = np.random.default_rng(3)
    inputs = random.normal(size=(3, 3, 4, 3)).astype(np.float32)
    labels = random.integers(0, 2, (3, 3, 4)).astype(np.int32)
    model, loss_fn = linear().replace(apply=attend), jl.losses.softmax_cross_entropy
    kept = TOKENS != 0

    def loss_of_those_that_count(output: Any, target: Any) -> Any:
        return loss_fn(output, target)[kept]

    hidden = [np.where(kept[..., np.newaxis] | (np.arange(4) < 2)[:, np.newaxis], x, 0) for x in inputs]
    expected = by_hand(list(zip(hidden, labels, strict=True)), loss_of_those_that_count, model)
    data = [
        (np.where(x == 0, np.float32(NAN), x), spoilt(y, -100, kept), TOKENS)
        for x, y in zip(hidden, labels, strict=True)
    ]
    assert_equal(fitted(data, way, loss_fn, model), expected)
    evaluated = small.training_loop(training=[data], loss_fn=loss_fn).evaluate(model, data)
    plain = [loss_of_those_that_count(model.replace(training=False)(x), y) for x, y in zip(hidden, labels, strict=True)]
    assert evaluated["loss"] == pytest.approx(float(np.mean(plain)), rel=1e-5)


def test_a_batch_that_weighs_nothing_changes_nothing() -> None:
    inputs, labels = batches()
    data = [(inputs[0] * np.float32(NAN), labels[0] - 100, np.zeros(6))]
    params, loss = fitted(data, "own", jl.losses.softmax_cross_entropy)
    assert np.isnan(loss)
    small.assert_trees_equal(jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, linear().params))


def test_evaluation_measures_what_counts_alone_padded_or_not() -> None:
    inputs, labels = batches()
    metrics = ["accuracy", "top1_accuracy", jl.metrics.MatthewsCorrelationCoefficient(classes=2)]
    training_loop = small.training_loop(metrics=metrics, steps_per_dispatch=3)
    whole = [(spoilt(x, NAN), spoilt(y, -100), KEPT) for x, y in zip(inputs, labels, strict=True)]
    data = [*whole[:3], tuple(part[:4] for part in whole[3])]
    found = training_loop.evaluate(linear(), data)
    rows = [(x[KEPT], y[KEPT]) for x, y in zip(inputs[:3], labels[:3], strict=True)]
    rows.append((inputs[3, :4][KEPT[:4]], labels[3, :4][KEPT[:4]]))
    x, y = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    assert found == pytest.approx(training_loop.evaluate(linear(), [(x, y)]), rel=1e-5)
    assert found["loss"] == pytest.approx(
        float(jl.losses.softmax_cross_entropy(linear()(x), jnp.asarray(y)).mean()), rel=1e-5
    )


def test_a_step_of_ones_own_is_given_no_nan_that_weighs_nothing() -> None:
    def step(model: jl.Model, loop: jl.Loop) -> tuple[Any, jl.Loop]:
        output, model = model.forward(loop.input)
        return jl.losses.mean_squared_error(output, loop.target), loop.replace(output=output, model=model)

    inputs, _ = batches()
    targets = np.random.default_rng(1).normal(size=(4, 6, 2)).astype(np.float32)
    expected = by_hand([(x[KEPT], y[KEPT]) for x, y in zip(inputs, targets, strict=True)], jl.losses.mean_squared_error)
    data = [(spoilt(x, INF), spoilt(y, NAN), KEPT) for x, y in zip(inputs, targets, strict=True)]
    assert_equal(fitted(data, "rows", None, differentiable_step=step), expected)


def test_a_weight_that_a_callback_gives_counts_as_one_of_the_data() -> None:
    def mask(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        return loop.replace(weight=loop.weight * (loop.target != -100)) if event is jl.Event.BATCH_START else loop

    inputs, labels = batches()
    ones = np.ones(6, np.float32)
    params, _ = by_hand([(inputs[0][KEPT], labels[0][KEPT])], jl.losses.softmax_cross_entropy)
    training_loop = small.training_loop(
        training=[[(inputs[0], labels[0], ones)]], validation=None, optimizer=optax.sgd(RATE), callbacks=[mask]
    )
    loop = training_loop.start(linear(), epochs=1)
    loop = training_loop.train_step(loop, (spoilt(inputs[0], NAN), spoilt(labels[0], -100), ones))
    assert_equal(loop.model.params, params)


@pytest.mark.parametrize("skip", [True, False])
def test_what_looks_at_loss_and_gradient_sees_what_counts_alone(skip: bool) -> None:
    inputs, labels = batches()
    watch = [jl.callbacks.stop_on_non_finite(skip=skip), jl.callbacks.clip_by_global_norm(0.1)]
    clean = [(x[KEPT], y[KEPT]) for x, y in zip(inputs, labels, strict=True)]
    data = [(spoilt(x, NAN), spoilt(y, -100), KEPT) for x, y in zip(inputs, labels, strict=True)]
    loss_fn = jl.losses.softmax_cross_entropy
    assert_equal(fitted(data, 1, loss_fn, callbacks=watch), fitted(clean, 1, loss_fn, callbacks=watch))


def test_the_step_holds_no_trace_of_masks_where_there_are_no_weights() -> None:
    training_loop = small.training_loop()
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    batch = np.zeros((4, 4), np.float32), np.zeros(4, np.int32)
    plain, masked = (
        str(jax.make_jaxpr(training_loop.train_step)(loop, batch + weight)) for weight in ((), (np.ones(4),))
    )
    assert "argmin" not in plain
    assert plain.count("is_finite") < masked.count("is_finite")
    assert "argmin" in masked


def test_what_is_not_of_the_weights_axes_is_left_alone() -> None:
    tree = {"nodes": jnp.array([NAN, 1.0, 2.0]), "label": jnp.array([5, -100]), "image": jnp.full((2, 1, 1), NAN)}
    weight = jnp.array([1.0, 0.0])
    cleaned = without_wild(tree, weight)
    assert np.isnan(cleaned["nodes"][0])
    assert cleaned["image"].reshape(-1).tolist() == [pytest.approx(NAN, nan_ok=True), 0.0]
    assert with_stand_ins(tree, weight)["label"].tolist() == [5, 5]


def test_an_example_without_axis_of_tokens_weighs_nothing_where_none_of_its_tokens_does() -> None:
    weight = jnp.array([[0, 0, 0], [0, 1, 0]])
    assert with_stand_ins(jnp.array([[7.0, 7.0], [1.0, 2.0]]), weight).tolist() == [[1, 2], [1, 2]]
    assert with_stand_ins(jnp.array([[9, 9, 9], [9, 1, 9]]), weight).tolist() == [[1, 1, 1], [1, 1, 1]]
