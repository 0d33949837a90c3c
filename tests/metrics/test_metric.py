"""What a metric is, exact over ragged, weighted and padded batches, and how one is chosen by name."""

import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
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
from jaxloop import losses
from jaxloop.metrics import (
    Accuracy,
    Loss,
    MatthewsCorrelationCoefficient,
    Mean,
    Metric,
    Perplexity,
    TopKAccuracy,
    less_is_better,
    metric,
    resolve,
)
from jaxloop.metrics.metric import _ELSEWHERE
from tests import small

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
    MatthewsCorrelationCoefficient(),
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_accumulators_stay_float32_where_float64_is_switched_on(several):
    output, target, weight = examples(37, 3, 5 if several else 1)
    with jax.enable_x64(True):
        batch = (jnp.asarray(output, jnp.float64), jnp.asarray(target), jnp.asarray(weight, jnp.float64))
        states = step_of(several)(empty_states(several), batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {np.dtype(np.float32)}
        assert statistics(states, several) == pytest.approx(expected_of(output, target, weight), rel=1e-6, abs=1e-6)


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


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_model_that_gives_nan_for_some_is_wrong_there_in_all_metrics_alike(steps_per_dispatch):
    output, target, weight = examples(23, 0, 5)
    weight[::3] = 0
    bad = np.arange(23) % 4 == 0

    def apply(params, state, input, *, training, key):
        return jnp.where(input < -50, jnp.nan, input) + params, state

    logits = output.copy()
    logits[bad, 2] = -99  # for which the model gives NaN
    training_loop = jl.TrainingLoop(
        [],
        optimizer=optax.sgd(0.1),
        loss_fn=lambda output, target: jnp.zeros(len(target)),
        metrics=SEVERAL[1:4],
        steps_per_dispatch=steps_per_dispatch,
    )
    batches = jl.in_batches((logits, target, weight), 5)
    found = training_loop.evaluate(jl.Model(apply, np.zeros(5, np.float32), {}), batches)
    predicted = np.where(bad, -1, output.argmax(axis=1))  # to scikit-learn, NaN is a class that none is of
    top = (output > output[np.arange(23), target][:, np.newaxis]).sum(axis=1) < 2
    assert found["accuracy"] == pytest.approx(accuracy_score(target, predicted, sample_weight=weight))
    assert found["top2_accuracy"] == pytest.approx(np.average(top & ~bad, weights=weight))
    expected = matthews_corrcoef(target, predicted, sample_weight=weight)
    assert found["matthews_correlation_coefficient"] == pytest.approx(expected, rel=1e-5)


def test_metrics_by_name():
    names = ["accuracy", "top5_accuracy", "top12_accuracy", "matthews_correlation_coefficient", "perplexity"]
    found = resolve(names)
    assert found == (
        Loss(),
        Accuracy(),
        TopKAccuracy(5),
        TopKAccuracy(12),
        MatthewsCorrelationCoefficient(),
        Perplexity(),
    )
    assert [metric.name for metric in found] == ["loss", *names]


def test_each_metric_of_the_guide_has_its_name():
    guide = (Path(__file__).parents[2] / "examples" / "guides" / "metrics_and_losses.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    averages = [f"{average}_{score}" for average in ("macro", "micro", "weighted") for score in ("precision", "recall")]
    assert {metric.name for metric in resolve([*names, *averages])} == set(metric._by_name(None)) == {*names, *averages}


@pytest.mark.parametrize("name", ["top0_accuracy", "top05_accuracy", "top_accuracy", "top5", "top-1_accuracy"])
def test_a_name_that_is_no_top_is_refused(name):
    with pytest.raises(ValueError, match=r"is not known. Known by name: .*perplexity, top5_accuracy \(and any"):
        resolve([name])


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


@pytest.mark.parametrize("metrics", [Accuracy(), nnx.MultiMetric(accuracy=nnx.metrics.Accuracy())])
def test_one_metric_without_brackets_is_refused(metrics):
    with pytest.raises(TypeError, match=r"metrics: expected a list of names or metrics, got .*Put it in brackets"):
        resolve(metrics)


@pytest.mark.parametrize(("name", "ours"), [("mae", "mean_absolute_error"), ("AUROC", "auc"), ("acc", "accuracy")])
def test_the_name_of_another_library_is_refused_with_the_name_here(name, ours):
    with pytest.raises(ValueError, match=f"'{name}' is not known. Write '{ours}'. Known by name"):
        resolve([name])


def test_each_name_that_is_advised_is_known():
    assert len(resolve(sorted(set(_ELSEWHERE.values())))) > 5


def test_an_error_in_a_metric_names_the_metric():
    per_text = Mean(lambda output, target: output[:, 0, 0], "first")
    samples = np.zeros((4, 2, 4), np.float32), np.zeros((4, 2), np.int32), np.ones((4, 2), np.float32)
    loop = small.training_loop(training=jl.TrainingEpochs(samples, 4), metrics=[per_text])
    with pytest.raises(ValueError, match="leading axes of what it weighs") as caught:
        loop.fit(small.model(), 1)
    assert any(note.startswith("jaxloop: in metric 'first', training batch 1") for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("name", "less"),
    [
        ("validation_loss", True),
        ("perplexity", True),
        ("top5_accuracy", False),
        ("matthews_correlation_coefficient", False),
        ("score", None),
        ("accuracy_error", None),
        ("validation_macro_f1", False),
        ("digit_auc", False),
        ("average_precision", False),
        ("r2", False),
        ("layer2_loss", True),
        ("auc_loss", True),
        ("mean_absolute_error", True),
    ],
)
def test_a_name_tells_whether_less_is_better(name, less) -> None:
    assert less_is_better(name) is less
