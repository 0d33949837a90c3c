"""Losses, one per example, and their weighted means."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.metrics import mean_absolute_error as sklearn_absolute_error
from sklearn.metrics import mean_squared_error as sklearn_squared_error

import jaxloop as jl
from jaxloop import losses
from jaxloop.losses import (
    mean_absolute_error,
    mean_squared_error,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    spread_weight,
    weighted_mean,
    weighted_sum,
)
from tests import small

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0], [1e4, 0.0, -1e4]])
LABELS = jnp.array([0, 2, 2, 0])


def test_even_logits_cost_the_logarithm_of_the_number_of_classes():
    np.testing.assert_allclose(softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])), np.log(4.0), rtol=1e-6)


def test_labels_give_one_loss_per_example_as_optax_does():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_array_equal(softmax_cross_entropy(LOGITS, LABELS), expected)


def test_the_mean_is_the_log_loss_of_scikit_learn():
    probabilities = np.asarray(jax.nn.softmax(LOGITS[:3]), np.float64)
    expected = log_loss(LABELS[:3], probabilities / probabilities.sum(axis=1, keepdims=True), labels=[0, 1, 2])
    assert softmax_cross_entropy(LOGITS[:3], LABELS[:3]).mean() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_one_hot_probabilities_cost_what_labels_cost(dtype):
    probabilities = jax.nn.one_hot(LABELS, 3, dtype=dtype)
    expected = softmax_cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, probabilities), expected, rtol=1e-6)


def test_soft_targets_weigh_the_classes():
    target = jnp.array([[0.25, 0.75]])
    expected = 0.25 * np.log1p(np.exp(-1.0)) + 0.75 * np.log1p(np.exp(1.0))
    assert softmax_cross_entropy(jnp.array([[1.0, 0.0]]), target)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_labels_may_have_any_integer_type(dtype):
    labels = np.array([0, 2], dtype)
    with jax.debug_nans(True), jax.disable_jit():  # what is found there is the user's alone
        softmax_cross_entropy(jnp.zeros((2, 4)), labels)
    np.testing.assert_allclose(softmax_cross_entropy(jnp.zeros((2, 4)), labels), np.log(4.0), rtol=1e-6)


def test_tokens_are_lost_one_by_one():
    logits = jnp.stack([LOGITS[:2], LOGITS[2:]])
    found = softmax_cross_entropy(logits, LABELS.reshape(2, 2))
    np.testing.assert_allclose(found.reshape(-1), softmax_cross_entropy(LOGITS, LABELS), rtol=1e-6)


def test_the_gradient_is_softmax_minus_one_hot():
    gradient = jax.grad(lambda logits: softmax_cross_entropy(logits, LABELS).sum())(LOGITS)
    np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - jax.nn.one_hot(LABELS, 3), atol=1e-6)


@pytest.mark.parametrize(
    "target", [jnp.zeros((4, 1), jnp.int32), jnp.zeros(4, jnp.float32), jnp.zeros((4, 2)), jnp.zeros(3, jnp.int32)]
)
def test_a_target_of_another_shape_is_refused(target):
    with pytest.raises(ValueError, match=r"`target` must be integer labels of shape \(4,\) or probabilities"):
        softmax_cross_entropy(LOGITS, target)


ONE_LOGIT = jnp.array([-2.0, 0.0, 0.5, 30.0])
YES_OR_NO = jnp.array([0, 1, 1, 1])


def test_a_logit_of_zero_costs_the_logarithm_of_two():
    np.testing.assert_allclose(sigmoid_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0])), np.log(2.0), rtol=1e-6)


def test_the_mean_over_one_logit_is_the_log_loss_of_scikit_learn():
    expected = log_loss(YES_OR_NO, jax.nn.sigmoid(np.asarray(ONE_LOGIT, np.float64)))
    assert sigmoid_cross_entropy(ONE_LOGIT, YES_OR_NO).mean() == pytest.approx(expected, rel=1e-6)


def test_one_logit_costs_what_two_logits_cost_whose_difference_it_is():
    two = jnp.stack([jnp.zeros(4), ONE_LOGIT], axis=-1)
    expected = softmax_cross_entropy(two, YES_OR_NO)
    np.testing.assert_allclose(sigmoid_cross_entropy(ONE_LOGIT, YES_OR_NO), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize(("logits", "target"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1))])
def test_an_axis_of_one_logit_may_be_there_or_not(logits, target, dtype):
    found = sigmoid_cross_entropy(ONE_LOGIT.reshape(logits), YES_OR_NO.astype(dtype).reshape(target))
    np.testing.assert_allclose(found, sigmoid_cross_entropy(ONE_LOGIT, YES_OR_NO), rtol=1e-6)


def test_one_logit_per_token_gives_one_loss_per_token():
    found = sigmoid_cross_entropy(ONE_LOGIT.reshape(2, 2, 1), YES_OR_NO.reshape(2, 2))
    np.testing.assert_allclose(found.reshape(-1), sigmoid_cross_entropy(ONE_LOGIT, YES_OR_NO), rtol=1e-6)


def test_several_yes_or_no_classes_cost_their_mean():
    found = sigmoid_cross_entropy(ONE_LOGIT.reshape(2, 2), YES_OR_NO.reshape(2, 2))
    expected = sigmoid_cross_entropy(ONE_LOGIT, YES_OR_NO).reshape(2, 2).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_logits_cost_no_infinity():
    found = sigmoid_cross_entropy(jnp.array([1e4, -1e4, 1e4]), jnp.array([0, 1, 1]))
    np.testing.assert_array_equal(found, [1e4, 1e4, 0.0])


def test_the_gradient_of_one_logit_is_sigmoid_minus_target():
    gradient = jax.grad(lambda logits: sigmoid_cross_entropy(logits, YES_OR_NO).sum())(ONE_LOGIT)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(ONE_LOGIT) - YES_OR_NO, atol=1e-6)


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [(mean_squared_error, sklearn_squared_error), (mean_absolute_error, sklearn_absolute_error)],
)
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 3, 2)])
def test_errors_are_those_of_scikit_learn_one_per_example(loss_fn, expected, shape):
    random = np.random.default_rng(0)
    output, target = random.normal(size=(2, *shape)).astype(np.float32)
    each = [expected(output[i].reshape(-1), target[i].reshape(-1)) for i in range(7)]
    found = loss_fn(jnp.asarray(output), target)
    assert found.shape == (7,)
    np.testing.assert_allclose(found, each, rtol=1e-6, atol=1e-7)
    assert found.mean() == pytest.approx(expected(output.reshape(7, -1), target.reshape(7, -1)), rel=1e-6)


def test_errors_take_bytes_as_target():
    target = np.array([[255, 0]], np.uint8)
    assert mean_squared_error(jnp.array([[254.0, 1.0]]), target).tolist() == [1.0]
    assert mean_absolute_error(jnp.array([[253.0, 2.0]]), target).tolist() == [2.0]


@pytest.mark.parametrize("loss_fn", [mean_squared_error, mean_absolute_error])
def test_errors_that_would_broadcast_are_refused_with_the_fix(loss_fn):
    name = loss_fn.__name__
    with pytest.raises(ValueError, match=rf"^{name}: .*got \(4, 1\) and \(4,\).*output\[..., 0\].*target\[..., None\]"):
        loss_fn(jnp.zeros((4, 1)), jnp.zeros(4))
    with pytest.raises(ValueError, match=rf"^{name}: .*got \(4,\) and \(4, 1\).*target\[..., 0\].*output\[..., None\]"):
        loss_fn(jnp.zeros(4), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=rf"^{name}: .*got \(4, 3\) and \(3,\).*Check the last layer's size"):
        loss_fn(jnp.zeros((4, 3)), jnp.zeros(3))


@pytest.mark.parametrize("target", [(4, 1), (3,), (4, 2), ()])
def test_a_sigmoid_target_of_another_shape_is_refused(target):
    with pytest.raises(ValueError, match=r"^sigmoid_cross_entropy: `logits` and `target` must be of one shape"):
        sigmoid_cross_entropy(jnp.zeros(4), jnp.zeros(target))


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(losses).failed == 0


def test_no_weight_weighs_all_alike():
    np.testing.assert_array_equal(spread_weight(None, (2, 3)), np.ones((2, 3)))


def test_a_weight_per_example_counts_for_all_its_tokens():
    np.testing.assert_array_equal(spread_weight(jnp.array([True, False]), (2, 3)), [[1, 1, 1], [0, 0, 0]])


def test_a_spread_weight_is_float32():
    assert spread_weight(np.array([True, False]), (2,)).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3, 1)])
def test_a_weight_whose_axes_do_not_lead_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be the leading axes of what it weighs, \(2, 3\)"):
        spread_weight(jnp.ones(shape), (2, 3))


@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_what_weighs_nothing_does_not_count(padding):
    assert weighted_sum(jnp.array([1.0, padding, 3.0]), jnp.array([1.0, 0.0, 2.0])) == 7.0


def test_what_weighs_nothing_has_no_gradient():
    gradient = jax.grad(weighted_sum)(jnp.array([1.0, jnp.nan]), jnp.array([2.0, 0.0]))
    np.testing.assert_array_equal(gradient, [2.0, 0.0])


def test_a_scalar_is_its_own_mean():
    assert weighted_mean(jnp.float32(3.5), jnp.array([0.0, 1.0])) == 3.5


def test_the_mean_under_no_weight_is_the_plain_mean():
    assert weighted_mean(jnp.array([[1.0, 2.0], [3.0, 6.0]]), None) == 3.0


def test_the_mean_where_all_weights_are_zero_is_zero():
    assert weighted_mean(jnp.array([1.0, jnp.nan]), jnp.zeros(2)) == 0.0


def test_the_mean_over_tokens_under_a_weight_per_example_counts_tokens():
    assert weighted_mean(jnp.array([[1.0, 3.0], [100.0, 100.0]]), jnp.array([1.0, 0.0])) == 2.0


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.floats(0.125, 8, width=32)), min_size=1, max_size=8))
def test_the_weighted_mean_is_that_of_numpy(pairs):
    values, weight = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    expected = np.average(values.astype(np.float64), weights=weight)
    assert weighted_mean(jnp.asarray(values), jnp.asarray(weight)) == pytest.approx(expected, rel=1e-5, abs=1e-4)


WEIGHTS = np.array([1.0, 2.0, 5.0])
SPREAD = np.array([[0.2, 0.3, 0.5], [1.0, 0, 0], [0, 0.5, 0.5], [0.25, 0.25, 0.5]], np.float32)


def cross_entropy_by_hand(logits, probability, weights, smoothing):
    """As PyTorch's CrossEntropyLoss(weight=..., label_smoothing=..., reduction="none") gives it, in float64."""
    logits = np.asarray(logits, np.float64)
    log_softmax = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    probability = (1 - smoothing) * probability + smoothing / logits.shape[-1]
    return -np.sum(weights * probability * log_softmax, axis=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS, [1, 0, 3]])
