"""Metrics: exact over ragged, weighted and padded batches, however long the phase."""

import doctest
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
    top_k_accuracy_score,
)

import jaxloop as jl
from jaxloop import losses, metrics
from jaxloop.metrics import (
    Accuracy,
    Loss,
    MatthewsCorrelationCoefficient,
    Mean,
    Metric,
    Perplexity,
    TopKAccuracy,
    add_to_mean,
    empty_mean,
    mean_of,
    resolve,
)


def measured(metric, *batches):
    """The statistic over batches given as keywords of `update`."""
    state = metric.init()
    for batch in batches:
        state = metric.update(state, **({"output": None, "target": None, "loss": None, "weight": None} | batch))
    return metric.compute(state)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_the_loss_over_ragged_weighted_batches_is_that_of_numpy(sizes, seed):
    random = np.random.default_rng(seed)
    values = [random.normal(5, 3, size).astype(np.float32) for size in sizes]
    weights = [random.uniform(0.1, 2, size).astype(np.float32) for size in sizes]
    batches = [{"loss": jnp.asarray(a), "weight": jnp.asarray(b)} for a, b in zip(values, weights, strict=True)]
    expected = np.average(np.concatenate(values).astype(np.float64), weights=np.concatenate(weights))
    assert measured(Loss(), *batches) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_short_last_batch_counts_by_its_examples():
    assert measured(Loss(), {"loss": jnp.array([1.0, 1.0, 1.0])}, {"loss": jnp.array([5.0])}) == 2.0


def test_a_scalar_loss_counts_as_often_as_its_batch_has_examples():
    batches = [{"loss": jnp.float32(1.0), "target": jnp.zeros(3)}, {"loss": jnp.float32(5.0), "target": jnp.zeros(1)}]
    assert measured(Loss(), *batches) == 2.0


def test_a_scalar_loss_counts_by_weight_where_there_are_weights():
    batches = [
        {"loss": jnp.float32(1.0), "target": jnp.zeros(3), "weight": jnp.array([1.0, 0.0, 0.0])},
        {"loss": jnp.float32(5.0), "target": jnp.zeros(3), "weight": jnp.array([1.0, 1.0, 1.0])},
    ]
    assert measured(Loss(), *batches) == 4.0


def test_a_scalar_loss_without_target_counts_by_its_output():
    batches = [
        {"loss": jnp.float32(1.0), "output": jnp.zeros((3, 2))},
        {"loss": jnp.float32(5.0), "output": jnp.zeros((1, 2))},
    ]
    assert measured(Loss(), *batches) == 2.0


def test_a_loss_per_token_counts_tokens():
    batch = {"loss": jnp.array([[1.0, 3.0], [7.0, 9.0]]), "weight": jnp.array([[1, 1], [1, 0]])}
    assert measured(Loss(), batch) == pytest.approx(11 / 3, rel=1e-6)


def test_a_nan_under_weight_zero_does_not_count():
    assert measured(Loss(), {"loss": jnp.array([2.0, jnp.nan]), "weight": jnp.array([1.0, 0.0])}) == 2.0


def test_a_nan_that_counts_shows():
    assert np.isnan(measured(Loss(), {"loss": jnp.array([2.0, jnp.nan])}))


def test_an_infinite_loss_shows_as_infinite():
    assert measured(Loss(), {"loss": jnp.array([2.0, jnp.inf])}) == np.inf


def test_nothing_measured_is_nan():
    assert np.isnan(mean_of(empty_mean()))


def test_nothing_that_weighs_is_nan():
    assert np.isnan(measured(Loss(), {"loss": jnp.array([2.0]), "weight": jnp.zeros(1)}))


def test_a_mean_of_a_million_losses_in_a_scan_is_right_to_a_millionth():
    losses = np.random.default_rng(0).uniform(0.05, 0.15, 1_000_000).astype(np.float32)

    @jax.jit
    def mean(losses):
        def add(state, loss):
            return add_to_mean(state, loss, jnp.float32(1)), None

        return mean_of(jax.lax.scan(add, empty_mean(), losses)[0])

    assert mean(losses) == pytest.approx(losses.astype(np.float64).mean(), rel=1e-6)


def test_a_count_goes_on_past_what_float32_holds():
    state = empty_mean() | {"weight": np.float32(2**24)}
    for _ in range(3):
        state = add_to_mean(state, jnp.float32(0), jnp.float32(1))
    assert int(state["weight"]) + int(state["weight_error"]) == 2**24 + 3


