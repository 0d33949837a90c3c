"""The protocol of a metric, and the metrics that can be chosen by name."""

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from jaxloop.metrics.classification import Accuracy, MatthewsCorrelationCoefficient, TopKAccuracy
from jaxloop.metrics.means import Loss, Perplexity


@runtime_checkable
class Metric(Protocol):
    """A metric: a small frozen object with a name and three pure functions.

    `init()` makes the empty accumulator, a PyTree of arrays. `update` adds one batch. `compute` gives the statistic of
    everything that was added: float[], or int32[] for a count. If nothing was added, it should give
    `jaxloop.measured.unmeasured("float32")`, since any other NaN means that the statistic has diverged.

    `update` gets these keywords from the step: `output` and `target`, PyTrees; `loss`, what the loss function gave: one
    per example or token, or a scalar; and `weight`, of shape (batch,) or (batch, tokens), or None. Examples and tokens
    of weight 0 are padding and must not count.
    """

    @property
    def name(self) -> str: ...

    def init(self) -> Any: ...

    def update(self, state: Any, *, output: Any, target: Any, loss: Any, weight: Any) -> Any: ...

    def compute(self, state: Any) -> jax.Array: ...


_BY_NAME = {metric().name: metric for metric in (Loss, Accuracy, Perplexity, MatthewsCorrelationCoefficient)}
_POSITION = ("step", "epoch", "epoch_index", "epoch_count", "batch", "batch_index", "batch_count")
_ROW_NAMES = frozenset((*_POSITION, "phase", "stop", "counted", "seconds", "examples_per_second"))


def check_name(where: str, name: str) -> None:
    """Refuses a name for a statistic that rows and logs use for something else.

    Raises:
      ValueError: the name is used.
    """
    if name in _ROW_NAMES:
        raise ValueError(f"{where}: {name!r} is a column that every log has; choose another name.")


def less_is_better(name: str) -> bool | None:
    """Whether a smaller value of a statistic is better, as its name tells; None if the name does not tell."""
    less, more = (any(word in name for word in words) for words in _DIRECTIONS)
    return None if less == more else less


_DIRECTIONS = (("loss", "error", "perplexity"), ("accuracy", "matthews"))


def resolve(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """The metrics that are named or given, with `Loss` as the first.

    Raises:
      ValueError: a name is not known, or two metrics have the same name, or logs use it for something else.
      TypeError: an object is not a `Metric`, or `metrics` is a single name, not a list.
    """
    if isinstance(metrics, str):
        raise TypeError(f"metrics: expected a list of names or metrics, got {metrics!r}. Put it in brackets.")
    found: list[Metric] = [Loss()]
    for given in metrics:
        metric = _one(given)
        if isinstance(metric, Loss) and metric.name == "loss":
            continue
        check_name("metrics", metric.name)
        if any(metric.name == other.name for other in found):
            raise ValueError(f"metrics: two metrics are named {metric.name!r}; give one another `name`.")
        found.append(metric)
    return tuple(found)


def _one(given: str | Metric) -> Metric:
    if isinstance(given, str):
        top = re.fullmatch(r"top([1-9]\d*)_accuracy", given)
        if top:
            return TopKAccuracy(int(top[1]))
        if given not in _BY_NAME:
            known = ", ".join(sorted([*_BY_NAME, "top5_accuracy"]))
            raise ValueError(f"metrics: {given!r} is not known. Known by name: {known} (and any other top<k>).")
        return _BY_NAME[given]()
    if not isinstance(given, Metric) or isinstance(given, type):
        raise TypeError(
            "metrics: each must be a name or have `name`, `init`, `update` and `compute`, "
            f"got {given!r}." + (" Call it: " + given.__name__ + "()." if isinstance(given, type) else "")
        )
    return given
