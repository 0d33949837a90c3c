"""Metrics: pure accumulators over a phase, exact under weights and padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight, weighted_sum


@runtime_checkable
class Metric(Protocol):
    """What a metric is: a small frozen object with a name and three pure functions.

    `init()` makes the empty accumulator, a PyTree of arrays; `update` adds one batch; `compute` gives the
    statistic of all that was added, float[]. `update` is given by keyword what the step holds: `output` and
    `target` (PyTree), `loss` (what the loss function gave: one per example or token, or a scalar), `weight`
    ((batch,), (batch, tokens) or None). What has weight 0 is padding and must not count.
    """

    @property
    def name(self) -> str: ...

    def init(self) -> Any: ...

    def update(self, state: Any, *, output: Any, target: Any, loss: Any, weight: Any) -> Any: ...

    def compute(self, state: Any) -> jax.Array: ...


def empty_mean() -> dict[str, Any]:
    """The empty accumulator of a weighted mean: sum and weight, each with its rounding error so far."""
    return {name: np.float32(0) for name in ("sum", "sum_error", "weight", "weight_error")}


def add_to_mean(state: dict[str, Any], values: jax.Array, weight: jax.Array) -> dict[str, Any]:
    """Adds per-example `values` under `weight`, both of one shape.

    Sums are compensated (Knuth's two-sum), so that a mean over a million batches is right to float32's
    last digits, and a count of examples is exact up to 2**48, where an int32 would end at 2**31.
    """
    total, total_error = _two_sum(state["sum"], weighted_sum(values, weight))
    count, count_error = _two_sum(state["weight"], jnp.sum(weight))
    return {
        "sum": total,
        "sum_error": state["sum_error"] + total_error,
        "weight": count,
        "weight_error": state["weight_error"] + count_error,
    }


def mean_of(state: dict[str, Any]) -> jax.Array:
    """The weighted mean so far, float32[]; NaN when nothing has been added."""
    total = jnp.where(jnp.isfinite(state["sum"]), state["sum"] + state["sum_error"], state["sum"])
    return jnp.divide(total, state["weight"] + state["weight_error"])


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """`a + b` as rounded, and what the rounding lost (Knuth, TAOCP vol. 2, section 4.2.2, theorem B)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


@dataclass(frozen=True)
class Loss:
    """The mean of the losses of all examples (or tokens) seen. Always measured, as `"loss"`.

    A scalar loss counts as often as its batch has examples (by weight, if there are weights).
    """

    name: str = "loss"

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        if jnp.ndim(loss) == 0:
            examples = _leading_axis(target if jax.tree.leaves(target) else output)
            count = jnp.float32(examples) if weight is None else jnp.sum(weight)
            return add_to_mean(state, loss, count)
        return add_to_mean(state, loss, spread_weight(weight, loss.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class Accuracy:
    """The share of examples (or tokens) whose largest logit is at the target's class.

    `output` is float[..., classes]; `target` int[...] or, as probabilities, float[..., classes].
    """

    name: str = "accuracy"

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        predicted = jnp.argmax(output, axis=-1)
        if target.shape == output.shape and target.ndim > 1:
            target = jnp.argmax(target, axis=-1)
        if target.shape != predicted.shape:
            raise ValueError(
                f"accuracy: an output of shape {output.shape} needs integer targets of shape "
                f"{predicted.shape}, or probabilities of the output's shape, got {target.shape}."
            )
        correct = (predicted == target).astype(jnp.float32)
        return add_to_mean(state, correct, spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


_BY_NAME = {"loss": Loss, "accuracy": Accuracy}
_POSITION = ("step", "epoch", "epoch_index", "epoch_count", "batch", "batch_index", "batch_count")
_ROW_NAMES = frozenset((*_POSITION, "phase", "stop", "counted", "seconds", "examples_per_second"))


def check_name(where: str, name: str) -> None:
    """Refuses a statistic's name that rows and logs have for something else.

    Raises:
      ValueError: it is one of those names.
    """
    if name in _ROW_NAMES:
        raise ValueError(f"{where}: {name!r} is a column that every log has; choose another name.")


def resolve(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """The metrics named or given, `Loss` first.

    Raises:
      ValueError: a name that is not known, that two metrics share, or that logs have for something else.
      TypeError: an object that is no `Metric`, or a single name in place of a list.
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
        if given not in _BY_NAME:
            raise ValueError(f"metrics: {given!r} is not known. Known by name: {', '.join(sorted(_BY_NAME))}.")
        return _BY_NAME[given]()
    if not isinstance(given, Metric) or isinstance(given, type):
        raise TypeError(
            "metrics: each must be a name or have `name`, `init`, `update` and `compute`, "
            f"got {given!r}." + (" Call it: " + given.__name__ + "()." if isinstance(given, type) else "")
        )
    return given


def _leading_axis(tree: Any) -> int:
    return jnp.shape(jax.tree.leaves(tree)[0])[0]
