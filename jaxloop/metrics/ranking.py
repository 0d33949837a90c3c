"""Areas under curves: how well scores rank examples of a class above the others, from histograms of the scores."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.measured import unmeasured
from jaxloop.metrics.labels import check_arrays, check_classes, class_count, each_alone, labels, single_logit
from jaxloop.metrics.means import two_sum
from jaxloop.outputs import Key, name_by_output, output_and_target
from jaxloop.precision import widened
from jaxloop.whole_number import whole_number

_LARGEST = 1e6  # the logit beyond which scores are not told apart


@dataclass(frozen=True)
class _Area:
    """What areas have in common: the histograms that they are computed from. The fields are as `AUC` says."""

    thresholds: int = 4096
    classes: int | None = None
    multilabel: bool = False
    name: str = ""
    output: Key | None = None
    target: Key | None = None
    title: ClassVar[str]

    def __post_init__(self) -> None:
        where = type(self).__name__
        if whole_number(f"{where}: `thresholds`", self.thresholds) < 2:
            raise ValueError(f"{where}: `thresholds` must be at least 2, got 1. Leave it out for 4096.")
        check_classes(where, self.classes, least=1)
        object.__setattr__(self, "name", self.name or name_by_output(self.title, self.output))

    @property
    def one_class(self) -> bool:
        """Whether targets of the output's shape must be probabilities of one class."""
        return not self.multilabel

    def bind(self, output: Any, target: Any) -> Self:
        """The metric with the number of curves that the shapes of output and target show."""
        if self.classes is not None:
            return self
        count = class_count(self.name, *output_and_target(self.name, output, target, self.output, self.target))
        single = count is None or (count == 2 and not self.multilabel)
        return dataclasses.replace(self, classes=1 if single else count)

    def init(self) -> dict[str, Any]:
        """The weight of the others (0) and of the class (1), by curve and by threshold; and whether there was a NaN."""
        shape = (2, self.classes or 1, self.thresholds)
        return {name: np.zeros(shape, np.float32) for name in ("weight", "weight_error")} | {"nan": np.float32(0)}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        """The histograms with those of one batch."""
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_arrays(self.name, output, target)
        curves = state["weight"].shape[1]
        scores, is_own, counts = _scores(self, curves, output, target)
        # The weight is of examples, and each curve counts all of them.
        weight = jnp.where(counts, spread_weight(weight, scores.shape[:-1]), 0).reshape(-1, 1)
        scores, is_own = scores.reshape(-1, curves), is_own.reshape(-1, curves)
        is_nan = jnp.isnan(scores) | jnp.isnan(is_own)
        own = jnp.where(is_nan, 0, is_own)
        weights = jnp.stack([(1 - own) * weight, own * weight])
        total, error = two_sum(state["weight"], _histogram(jnp.where(is_nan, 0, scores), weights, self.thresholds))
        nan = jnp.any(is_nan & (weight != 0)).astype(jnp.float32)
        return {"weight": total, "weight_error": state["weight_error"] + error, "nan": jnp.maximum(state["nan"], nan)}


