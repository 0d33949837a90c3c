"""Metrics of metrax as ours: the same numbers, with what weighs nothing left out."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.measured import is_measured
from jaxloop.metrics import from_metrax

with_metrax = pytest.mark.skipif(find_spec("metrax") is None, reason="metrax is not installed: jaxloop[metrax]")

ROWS = 43
RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.uniform(size=ROWS) < 0.4).astype(np.float32)
LOGITS = (RANDOM.normal(size=ROWS) + 2 * LABELS - 1).astype(np.float32)
COUNTS = (np.arange(ROWS) % 5 > 0).astype(np.float32)
WEIGHT = (RANDOM.uniform(0.5, 2, ROWS) * COUNTS).astype(np.float32)


def as_probability(output: Any, target: Any) -> dict[str, Any]:
    return {"predictions": jax.nn.sigmoid(output), "labels": target}


def evaluated(metrics: Any, weight: Any, steps: Any = 4) -> dict[str, Any]:
    """The metrics over batches of which the last is filled up; what weighs nothing is NaN."""
    weight = np.ones(ROWS, np.float32) if weight is None else weight
    logits, labels = np.where(weight > 0, LOGITS, np.nan), np.where(weight > 0, LABELS, np.nan)

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input + params, state

    trainer = jl.TrainingLoop(
        [],
        optimizer=optax.sgd(0.1),
        loss_fn=lambda output, target: jnp.zeros(len(target)),
        metrics=metrics,
        steps_per_dispatch=steps,
        progress=False,
    )
    return trainer.evaluate(jl.Model(apply, np.float32(0), {}), jl.in_batches((logits, labels, weight), 8))


@dataclass(frozen=True)
class Average:
    """A metric of the form that metrax and CLU have, without weights; a pytree."""

    total: Any
    count: Any

    @classmethod
    def from_model_output(cls, predictions: Any, labels: Any, power: int = 1) -> "Average":
        return cls(jnp.sum((predictions - labels) ** power), jnp.int32(predictions.size))

    def merge(self, other: "Average") -> "Average":
        return Average(self.total + other.total, self.count + other.count)

    def compute(self) -> Any:
        return self.total / self.count


class Masked(Average):
    """The same with a mask."""

    @classmethod
    def from_model_output(cls, predictions: Any, labels: Any, power: int = 1, mask: Any = None) -> "Masked":  # type: ignore[override]
        return cls(jnp.sum((predictions - labels) ** power * mask), jnp.sum(mask, dtype=jnp.int32))

    def merge(self, other: Average) -> "Masked":
        return Masked(self.total + other.total, self.count + other.count)


class Weighed(Average):
    """The same with weights, but counts rows."""

    @classmethod
    def from_model_output(cls, predictions: Any, labels: Any, sample_weights: Any = None) -> "Weighed":  # type: ignore[override]
        return cls(jnp.sum((predictions - labels) * sample_weights), jnp.int32(predictions.size))

    def merge(self, other: Average) -> "Weighed":
        return Weighed(self.total + other.total, self.count + other.count)


class Right(Average):
    """The share of right classes."""

    @classmethod
    def from_model_output(cls, predictions: Any, labels: Any, sample_weights: Any = None) -> "Right":  # type: ignore[override]
        right = jnp.argmax(predictions, axis=-1) == labels
        return cls(jnp.sum(right * sample_weights), jnp.sum(sample_weights))

    def merge(self, other: Average) -> "Right":
        return Right(self.total + other.total, self.count + other.count)


for kind in (Average, Masked, Weighed, Right):
    jax.tree_util.register_dataclass(kind, ["total", "count"], [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Average, Masked])
def test_one_without_weights_is_told_only_what_counts(kind: Any) -> None:
    metric = from_metrax(kind, "squared", power=2)
    counts = COUNTS > 0
    expected = np.mean((LOGITS - LABELS)[counts] ** 2)
    assert evaluated([metric], COUNTS)["squared"] == pytest.approx(expected, rel=1e-5)
    assert evaluated([metric], None, 1)["squared"] == pytest.approx(np.mean((LOGITS - LABELS) ** 2), rel=1e-5)
    assert np.isnan(evaluated([metric], WEIGHT)["squared"])  # fractions cannot be told to it


def test_one_that_would_compare_all_pairs_is_refused() -> None:
    message = r"^weighed: .*\(4, 1\) and \(4,\), which it broadcasts to \(4, 4\)"
    with pytest.raises(ValueError, match=message):
        from_metrax(Weighed).bind(LOGITS[:4, None], LABELS[:4])


def test_weights_have_the_shape_of_the_target() -> None:
    output, target = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]], np.array([0, 1, 1, 1])
    metric = from_metrax(Right).bind(output, target)
    state = metric.update(metric.init(), output=output, target=target, loss=None, weight=jnp.array([1.0, 0, 2, 0.5]))
    assert metric.compute(state) == pytest.approx(1.5 / 3.5)


def test_one_that_counts_rows_whatever_they_weigh_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weighed: Weighed counts the rows of a batch, .* so padding would count"):
        evaluated([from_metrax(Weighed)], None)


def test_a_batch_of_which_nothing_counts_changes_nothing() -> None:
    metric = from_metrax(Average).bind(LOGITS[:4], LABELS[:4])
    nothing = {"output": jnp.full(4, jnp.nan), "target": jnp.full(4, jnp.nan), "loss": None, "weight": jnp.zeros(4)}
    state = metric.update(metric.init(), **nothing)
    assert not is_measured(metric.compute(state))
    state = metric.update(state, output=jnp.ones(2), target=jnp.zeros(2), loss=None, weight=None)
    assert metric.compute(metric.update(state, **nothing)) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_metrax(3), TypeError, "expected a class with `from_model_output`, `merge` and `compute`, got 3"),
        (lambda: from_metrax(np.float32(3)), TypeError, "expected a class"),
        (lambda: from_metrax(Average).init(), ValueError, "average: it must know the shapes .* Call bind"),
    ],
)
def test_what_is_no_such_metric_is_refused(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_one_that_grows_is_refused() -> None:
    @jax.tree_util.register_pytree_node_class
    class Growing(list):  # type: ignore[type-arg]
        @classmethod
        def from_model_output(cls, predictions: Any, labels: Any, mask: Any) -> "Growing":
            return cls([predictions])

        def merge(self, other: "Growing") -> "Growing":
            return Growing([*self, *other])

        def compute(self) -> Any:
            return sum(map(jnp.sum, self))

        def tree_flatten(self) -> Any:
            return list(self), None

        @classmethod
        def tree_unflatten(cls, _: Any, children: Any) -> "Growing":
            return cls(children)

    with pytest.raises(TypeError, match=r"growing: Growing grows with what is merged.*predict"):
        evaluated([from_metrax(Growing)], None)


def test_without_metrax_a_name_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metrax", None)
    with pytest.raises(ImportError, match=r'"jaxloop\[metrax\]"'):
        from_metrax("AUCROC")


@pytest.mark.slow
@with_metrax
@pytest.mark.parametrize("steps", [1, 4])
def test_metrics_of_metrax_are_those_of_metrax_itself(steps: Any) -> None:
    import metrax

    weighed = {
        metrax.AUCROC: as_probability,
        metrax.AUCPR: as_probability,
        metrax.MAE: None,
        metrax.MSE: None,
        metrax.RMSE: None,
        metrax.RSQUARED: None,
        metrax.Accuracy: lambda output, target: {"predictions": (output > 0).astype(jnp.float32), "labels": target},
    }
    metrics = [from_metrax(kind, inputs=inputs) for kind, inputs in weighed.items()]
    found = evaluated(metrics, WEIGHT, steps)
    counts = WEIGHT > 0
    for kind, inputs in weighed.items():
        given = {"predictions": LOGITS[counts], "labels": LABELS[counts]}
        given = given if inputs is None else inputs(*given.values())
        expected = kind.from_model_output(**given, sample_weights=jnp.asarray(WEIGHT[counts])).compute()
        assert found[kind.__name__.lower()] == pytest.approx(float(expected), rel=1e-5), kind


@with_metrax
def test_metrics_of_metrax_without_weights_are_masked() -> None:
    import metrax

    names = {"Precision": {"threshold": 0.3}, "Recall": {}}
    metrics = [from_metrax(name, inputs=as_probability, **options) for name, options in names.items()]
    found = evaluated(metrics, COUNTS)
    given = as_probability(jnp.asarray(LOGITS[COUNTS > 0]), jnp.asarray(LABELS[COUNTS > 0]))
    for name, options in names.items():
        expected = getattr(metrax, name).from_model_output(**given, **options).compute()
        assert found[name.lower()] == pytest.approx(float(expected), rel=1e-5), name


@with_metrax
def test_one_of_metrax_that_cannot_be_merged_is_refused() -> None:
    with pytest.raises(TypeError, match=r"fbetascore: FBetaScore has no `merge`"):
        evaluated([from_metrax("FBetaScore", inputs=as_probability)], None)


@with_metrax
def test_a_name_that_metrax_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metrax has no 'AUROC'. It has AUCPR, AUCROC"):
        from_metrax("AUROC")