@pytest.mark.parametrize("target", [LABELS, SPREAD], ids=["labels", "probabilities"])
def test_class_weights_and_smoothing_are_those_of_the_formula(target, weights, smoothing):
    found = softmax_cross_entropy(LOGITS, jnp.asarray(target), class_weights=weights, label_smoothing=smoothing)
    probability = np.eye(3)[target] if target.ndim == 1 else target
    expected = cross_entropy_by_hand(
        LOGITS, probability, np.ones(3) if weights is None else np.array(weights), smoothing
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_class_weights_divide_the_mean_by_examples_and_the_gradient_agrees():
    logits = LOGITS[:3]
    fn = functools.partial(softmax_cross_entropy, class_weights=WEIGHTS)

    def mean(logits):
        return weighted_mean(fn(logits, LABELS[:3]), None)

    each = cross_entropy_by_hand(logits, np.eye(3)[LABELS[:3]], WEIGHTS, 0)
    assert mean(logits) == pytest.approx(each.sum() / 3, rel=1e-6)  # not by the 11 that the classes weigh
    softmax = np.exp(np.asarray(logits) - np.logaddexp.reduce(np.asarray(logits), axis=1, keepdims=True))
    expected = WEIGHTS[LABELS[:3]][:, None] * (softmax - np.eye(3)[LABELS[:3]]) / 3
    np.testing.assert_allclose(jax.grad(mean)(logits), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("label", [-1, -100, 3, 2**30])
@pytest.mark.parametrize("options", [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.1}])
def test_a_label_that_is_no_class_is_not_taken_for_another(label, options):
    labels = jnp.array([0, label, 2, 0])
    found = softmax_cross_entropy(LOGITS, labels, **options)
    assert np.isnan(found[1])
    assert np.isfinite(weighted_mean(found, jnp.array([1.0, 0, 1, 1])))


def test_masked_labels_do_not_reach_a_fit_with_class_weights():
    inputs, labels = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32), np.arange(24) % 3
    weight = (np.arange(24) % 4 > 0).astype(np.float32)
    wild = np.where(weight > 0, labels, -100)
    loss_fn = functools.partial(softmax_cross_entropy, class_weights=WEIGHTS, label_smoothing=0.1)
    losses_found = []
    for target in (labels, wild):
        data = {"training": jl.TrainingEpochs((inputs, target, weight), 8), "loss_fn": loss_fn}
        loop, history = small.training_loop(**data, validation=jl.in_batches((inputs, target, weight), 5)).fit(
            small.model(), 2
        )
        losses_found.append((history.epochs["loss"], history.epochs["validation_loss"], loop.model.params["kernel"]))
    for one, other in zip(*losses_found, strict=True):
        np.testing.assert_array_equal(one, other)
    counts = weight > 0
    logits = np.asarray(loop.model(inputs[counts]))
    expected = cross_entropy_by_hand(logits, np.eye(3)[labels[counts]], WEIGHTS, 0.1).mean()
    assert losses_found[0][1][-1] == pytest.approx(expected, rel=1e-5)