def test_an_accumulator_keeps_its_kind():
    state = empty_mean()
    after = add_to_mean(state, jnp.ones(3), jnp.ones(3))
    assert {name: leaf.dtype for name, leaf in after.items()} == {name: leaf.dtype for name, leaf in state.items()}


OUTPUT = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
TARGET = np.array([1, 1, 1, 0])


def test_accuracy_is_that_of_scikit_learn():
    expected = accuracy_score(TARGET, OUTPUT.argmax(axis=1))
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET}) == expected == 0.75


def test_weighted_accuracy_is_that_of_scikit_learn():
    weight = np.array([0.5, 1.0, 2.0, 0.25], np.float32)
    expected = accuracy_score(TARGET, OUTPUT.argmax(axis=1), sample_weight=weight)
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET, "weight": weight}) == pytest.approx(expected)


def test_padding_does_not_count_in_accuracy():
    weight = np.array([1, 0, 1, 1], np.float32)
    assert measured(Accuracy(), {"output": OUTPUT, "target": TARGET, "weight": weight}) == 1.0


def test_accuracy_counts_tokens_one_by_one():
    batch = {"output": OUTPUT.reshape(2, 2, 2), "target": TARGET.reshape(2, 2)}
    assert measured(Accuracy(), batch) == 0.75


def test_accuracy_takes_probabilities_as_targets():
    assert measured(Accuracy(), {"output": OUTPUT, "target": np.eye(2, dtype=np.float32)[TARGET]}) == 0.75


def test_accuracy_takes_as_many_examples_as_classes():
    assert measured(Accuracy(), {"output": OUTPUT[:2], "target": TARGET[:2]}) == 0.5


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, np.bool_])
@pytest.mark.parametrize(("output", "target"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1))])
def test_accuracy_takes_one_logit(output, target, dtype):
    batch = {"output": np.array([2.0, -1.0, 0.0, -3.0]).reshape(output)}
    batch["target"] = np.array([1, 0, 1, 1]).astype(dtype).reshape(target)
    assert measured(Accuracy(), batch) == 0.5


@pytest.mark.parametrize(("weight", "expected"), [([1, 0], 0.5), ([[1, 0], [1, 0]], 1.0), (None, 0.5)])
def test_accuracy_counts_tokens_of_one_logit_by_either_weight(weight, expected):
    batch = {"output": np.array([[[2.0], [2.0]], [[-1.0], [-1.0]]]), "target": np.array([[1, 0], [0, 1]])}
    weight = None if weight is None else np.array(weight)
    assert measured(Accuracy(), batch | {"weight": weight}) == expected


def test_accuracy_of_one_logit_refuses_targets_that_would_broadcast():
    with pytest.raises(ValueError, match=r"^accuracy: .*shape \(4,\), one logit per example.*got \(4, 1\)"):
        measured(Accuracy(), {"output": np.zeros(4), "target": np.zeros((4, 1))})


@pytest.mark.parametrize("metric", [Accuracy(), TopKAccuracy(2), MatthewsCorrelationCoefficient(2)], ids=repr)
def test_an_output_of_several_arrays_is_refused_with_the_fix(metric):
    with pytest.raises(TypeError, match=rf"^{metric.name}: the output must be one array.*\(4, 2\).*Give Mean\("):
        measured(metric, {"output": {"head": OUTPUT}, "target": TARGET})


def test_accuracy_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"needs integer targets of shape \(4,\).*got \(4, 1\)"):
        measured(Accuracy(), {"output": OUTPUT, "target": TARGET[:, np.newaxis]})


