"""Precision, recall and F1, of one class or averaged over several, from sums for each class."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.measured import unmeasured
from jaxloop.metrics.labels import (
    check_arrays,
    check_classes,
    class_count,
    each_alone,
    known,
    labels,
    logit_count,
    single_logit,
    yes_or_no,
)
from jaxloop.metrics.means import two_sum
from jaxloop.outputs import Key, name_by_output, output_and_target

Average = Literal["binary", "macro", "micro", "weighted"]


@dataclass(frozen=True)
class _ByClass:
    """What the three have in common, which is all but the score. The fields are as `Precision` says."""

    average: Average = "binary"
    classes: int | None = None
    multilabel: bool = False
    name: str = ""
    output: Key | None = None
    target: Key | None = None
    score: ClassVar[str]

    def __post_init__(self) -> None:
        where = type(self).__name__
        averages = ("binary", "macro", "micro", "weighted")
        if self.average not in averages:
            raise ValueError(f"{where}: `average` must be {' or '.join(map(repr, averages))}, got {self.average!r}.")
        if self.average == "binary" and self.multilabel:
            raise ValueError(f'{where}: several labels must be averaged. Write {where}("macro", multilabel=True).')
        check_classes(where, self.classes, least=1 if self.multilabel else 2)
        name = self.score if self.average == "binary" else f"{self.average}_{self.score}"
        object.__setattr__(self, "name", self.name or name_by_output(name, self.output))

    @property
    def one_class(self) -> bool:
        """Whether targets of the output's shape must be probabilities of one class."""
        return not self.multilabel

    def bind(self, output: Any, target: Any) -> Self:
        """The metric with the number of classes that the shapes of output and target show."""
        if self.classes is not None:
            return self
        classes = class_count(self.name, *output_and_target(self.name, output, target, self.output, self.target))
        return dataclasses.replace(self, classes=classes or (1 if self.multilabel else 2))

    def init(self) -> dict[str, Any]:
        """The sums: of each class, float32[3, classes]: right, predicted, true; and the weight of all examples."""
        sums = np.zeros((3, self.classes or 2), np.float32)
        zero = np.float32(0)
        return {"sums": sums, "sums_error": np.zeros_like(sums), "weight": zero, "weight_error": zero}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        """The sums with those of one batch."""
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_arrays(self.name, output, target)
        classes = state["sums"].shape[1]
        parts = (_of_labels if self.multilabel else _of_classes)(self, classes, output, target, weight)
        predicted, true, weight = parts
        batch = jnp.stack([jnp.sum(part * weight[:, None], axis=0) for part in (predicted * true, predicted, true)])
        sums, error = two_sum(state["sums"], batch)
        total, total_error = two_sum(state["weight"], jnp.sum(weight))
        return {
            "sums": sums,
            "sums_error": state["sums_error"] + error,
            "weight": total,
            "weight_error": state["weight_error"] + total_error,
        }

    def compute(self, state: dict[str, Any]) -> jax.Array:
        """The average score of the sums so far, float32[]; not measured if nothing was added."""
        right, predicted, true = state["sums"] + state["sums_error"]
        weight = state["weight"] + state["weight_error"]
        if self.average == "binary":
            score = _score(self.score, right[1], predicted[1], true[1])
        elif self.average == "micro":
            score = _score(self.score, jnp.sum(right), jnp.sum(predicted), jnp.sum(true))
        else:
            scores = _score(self.score, right, predicted, true)
            occurs = jnp.ones_like(true) if self.multilabel else (predicted + true > 0).astype(jnp.float32)
            share = true if self.average == "weighted" else occurs
            score = _ratio(jnp.sum(scores * share), jnp.sum(share))
        return jnp.where(weight == 0, unmeasured(jnp.float32), score)