@dataclass(frozen=True)
class AUC(_Area):
    """The area under the ROC curve: how often an example of the class 1 scores above one of the class 0.

        sum over pairs of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum over pairs of w_i w_j

    It is scikit-learn's `roc_auc_score` of scores that are rounded down to fixed thresholds, so pairs between the same
    two thresholds count as ties. Its error is at most half the share of these pairs: `error_bound(state)`. With the
    default of 4096 thresholds that is below 2e-3 for logits that are spread over a unit or more. The error itself is
    far smaller, since the pairs differ in both directions.

    The thresholds are on the scale of the logit, not of its sigmoid, so confident scores do not become equal. They lie
    evenly in `asinh(logit)`: 0.007 apart at 0, and 0.7 per cent apart from a logit of 2 on, up to one million. So give
    logits: probabilities rank the same, but lie between 140 thresholds.

    | `output` | score |
    | --- | --- |
    | float[batch], float[..., 1] | the logit, which ranks as its sigmoid |
    | float[..., 2] | the difference of the two logits, which is the logit of the probability of the class 1 |
    | float[..., classes] | of each class, the logit of its probability; the mean of one against the rest |
    | float[..., labels] with `multilabel` | each logit; the mean over the labels |

    While a class has no examples, or no others have been seen, it is not measured: NaN. A score or a target that is NaN
    makes it NaN. Targets are as in `Accuracy`; of one logit or with `multilabel` a target above 1/2 is 1. Examples
    whose target is none of the classes are left out.

    Args:
      thresholds: how many, at least 2. Of many classes take fewer: each step goes through those of all classes. On a
        GPU fractional weights of several classes are added in any order, so that last digits may differ.
      classes: how many curves: 1 for one or two logits, else the size of the last axis. With None a `TrainingLoop`
        finds it out from the first batch; by itself None means 1.
      multilabel: whether each logit answers an independent question by yes or no.
      name: the name of the statistic, by default `"auc"`.
      output, target: as in `Accuracy`.

    Example:
      >>> metric = AUC()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 1, 0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
      >>> metric.compute(state), metric.error_bound(state)
      (Array(0.75, dtype=float32), Array(0., dtype=float32))
    """

    title: ClassVar[str] = "auc"

    def compute(self, state: dict[str, Any]) -> jax.Array:
        others, own = _shares(state)
        below = jnp.cumsum(others, axis=-1) - others / 2
        return _mean_of_curves(state, jnp.sum(own * below, axis=-1))

    def error_bound(self, state: dict[str, Any]) -> jax.Array:
        """By how much the statistic may differ from that without thresholds, float32[]."""
        others, own = _shares(state)
        return jnp.mean(jnp.sum(own * others, axis=-1)) / 2


@dataclass(frozen=True)
class AveragePrecision(_Area):
    """The area under the curve of precision and recall: the mean of the precision at the score of each positive.

    `sum_k (recall_k - recall_(k-1)) precision_k` over thresholds from the highest on, which is scikit-learn's
    `average_precision_score` of scores that are rounded down to fixed thresholds. Its error is at most
    `error_bound(state)`: each positive counts with a precision between the least and the largest that there is between
    its two thresholds. All else is as in `AUC`; but it is measured as soon as each class has an example.

    Example:
      >>> metric = AveragePrecision()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 1, 0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
      >>> round(float(metric.compute(state)), 4)
      0.8333
    """

    title: ClassVar[str] = "average_precision"

    def compute(self, state: dict[str, Any]) -> jax.Array:
        own, (true, false), _ = _from_the_top(state)
        return _mean_of_curves(state, jnp.sum(own * _precision(true, false), axis=-1), needs_others=False)

    def error_bound(self, state: dict[str, Any]) -> jax.Array:
        """As in `AUC`."""
        own, (true, false), (true_before, false_before) = _from_the_top(state)
        width = _precision(true, false_before) - _precision(true_before, false)
        return jnp.mean(jnp.sum(own * width, axis=-1))


@functools.cache
def _thresholds(count: int) -> np.ndarray:
    """The inner thresholds, float32[count - 1], ascending and symmetric about 0."""
    most = math.asinh(_LARGEST)
    return np.sinh(np.linspace(-most, most, count + 1)[1:-1]).astype(np.float32)


def _histogram(scores: jax.Array, weights: jax.Array, count: int) -> jax.Array:
    """The sum of the weights between each two thresholds, float32[2, curves, count].

    Args:
      scores: float32[examples, curves].
      weights: float32[2, examples, curves].
      count: how many thresholds there are.
    """
    place = jnp.searchsorted(jnp.asarray(_thresholds(count)), scores, side="right", method="scan_unrolled")
    curves = scores.shape[1]
    if curves > 1:
        return jnp.zeros((2, curves, count), jnp.float32).at[:, jnp.arange(curves), place].add(weights)
    # The index of a threshold is taken apart into two digits, and the sum of the products of their indicators is a
    # multiplication of matrices. So its order is fixed, which that of a scatter on a GPU is not.
    base = math.isqrt(count - 1) + 1
    high, low = (jax.nn.one_hot(digit[:, 0], base, dtype=jnp.float32) for digit in jnp.divmod(place, base))
    sums = jnp.einsum("wnc,nh,nl->wchl", weights, high, low, precision="highest")
    return sums.reshape(2, 1, -1)[..., :count]