def test_ties_with_the_target_are_not_above_it():
    output = np.array([[1.0, 1.0, 1.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    batch = {"output": output, "target": np.array([2, 2])}
    assert [float(measured(TopKAccuracy(k), batch)) for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_as_many_guesses_as_classes_are_always_right():
    assert measured(TopKAccuracy(2), {"output": OUTPUT, "target": TARGET}) == 1.0


def test_a_class_that_is_masked_by_infinity_ranks_last():
    output = np.array([[-np.inf, 1.0, 2.0]])
    assert measured(TopKAccuracy(2), {"output": output, "target": np.array([0])}) == 0.0
    assert measured(TopKAccuracy(2), {"output": output, "target": np.array([1])}) == 1.0


def test_a_model_that_gives_nan_is_not_among_the_top():
    assert measured(TopKAccuracy(2), {"output": np.full((4, 3), np.nan), "target": TARGET}) == 0.0


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_does_not_exist_is_not_among_the_top(target):
    assert measured(TopKAccuracy(3), {"output": np.ones((1, 3)), "target": np.array([target])}) == 0.0


def test_the_top_takes_probabilities_as_targets_and_tokens():
    batch = {"output": OUTPUT.reshape(2, 2, 2), "target": np.eye(2)[TARGET].reshape(2, 2, 2)}
    assert measured(TopKAccuracy(1), batch) == 0.75


@pytest.mark.parametrize(("k", "shape"), [(3, (4, 2)), (1, (4, 1)), (1, (4,)), (2, ())])
def test_more_guesses_than_classes_are_refused(k, shape):
    with pytest.raises(ValueError, match=rf"^top{k}_accuracy: .*at least {max(k, 2)} classes, got .*in shape \("):
        measured(TopKAccuracy(k), {"output": np.zeros(shape), "target": TARGET})


def test_the_top_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"^top2_accuracy: .*needs integer targets of shape \(4,\).*got \(4, 1\)"):
        measured(TopKAccuracy(2), {"output": OUTPUT, "target": TARGET[:, np.newaxis]})


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "5"])
def test_guesses_that_cannot_be_counted_are_refused(k):
    with pytest.raises(ValueError, match="`k` must be a whole number of at least 1"):
        TopKAccuracy(k)


def test_the_top_is_named_by_its_guesses():
    assert (TopKAccuracy().name, TopKAccuracy(3).name, TopKAccuracy(3, "good").name) == (
        "top5_accuracy",
        "top3_accuracy",
        "good",
    )


BINARY = MatthewsCorrelationCoefficient()


def test_the_correlation_of_two_classes_by_hand():
    # TP 2, TN 1, FP 1, FN 0: (2 - 0) / sqrt(3 * 2 * 2 * 1)
    batch = {"output": np.array([1.0, 2.0, -1.0, 3.0]), "target": np.array([1, 1, 0, 0])}
    assert measured(BINARY, batch) == pytest.approx(2 / np.sqrt(12), rel=1e-6)


@pytest.mark.parametrize(("output", "target"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1))])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_the_correlation_takes_one_logit(output, target, dtype):
    batch = {"output": np.array([2.0, -1.0, 0.5, -3.0]).reshape(output)}
    batch["target"] = np.array([1, 0, 1, 0], dtype).reshape(target)
    assert measured(BINARY, batch) == pytest.approx(1.0, rel=1e-6)


def test_two_logits_correlate_as_the_one_that_is_their_difference():
    output = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    target = np.random.default_rng(1).integers(0, 2, 50)
    one = measured(BINARY, {"output": output[:, 1] - output[:, 0], "target": target})
    assert measured(MatthewsCorrelationCoefficient(2), {"output": output, "target": target}) == one


@pytest.mark.parametrize(
    ("output", "target"), [([1.0, 2.0], [0, 1]), ([1.0, -2.0], [1, 1]), ([1.0, 1.0], [1, 1]), ([-1.0, -1.0], [1, 1])]
)
def test_the_correlation_with_one_class_alone_is_zero(output, target):
    assert measured(BINARY, {"output": np.array(output), "target": np.array(target)}) == 0.0


def test_the_correlation_of_nothing_is_nan():
    batch = {"output": np.ones(2), "target": np.ones(2), "weight": np.zeros(2)}
    assert np.isnan(measured(BINARY, batch))
    assert np.isnan(BINARY.compute(BINARY.init()))


@given(st.lists(st.integers(0, 2**31), min_size=9, max_size=9), st.lists(st.sampled_from([0, 0.25, 1]), min_size=9))
def test_the_correlation_of_any_counts_is_that_of_scikit_learn(counts, shares):
    matrix = np.array([count * share for count, share in zip(counts, shares, strict=False)], np.float32).reshape(3, 3)
    true, predicted = np.divmod(np.arange(9), 3)
    expected = matthews_corrcoef(true, predicted, sample_weight=matrix.reshape(-1)) if matrix.any() else np.nan
    found = MatthewsCorrelationCoefficient(3).compute({"weight": matrix, "weight_error": np.zeros_like(matrix)})
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_class_of_one_in_a_hundred_million_still_correlates():
    matrix = np.array([[10**8, 1], [1, 3]])
    (tn, fp), (fn, tp) = matrix.tolist()
    expected = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    found = BINARY.compute({"weight": matrix.astype(np.float32), "weight_error": np.zeros((2, 2), np.float32)})
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_count_of_a_cell_goes_on_past_what_float32_holds():
    state = BINARY.init() | {"weight": np.full((2, 2), 2**24, np.float32)}
    for _ in range(3):
        state = BINARY.update(state, output=np.ones(1), target=np.ones(1), loss=None, weight=None)
    assert int(state["weight"][1, 1]) + int(state["weight_error"][1, 1]) == 2**24 + 3