def test_a_wild_label_is_told_before_the_first_step_with_options_too():
    inputs, labels = small.samples(12)
    labels = np.where(np.arange(12) == 7, -1, labels)
    loss_fn = functools.partial(softmax_cross_entropy, class_weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"target is -1 at \(7,\); with an output of 3 classes"):
        small.training_loop(training=jl.TrainingEpochs((inputs, labels), 4), loss_fn=loss_fn).fit(small.model(), 1)


@pytest.mark.parametrize("weights", [[1, 2], [[1, 2, 3]], 2.0])
def test_a_wrong_number_of_class_weights_is_told_before_the_first_step(weights):
    loss_fn = functools.partial(softmax_cross_entropy, class_weights=weights)
    with pytest.raises(ValueError, match=r"`class_weights` must be one number for each class, of shape \(3,\)"):
        small.training_loop(loss_fn=loss_fn).fit(small.model(), 1)


def test_class_weights_by_label_are_refused_with_the_line_to_write():
    with pytest.raises(TypeError, match=r"got a mapping.*\[weights\[label\] for label in range\(classes\)\]"):
        softmax_cross_entropy(LOGITS, LABELS, class_weights={0: 1.0, 1: 2.0, 2: 3.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1, -1, 2]}, "`class_weights` must be finite numbers of at least 0"),
        ({"class_weights": [1, np.inf, 2]}, "Check that each class occurs in the data"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be a number from 0 to below 1, got 1.0"),
        ({"label_smoothing": True}, "`label_smoothing` must be a number"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        softmax_cross_entropy(LOGITS, LABELS, **options)


def test_the_weight_of_a_yes_and_smoothing_are_those_of_the_formula():
    logits, target = np.array([[2.0, -1.0], [0.5, -40.0], [60.0, 3.0]]), np.array([[1, 0], [0.25, 1], [1, 1]])
    for weight, smoothing in ((3.0, 0.0), ([0.5, 4.0], 0.2), (None, 0.2)):
        smooth = (1 - smoothing) * target + smoothing / 2
        yes, no = np.logaddexp(0, -logits), np.logaddexp(0, logits)
        expected = (np.array(1 if weight is None else weight) * smooth * yes + (1 - smooth) * no).mean(axis=1)
        options = {"pos_weight": weight, "label_smoothing": smoothing}
        found = sigmoid_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(target), **options)
        np.testing.assert_allclose(found, expected, rtol=2e-6)
    one = sigmoid_cross_entropy(jnp.array([2.0, -1.0]), jnp.array([1, 1]), pos_weight=3.0)
    np.testing.assert_allclose(one, 3 * np.logaddexp(0, [-2.0, 1.0]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"`pos_weight` must be one number for each class, of shape \(2,\)"):
        sigmoid_cross_entropy(jnp.zeros((3, 2)), jnp.zeros((3, 2)), pos_weight=[1, 2, 3])


def test_narrow_logits_are_weighed_in_float32():
    found = softmax_cross_entropy(LOGITS.astype(jnp.bfloat16), LABELS, class_weights=WEIGHTS, label_smoothing=0.1)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("target", [jnp.array([0]), jnp.array([[1.0, 0.0, 0.0]])])
def test_a_class_of_minus_infinity_that_is_not_the_target_costs_nothing(target):
    logits = jnp.array([[1.0, 2.0, -jnp.inf]])
    found, gradient = jax.value_and_grad(lambda logits: softmax_cross_entropy(logits, target).sum())(logits)
    assert found == pytest.approx(np.log1p(np.e), rel=1e-6)
    np.testing.assert_allclose(gradient[0], [-1 / (1 + 1 / np.e), 1 / (1 + 1 / np.e), 0], rtol=1e-5)


def test_a_class_of_minus_infinity_that_weighs_nothing_costs_nothing():
    logits = jnp.array([[1.0, 2.0, -jnp.inf]])
    fn = functools.partial(softmax_cross_entropy, class_weights=[1, 1, 0], label_smoothing=0.1)
    assert np.isfinite(fn(logits, jnp.array([0]))).all()
    assert np.isfinite(jax.grad(lambda logits: fn(logits, jnp.array([0])).sum())(logits)).all()