def _scores(metric: _Area, curves: int, output: Any, target: Any) -> tuple[jax.Array, jax.Array, Any]:
    """The score of each example on each curve, float32[..., curves]; 1 where it is of the class, 0 or NaN.

    And whether each example is of any class: bool[...] or True.
    """
    counts: Any = True
    if metric.multilabel:
        scores, target = each_alone(metric.name, output, target)
        if scores.ndim < 2 or (scores.shape[-1] != curves and curves == 1):
            scores, target = scores[..., None], target[..., None]
        own = _yes(target)
    elif (single := single_logit(output, target)) is not None:
        scores, own = single[0][..., None], _yes(single[1])[..., None]
    else:
        label = labels(metric.name, output, target)[1]
        logits = widened(output)
        counts = ~((label < 0) | (label >= logits.shape[-1]))  # a label that is NaN is none of these
        several = logits.shape[-1] > 2
        scores = _log_odds(logits) if several else logits[..., 1:] - logits[..., :1]
        own = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)[..., 0 if several else 1 :]
        if jnp.issubdtype(target.dtype, jnp.floating):
            bad = jnp.isnan(target) if target.ndim < output.ndim else jnp.any(jnp.isnan(target), axis=-1)
            own = jnp.where(bad[..., None], jnp.nan, own)
    if scores.shape[-1] != curves:
        raise ValueError(
            f"{metric.name}: it is of {curves} curves, got an output of shape {output.shape} for targets of shape "
            f"{target.shape}. Make `classes` the size of the last axis, 1 for one or two logits, or leave it out."
        )
    return widened(scores).astype(jnp.float32), own, counts


def _yes(target: Any) -> jax.Array:
    target = target.astype(jnp.float32)
    return jnp.where(jnp.isnan(target), target, (target > 0.5).astype(jnp.float32))


def _log_odds(logits: jax.Array) -> jax.Array:
    """The logit of the softmax of each class: its own logit less the log of the sum of the exponentials of the others.

    A probability near 1 has no digits left to tell it from 1, so for the largest logit the others are summed again.
    """
    first = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(first, -jnp.inf, logits), axis=-1, keepdims=True)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    beside = log_probability - jnp.log1p(-jnp.exp(jnp.where(first, -1.0, log_probability)))
    return jnp.where(first, logits - others, beside)


def _counts(state: dict[str, Any]) -> jax.Array:
    return state["weight"] + state["weight_error"]


def _shares(state: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Of the others and of the class: the share between each two thresholds, float32[curves, thresholds]."""
    counts = _counts(state)
    total = jnp.sum(counts, axis=-1, keepdims=True)
    others, own = counts / jnp.where(total == 0, 1, total)
    return others, own


def _from_the_top(state: dict[str, Any]) -> tuple[Any, tuple[Any, Any], tuple[Any, Any]]:
    """From the highest threshold on: the share of the class, and the sums of class and others with it and before it."""
    others, own = (jnp.flip(each, axis=-1) for each in _counts(state))
    false, true = jnp.cumsum(others, axis=-1), jnp.cumsum(own, axis=-1)
    before = [jnp.pad(each[..., :-1], ((0, 0), (1, 0))) for each in (true, false)]
    return jnp.flip(_shares(state)[1], axis=-1), (true, false), (before[0], before[1])


def _precision(true: Any, false: Any) -> Any:
    """`true / (true + false)`; 1 where there is nothing false."""
    return jnp.where(false == 0, 1.0, true / jnp.where(false == 0, 1, true + false))


def _mean_of_curves(state: dict[str, Any], areas: jax.Array, *, needs_others: bool = True) -> jax.Array:
    """The mean area; not measured where a curve lacks examples, and NaN after a NaN."""
    totals = jnp.sum(_counts(state), axis=-1)
    lacks = jnp.any(totals[1] == 0) | (needs_others & jnp.any(totals[0] == 0))
    area = jnp.where(lacks, unmeasured(jnp.float32), jnp.mean(areas))
    return jnp.where(state["nan"] > 0, jnp.nan, area)
