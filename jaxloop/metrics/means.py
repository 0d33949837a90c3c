"""Compensated means over a phase: of the loss, of any function, and the exponential of the mean loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.broadcasting import check_spread
from jaxloop.losses import spread_weight, weighted_sum
from jaxloop.measured import is_measured, unmeasured
from jaxloop.output_losses import OutputLoss
from jaxloop.outputs import Key, output_and_target


def empty_mean() -> dict[str, Any]:
    """The empty accumulator of a weighted mean: sum and weight, each with its rounding error so far.

    Example:
      >>> mean_of(add_to_mean(empty_mean(), jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      Array(2., dtype=float32)
    """
    return {name: np.float32(0) for name in ("sum", "sum_error", "weight", "weight_error")}


def add_to_mean(state: dict[str, Any], values: jax.Array, weight: jax.Array) -> dict[str, Any]:
    """Adds per-example `values` with their `weight`; both have the same shape.

    The sums are float32 and compensated (Knuth's two-sum). So a mean over a million batches is right to the last digits
    of float32, and a count of examples is exact up to 2**48, while an int32 ends at 2**31.

    Example:
      >>> mean_of(add_to_mean(empty_mean(), jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
      Array(1.5, dtype=float32)
    """
    total, total_error = two_sum(state["sum"], weighted_sum(values, weight).astype(jnp.float32))
    count, count_error = two_sum(state["weight"], jnp.sum(weight))
    return {
        "sum": total,
        "sum_error": state["sum_error"] + total_error,
        "weight": count,
        "weight_error": state["weight_error"] + count_error,
    }


def mean_of(state: dict[str, Any]) -> jax.Array:
    """The weighted mean so far, float32[]. While the weight is 0 it is the NaN `unmeasured(jnp.float32)`.

    Example:
      >>> mean_of(add_to_mean(empty_mean(), jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])))
      Array(1., dtype=float32)
    """
    # The error of an infinite sum is NaN: it must not turn an infinite mean into a NaN.
    total = jnp.where(jnp.isfinite(state["sum"]), state["sum"] + state["sum_error"], state["sum"])
    weight = state["weight"] + state["weight_error"]
    return jnp.where(weight == 0, unmeasured(jnp.float32), jnp.divide(total, jnp.where(weight == 0, 1, weight)))


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum `a + b`, and what the rounding has lost (Knuth, TAOCP vol. 2, section 4.2.2, theorem B)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


@dataclass(frozen=True)
class Loss:
    """The mean loss of all examples (or tokens) so far. It is always measured, as `"loss"`.

    Losses are counted, not the rows of the input: a batch of several graphs has one for each graph or node. A scalar
    loss counts once for each example in its batch; if there are weights, with the sum of the weights.

    Args:
      name: the name of the statistic.
      part: one of several losses by output, which is measured without its weight; None for the whole loss. Each is
        measured, as `"digit_loss"`.

    Example:
      >>> metric = Loss()
      >>> state = metric.update(metric.init(), output=None, target=None, loss=jnp.array([1.0, 3.0]), weight=None)
      >>> metric.compute(state)
      Array(2., dtype=float32)
    """

    name: str = "loss"
    part: OutputLoss | None = None

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        loss = loss if self.part is None else self.part(output, target)
        if jnp.ndim(loss) == 0:
            weights = None if weight is None else jnp.asarray(weight, jnp.float32)
            count = jnp.float32(_example_count(target, output)) if weights is None else jnp.sum(weights)
            return add_to_mean(state, loss, count)
        return add_to_mean(state, loss, spread_weight(weight, loss.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class Perplexity:
    """The exponential of the mean loss of all tokens (or examples) so far.

    `exp(sum_i w_i loss_i / sum_i w_i)`, for losses in nats, as `losses.softmax_cross_entropy` gives them (Jelinek et
    al., 1977). A model that gives n tokens the same probability has perplexity n.

    Args:
      name: the name of the statistic.
      part: as in `Loss`.

    Example:
      >>> metric = Perplexity()
      >>> loss = jnp.log(jnp.array([[2.0, 8.0], [4.0, 1.0]]))
      >>> state = metric.update(metric.init(), output=None, target=None, loss=loss, weight=jnp.array([1.0, 0.0]))
      >>> round(float(metric.compute(state)), 4)
      4.0
    """

    name: str = "perplexity"
    part: OutputLoss | None = None

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        return Loss(part=self.part).update(state, output=output, target=target, loss=loss, weight=weight)

    def compute(self, state: dict[str, Any]) -> jax.Array:
        mean = mean_of(state)
        return jnp.where(is_measured(mean), jnp.exp(mean), mean)


@dataclass(frozen=True)
class Mean:
    """The weighted mean of `fn(output, target)`, which gives a value per example or token: `sum w_i v_i / sum w_i`.

    Args:
      fn: takes output and target, and gives float[batch] or float[batch, tokens]; for example a loss function. One that
        broadcasts (batch, 1) and (batch,) to all pairs is refused.
      name: the name of the statistic.
      output, target: as in `Accuracy`; `fn` is given these parts.

    Example:
      >>> from jaxloop import losses
      >>> metric = Mean(losses.mean_absolute_error, "mean_absolute_error")
      >>> output, target = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=jnp.array([1, 1, 0]))
      >>> metric.compute(state)
      Array(1., dtype=float32)
    """

    fn: Callable[[Any, Any], jax.Array]
    name: str
    output: Key | None = None
    target: Key | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn) or not isinstance(self.name, str):
            raise TypeError(
                f"Mean: expected a function of (output, target) and a name, got {self.fn!r} and {self.name!r}. "
                'Write Mean(fn, "name").'
            )

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_spread(self.name, self.fn, output, target)
        values = jnp.asarray(self.fn(output, target))
        batch = _example_count(weight, loss if getattr(loss, "ndim", 0) else None, target, output)
        if values.shape[:1] != (batch,):
            raise ValueError(
                f"{self.name}: `fn` must give one value per example, of shape ({batch},), or per token, got "
                f"{values.shape}. Leave the mean over the batch to the metric."
            )
        return add_to_mean(state, values, spread_weight(weight, values.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


def _example_count(*parts: Any) -> int:
    """The leading axis of the first leaf of `parts`; 1 if there is no leaf, or it has no axis."""
    shape = [jnp.shape(leaf) for leaf in jax.tree.leaves(parts)[:1]]
    return shape[0][0] if shape and shape[0] else 1