@dataclass(frozen=True)
class Precision(_ByClass):
    """The share of right predictions among those of a class: `right / predicted`, as weights.

    Right are the examples (or tokens) of the class that were predicted to be of it. All is as in scikit-learn's
    `precision_score`, with the weights as `sample_weight`:

    | `average` | what it is | name |
    | --- | --- | --- |
    | `"binary"` | of the class 1, from one logit or two | `precision` |
    | `"macro"` | the mean over classes | `macro_precision` |
    | `"micro"` | of the sums over all classes | `micro_precision` |
    | `"weighted"` | the mean over classes, weighted by their examples | `weighted_precision` |

    Where nothing is divided by nothing the score of a class is 0: a class without predictions has precision 0, and one
    that does not occur has recall 0. The macro mean leaves out a class that neither occurs nor was predicted so far
    (with `multilabel` it counts as 0, also as in scikit-learn).

    A prediction is the class of the largest logit, or of one logit whether it is above 0. An example with a NaN in its
    logits or target is wrong: of two classes it is predicted to be of the other, of more to be of none. Examples whose
    target is none of the classes are left out.

    Args:
      average: see above.
      classes: the number of logits (2 for one logit; with `multilabel` the number of labels). With None a
        `TrainingLoop` finds it out from the first batch; by itself None means 2.
      multilabel: whether each logit answers an independent question by yes or no; see `Accuracy`. Then the classes are
        the labels, and an answer from a NaN is wrong.
      name: the name of the statistic; see above.
      output, target: as in `Accuracy`.

    Example:
      >>> metric = Precision()
      >>> output, target = jnp.array([3.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 0, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    score: ClassVar[str] = "precision"


@dataclass(frozen=True)
class Recall(_ByClass):
    """The share of right predictions among the examples of a class: `right / true`. All else is as in `Precision`.

    Example:
      >>> metric = Recall("macro", classes=2)
      >>> output, target = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.75, dtype=float32)
    """

    score: ClassVar[str] = "recall"


@dataclass(frozen=True)
class F1(_ByClass):
    """The harmonic mean of precision and recall of a class: `2 right / (predicted + true)`. Else as `Precision`.

    The macro average is the mean of the F1 of each class, not the F1 of the means.

    Example:
      >>> metric = F1("macro", classes=3)
      >>> output, target = jnp.eye(3)[jnp.array([0, 1, 1, 2])], jnp.array([0, 1, 2, 2])
      >>> round(float(metric.compute(metric.update(metric.init(), output=output, target=target, loss=None,
      ...                                          weight=None))), 4)
      0.7778
    """

    score: ClassVar[str] = "f1"


def _of_classes(metric: _ByClass, classes: int, output: Any, target: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Whether each example was predicted to be of each class, whether it is, float32[examples, classes]; its weight."""
    single = single_logit(output, target)
    count = logit_count(output) if single is None else 2
    if count != classes or (metric.average == "binary" and count != 2):
        raise ValueError(
            f"{metric.name}: it is of {classes} classes, got an output of shape {output.shape} for targets of shape "
            f"{target.shape}. Of more than two classes choose an average, such as 'macro_{metric.score}'; `classes` "
            "must be the size of the output's last axis, or 2 for one logit."
        )
    predicted, label = labels(metric.name, output, target) if single is None else yes_or_no(*single)
    label = jnp.where(jnp.isnan(label), 0, label) if jnp.issubdtype(label.dtype, jnp.floating) else label
    wrong = 1 - label if classes == 2 else jnp.full_like(label, -1)
    predicted = jnp.where(known(output, target, single), predicted.astype(label.dtype), wrong)
    inside = (label >= 0) & (label < classes)
    weight = jnp.where(inside, spread_weight(weight, label.shape), 0).reshape(-1)
    one_hot = functools.partial(jax.nn.one_hot, num_classes=classes, dtype=jnp.float32)
    return one_hot(predicted.reshape(-1)), one_hot(label.reshape(-1)), weight


def _of_labels(metric: _ByClass, classes: int, output: Any, target: Any, weight: Any) -> tuple[Any, Any, Any]:
    """As `_of_classes`, of independent labels."""
    logits, target = each_alone(metric.name, output, target)
    if logits.ndim < 2 or (logits.shape[-1] != classes and classes == 1):
        logits, target = logits[..., None], target[..., None]
    if logits.shape[-1] != classes:
        raise ValueError(
            f"{metric.name}: it is of {classes} labels, got an output of shape {output.shape}. Make `classes` the size "
            "of the output's last axis, or leave it out."
        )
    predicted, true = yes_or_no(logits, target)
    predicted = jnp.where(known(output, target, (logits, target)), predicted, 1 - true)
    weight = spread_weight(weight, true.shape[:-1]).reshape(-1)
    predicted, true = (each.reshape(-1, classes).astype(jnp.float32) for each in (predicted, true))
    return predicted, true, weight


def _score(name: str, right: Any, predicted: Any, true: Any) -> Any:
    if name == "f1":
        return _ratio(2 * right, predicted + true)
    return _ratio(right, predicted if name == "precision" else true)


def _ratio(part: Any, whole: Any) -> Any:
    """`part / whole`, and 0 where both are 0."""
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))