def test_several_logits_without_classes_are_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"expects one logit.*\(4, 2\).*MatthewsCorrelationCoefficient\(classes=2\)"):
        measured(BINARY, {"output": OUTPUT, "target": TARGET})


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4,)])
def test_logits_other_than_the_classes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expects 3 logits, got an output of shape \(4.*Make `classes` the size"):
        measured(MatthewsCorrelationCoefficient(3), {"output": np.zeros(shape), "target": TARGET})


def test_the_correlation_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"^matthews_.*needs integer targets of shape \(4,\).*got \(3,\)"):
        measured(MatthewsCorrelationCoefficient(2), {"output": OUTPUT, "target": TARGET[:3]})
    with pytest.raises(ValueError, match=r"^matthews_.*needs targets of 0 or 1 of its shape, got \(4, 1\)"):
        measured(BINARY, {"output": np.zeros(4), "target": TARGET[:, np.newaxis]})


@pytest.mark.parametrize("classes", [1, 0, 2.0, True])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(ValueError, match="`classes` must be at least 2, or None for one logit"):
        MatthewsCorrelationCoefficient(classes)


def test_even_logits_have_as_much_perplexity_as_classes():
    loss = losses.softmax_cross_entropy(jnp.zeros((3, 4, 7)), jnp.zeros((3, 4), jnp.int32))
    assert measured(Perplexity(), {"loss": loss}) == pytest.approx(7.0, rel=1e-6)


def test_perplexity_is_of_the_mean_over_tokens_not_the_mean_over_batches():
    batches = [{"loss": jnp.log(jnp.array([[2.0, 2.0, 2.0]]))}, {"loss": jnp.log(jnp.array([[32.0]]))}]
    assert measured(Perplexity(), *batches) == pytest.approx(4.0, rel=1e-6)


def test_a_mean_counts_tokens():
    batch = {"output": np.array([[1.0, 3.0], [7.0, 9.0]]), "target": np.zeros((2, 2)), "weight": np.array([1, 0])}
    assert measured(Mean(lambda output, target: output - target, "gap"), batch) == 2.0


def test_a_mean_may_measure_what_is_no_array():
    mean = Mean(lambda output, target: output["head"] * target["head"], "product")
    batch = {"output": {"head": np.array([1.0, 2.0])}, "target": {"head": np.array([3.0, 5.0])}}
    assert measured(mean, batch) == 6.5


@pytest.mark.parametrize("reduce", [np.mean, lambda values: values[:1], lambda values: values.T])
def test_a_mean_refuses_what_is_not_one_value_per_example(reduce):
    with pytest.raises(ValueError, match=r"^gap: `fn` must give one value per example, of shape \(2,\)"):
        measured(Mean(lambda output, target: reduce(output), "gap"), {"output": np.ones((2, 3)), "target": TARGET[:2]})


@pytest.mark.parametrize("arguments", [(3, "gap"), (max, 3)])
def test_a_mean_of_no_function_or_without_a_name_is_refused(arguments):
    with pytest.raises(TypeError, match=r"expected a function of \(output, target\) and a name"):
        Mean(*arguments)


SEVERAL = (
    Loss(),
    Accuracy(),
    TopKAccuracy(2),
    MatthewsCorrelationCoefficient(5),
    Perplexity(),
    Mean(lambda output, target: losses.mean_squared_error(output[:, 0], output[:, 1]), "squared"),
    Mean(lambda output, target: losses.mean_absolute_error(output[:, 0], output[:, 1]), "absolute"),
)
SINGLE = (
    Loss(),
    Accuracy(),
    BINARY,
    Perplexity(),
    Mean(losses.mean_squared_error, "squared"),
    Mean(losses.mean_absolute_error, "absolute"),
)
BATCH = 16


def examples(count, seed, classes):
    """Logits, from which targets can be guessed, and weights; from one logit if there is one class."""
    random = np.random.default_rng(seed)
    target = random.integers(0, max(classes, 2), count)
    noise = random.normal(size=(count, classes)).astype(np.float32)
    weight = random.uniform(0.25, 4, count).astype(np.float32)
    if classes == 1:
        return noise[:, 0] + target - 0.5, target.astype(np.float32), weight
    return noise + np.eye(classes, dtype=np.float32)[target], target, weight


def expected_of(output, target, weight):
    """What scikit-learn says of the examples, by the names of `SEVERAL` or `SINGLE`."""
    output, several = output.astype(np.float64), output.ndim > 1
    weighted = {"sample_weight": weight}
    predicted = output.argmax(axis=1) if several else (output > 0).astype(int)
    probability = (
        np.exp(output - np.logaddexp.reduce(output, axis=1, keepdims=True)) if several else 1 / (1 + np.exp(-output))
    )
    labels = np.arange(output.shape[1]) if several else [0, 1]
    loss = log_loss(target, probability, labels=labels, **weighted)
    pair = (output[:, 0], output[:, 1]) if several else (output, target)
    expected = {
        "loss": loss,
        "perplexity": np.exp(loss),
        "accuracy": accuracy_score(target, predicted, **weighted),
        "matthews_correlation_coefficient": matthews_corrcoef(target, predicted, **weighted),
        "squared": mean_squared_error(*pair, **weighted),
        "absolute": mean_absolute_error(*pair, **weighted),
    }
    if several:
        expected["top2_accuracy"] = top_k_accuracy_score(target, output, k=2, labels=labels, **weighted)
    return expected


def padded(batch, poison=np.nan):
    """The batch filled up to `BATCH` with rows of weight 0 that hold what must not count."""
    output, target, weight = batch
    gap = BATCH - len(weight)
    output = np.concatenate([output, np.full((gap, *output.shape[1:]), poison, output.dtype)])
    none = poison if target.dtype == np.float32 else -1
    return output, np.pad(target, (0, gap), constant_values=none), np.pad(weight, (0, gap))


def step_of(several):
    """Adds a batch to the accumulators of all metrics."""
    loss_fn = losses.softmax_cross_entropy if several else losses.sigmoid_cross_entropy

    def step(states, batch):
        output, target, weight = batch
        seen = {"output": output, "target": target, "loss": loss_fn(output, target), "weight": weight}
        return {metric.name: metric.update(states[metric.name], **seen) for metric in (SEVERAL if several else SINGLE)}

    return step


STEPS = {several: jax.jit(step_of(several)) for several in (False, True)}


def statistics(states, several):
    return {metric.name: float(metric.compute(states[metric.name])) for metric in (SEVERAL if several else SINGLE)}


def empty_states(several):
    return {metric.name: metric.init() for metric in (SEVERAL if several else SINGLE)}


@pytest.mark.filterwarnings("ignore:A single label was found")  # which gives 0 there, as ours does
@pytest.mark.parametrize("several", [False, True])
@given(st.lists(st.integers(1, BATCH), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.booleans())
def test_padded_batches_in_any_order_measure_what_scikit_learn_does(several, sizes, seed, weighted):
    output, target, weight = examples(sum(sizes), seed, 5 if several else 1)
    weight = weight if weighted else np.ones_like(weight)
    cuts = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes), strict=True)]
    expected = expected_of(output, target, weight)
    for order in (cuts, cuts[::-1]):
        states = empty_states(several)
        for cut in order:
            states = STEPS[several](states, padded((output[cut], target[cut], weight[cut])))
        assert statistics(states, several) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_ragged_batches_without_jit_or_weights_measure_what_scikit_learn_does(several):
    output, target, weight = examples(37, 3, 5 if several else 1)
    states = empty_states(several)
    for cut in (slice(0, 16), slice(16, 32), slice(32, 37)):
        states = step_of(several)(states, (jnp.asarray(output[cut]), jnp.asarray(target[cut]), None))
    expected = expected_of(output, target, np.ones_like(weight))
    assert statistics(states, several) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_a_scan_measures_what_scikit_learn_does(several):
    output, target, weight = examples(77, 4, 5 if several else 1)
    cuts = [slice(start, start + BATCH) for start in range(0, 77, BATCH)]
    batches = [padded((output[cut], target[cut], weight[cut]), np.inf) for cut in cuts]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    states, _ = jax.lax.scan(
        lambda states, batch: (step_of(several)(states, batch), None), empty_states(several), stacked
    )
    assert statistics(states, several) == pytest.approx(expected_of(output, target, weight), rel=1e-6, abs=1e-6)


def test_accumulators_keep_structure_shapes_and_dtypes():
    for several in (False, True):
        states = empty_states(several)
        after = jax.eval_shape(step_of(several), states, padded(examples(5, 0, 5 if several else 1)))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), states
        )


@pytest.mark.parametrize("several", [False, True])
def test_accumulators_stay_float32_where_float64_is_switched_on(several):
    output, target, weight = examples(37, 3, 5 if several else 1)
    with jax.enable_x64(True):
        batch = (jnp.asarray(output, jnp.float64), jnp.asarray(target), jnp.asarray(weight, jnp.float64))
        states = step_of(several)(empty_states(several), batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {np.dtype(np.float32)}
        assert statistics(states, several) == pytest.approx(expected_of(output, target, weight), rel=1e-6, abs=1e-6)


def test_a_mean_of_a_million_losses_in_one_batch_is_right_to_a_millionth():
    values = np.random.default_rng(0).uniform(0.05, 0.15, 1_000_000).astype(np.float32)
    expected = values.astype(np.float64).mean()
    assert measured(Loss(), {"loss": values}) == pytest.approx(expected, rel=1e-6)
    assert measured(Perplexity(), {"loss": values}) == pytest.approx(np.exp(expected), rel=1e-6)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluation_measures_what_scikit_learn_does(several, steps_per_dispatch, weighted):
    output, target, weight = examples(75, 5, 5 if several else 1)
    loss_fn = losses.softmax_cross_entropy if several else losses.sigmoid_cross_entropy
    identity = jl.Model(lambda params, state, input, *, training, key: (input + params, state), np.float32(0), {})
    training_loop = jl.TrainingLoop(
        jl.TrainingEpochs((output, target), BATCH),
        optimizer=optax.sgd(0.1),
        loss_fn=loss_fn,
        metrics=SEVERAL if several else SINGLE,
        steps_per_dispatch=steps_per_dispatch,
        progress=False,
    )
    samples = (output, target, weight) if weighted else (output, target)
    found = training_loop.evaluate(identity, jl.in_batches(samples, BATCH))
    expected = expected_of(output, target, weight if weighted else np.ones_like(weight))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_metrics_by_name():
    names = ["accuracy", "top5_accuracy", "top12_accuracy", "matthews_correlation_coefficient", "perplexity"]
    found = resolve(names)
    assert found == (Loss(), Accuracy(), TopKAccuracy(5), TopKAccuracy(12), BINARY, Perplexity())
    assert [metric.name for metric in found] == ["loss", *names]


@pytest.mark.parametrize("name", ["top0_accuracy", "top05_accuracy", "top_accuracy", "top5", "top-1_accuracy"])
def test_a_name_that_is_no_top_is_refused(name):
    with pytest.raises(ValueError, match=r"is not known. Known by name: .*perplexity, top5_accuracy \(and any"):
        resolve([name])


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(metrics).failed == 0


def test_the_loss_is_always_measured_and_first():
    assert resolve(["accuracy"]) == (Loss(), Accuracy())


def test_naming_the_loss_changes_nothing():
    assert resolve(["accuracy", "loss"]) == (Loss(), Accuracy())


def test_a_metric_may_be_given_as_an_object():
    assert resolve([Accuracy("top"), "accuracy"]) == (Loss(), Accuracy("top"), Accuracy())


def test_any_object_of_the_right_form_is_a_metric():
    @dataclass(frozen=True)
    class Count:
        name: str = "count"

        def init(self):
            return jnp.int32(0)

        def update(self, state, **step):
            return state + 1

        def compute(self, state):
            return state.astype(jnp.float32)

    assert isinstance(Count(), Metric)
    assert resolve([Count()])[1] == Count()


def test_a_name_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"'acuracy' is not known. Known by name: .*accuracy.*loss"):
        resolve(["acuracy"])


def test_a_name_in_place_of_a_list_is_refused_with_the_fix():
    with pytest.raises((TypeError, ValueError), match=r"\['accuracy'\]|list|brackets"):
        resolve("accuracy")


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two metrics are named 'accuracy'"):
        resolve(["accuracy", Accuracy()])


def test_a_class_that_was_not_called_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"Call it: Accuracy\(\)"):
        resolve([Accuracy])


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="each must be a name or have `name`, `init`, `update` and `compute`, got 3"):
        resolve([3])
