"""Errors of regression, and the share of the targets' variance that is explained."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight, weighted_sum
from jaxloop.measured import is_measured, unmeasured
from jaxloop.metrics.labels import check_arrays
from jaxloop.metrics.means import add_to_mean, empty_mean, mean_of, two_sum
from jaxloop.outputs import Key, name_by_output, output_and_target
from jaxloop.precision import widened, widened_alike


@dataclass(frozen=True)
class _MeanError:
    """A mean of what `_of` makes of the errors. The fields are as `MeanAbsoluteError` says."""

    name: str = ""
    output: Key | None = None
    target: Key | None = None
    title: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or name_by_output(self.title, self.output))

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        values = self._of(_error(self, output, target))
        return add_to_mean(state, values, spread_weight(weight, values.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)

    def _of(self, error: jax.Array) -> jax.Array:
        raise NotImplementedError


@dataclass(frozen=True)
class MeanAbsoluteError(_MeanError):
    """The mean of `|output - target|` over all examples and all that is given of each.

    Args:
      name: the name of the statistic, by default `"mean_absolute_error"`.
      output, target: as in `Accuracy`. Both arrays must have the same shape; nothing is broadcast.

    Example:
      >>> metric = MeanAbsoluteError()
      >>> output, target = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 7.0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(2., dtype=float32)
    """

    title: ClassVar[str] = "mean_absolute_error"

    def _of(self, error: jax.Array) -> jax.Array:
        return jnp.abs(error)


@dataclass(frozen=True)
class MeanSquaredError(_MeanError):
    """The mean of `(output - target)**2`; all else is as in `MeanAbsoluteError`.

    Example:
      >>> metric = MeanSquaredError()
      >>> output, target = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 7.0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
      >>> round(float(metric.compute(state)), 4)
      6.6667
    """

    title: ClassVar[str] = "mean_squared_error"

    def _of(self, error: jax.Array) -> jax.Array:
        return jnp.square(error)


@dataclass(frozen=True)
class RootMeanSquaredError(_MeanError):
    """The square root of `MeanSquaredError` over everything so far.

    For several outputs scikit-learn takes the mean of a root for each; this is the root of one mean.

    Example:
      >>> metric = RootMeanSquaredError()
      >>> output, target = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
      >>> round(float(metric.compute(state)), 4)
      1.4142
    """

    title: ClassVar[str] = "root_mean_squared_error"

    def _of(self, error: jax.Array) -> jax.Array:
        return jnp.square(error)

    def compute(self, state: dict[str, Any]) -> jax.Array:
        mean = mean_of(state)
        return jnp.where(is_measured(mean), jnp.sqrt(mean), mean)


@dataclass(frozen=True)
class R2:
    """The coefficient of determination: `1 - sum w (y - t)^2 / sum w (t - mean t)^2`, as scikit-learn's `r2_score`.

    1 is perfect, 0 is as good as the mean of the targets. The last of several axes is for different outputs, of which
    the mean is taken; all other axes are for examples. Where all targets are equal so far, it is 1 if all outputs equal
    them, else 0.

    The spread of the targets is merged from batch to batch with their mean, without a difference of large sums (Chan,
    Golub and LeVeque, The American Statistician 37, 1983). So it is right where the mean is many times the spread.

    Args:
      outputs: the size of the last axis; 1 for an output of shape (batch,). With None a `TrainingLoop` finds it out
        from the first batch; by itself None means 1.
      name: the name of the statistic, by default `"r2"`.
      output, target: as in `MeanAbsoluteError`.

    Example:
      >>> metric = R2()
      >>> output, target = jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0])
      >>> state = metric.update(metric.init(), output=output, target=target, loss=None, weight=None)
      >>> round(float(metric.compute(state)), 4)
      0.9486
    """

    outputs: int | None = None
    name: str = ""
    output: Key | None = None
    target: Key | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or name_by_output("r2", self.output))

    def bind(self, output: Any, target: Any) -> "R2":
        if self.outputs is not None:
            return self
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_arrays(self.name, output, target)
        return dataclasses.replace(self, outputs=output.shape[-1] if output.ndim > 1 else 1)

    def init(self) -> dict[str, Any]:
        """The weight, the mean of the targets, their spread about it, and the squared errors; each in two floats."""
        weights, of_each = ("weight", "weight_error"), ("mean", "spread", "residual")
        names = [f"{name}{suffix}" for name in of_each for suffix in ("", "_error")]
        sums = {name: np.zeros(self.outputs or 1, np.float32) for name in names}
        return dict.fromkeys(weights, np.float32(0)) | sums

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        error, target, weight = self._by_output(len(state["mean"]), output, target, weight)
        added, mean, spread = jnp.sum(weight), *_mean_and_spread(target, weight)
        before = state["weight"] + state["weight_error"]
        whole = before + added
        share = added / jnp.where(whole == 0, 1, whole)
        # The difference of the two means, each of which is a sum of two floats.
        step = (mean[0] - state["mean"]) + (mean[1] - state["mean_error"])
        moved, rounding = two_sum(state["mean"], step * share)
        first = before == 0  # nothing is known of a mean yet
        after = {
            "mean": jnp.where(first, mean[0], moved),
            "mean_error": jnp.where(first, mean[1], state["mean_error"] + rounding),
        }
        between = jnp.where(first, 0, jnp.square(step) * (before * share))
        parts = {"weight": added, "spread": spread + between, "residual": _sums(jnp.square(error), weight)}
        for name, part in parts.items():
            total, rounding = two_sum(state[name], part)
            after |= {name: total, f"{name}_error": state[f"{name}_error"] + rounding}
        return after

    def compute(self, state: dict[str, Any]) -> jax.Array:
        weight, spread, residual = (state[name] + state[f"{name}_error"] for name in ("weight", "spread", "residual"))
        explained = 1 - residual / jnp.where(spread == 0, 1, spread)
        scores = jnp.where(spread == 0, jnp.where(residual == 0, 1.0, 0.0), explained)
        scores = jnp.where(jnp.isnan(spread) | jnp.isnan(residual), jnp.nan, scores)
        return jnp.where(weight == 0, unmeasured(jnp.float32), jnp.mean(scores))

    def _by_output(self, outputs: int, output: Any, target: Any, weight: Any) -> tuple[Any, Any, Any]:
        """Errors and targets, float[examples, outputs], and the weight of each example.

        Raises:
          ValueError: the last axis is not that of so many outputs, or the weights are for parts of it.
        """
        error = _error(self, output, target)
        shape = error.shape if error.ndim > 1 else (*error.shape, 1)
        weighed = () if weight is None else jnp.shape(weight)
        if shape[-1] != outputs or len(weighed) >= len(shape):
            raise ValueError(
                f"{self.name}: it is of {outputs} outputs along the last axis, got an output of shape {error.shape} "
                f"and weights of shape {weighed}. Leave `outputs` out; of one number for each token make the last axis "
                "1, output[..., None], and the target's."
            )
        target = widened(output_and_target(self.name, output, target, self.output, self.target)[1])
        weight = spread_weight(weight, shape[:-1]).reshape(-1)
        return error.reshape(-1, outputs), target.astype(jnp.float32).reshape(-1, outputs), weight


def _error(metric: Any, output: Any, target: Any) -> jax.Array:
    """`output - target`, in floats of at least 32 bits.

    Raises:
      ValueError: the shapes differ, which would be broadcast.
    """
    output, target = output_and_target(metric.name, output, target, metric.output, metric.target)
    check_arrays(metric.name, output, target)
    if output.shape != target.shape:
        raise ValueError(
            f"{metric.name}: output and target must be of one shape, got {output.shape} and {target.shape}; nothing is "
            "broadcast. Check the model's last layer, or drop an axis of 1, as by output[..., 0]."
        )
    return jnp.subtract(*widened_alike(output, target))


def _mean_and_spread(target: jax.Array, weight: jax.Array) -> tuple[tuple[Any, Any], Any]:
    """Of one batch: the mean of each output as a sum of two floats, and the sum of squares about it.

    All is computed from differences to the least target. So equal targets have a spread of exactly 0, and large ones
    lose no digits. (The least one, since to take the first by its index would gather a batch that is divided.)
    """
    counts = weight[:, None] != 0
    least = jnp.min(jnp.where(counts, target, jnp.inf), axis=0)
    least = jnp.where(jnp.any(counts), least, 0)
    total = jnp.sum(weight)
    beyond = jnp.where(counts, target - least, 0)
    mean = _sums(beyond, weight) / jnp.where(total == 0, 1, total)
    return two_sum(least, mean), _sums(jnp.square(beyond - mean), weight)


def _sums(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The weighted sum of each column, float32."""
    return jax.vmap(weighted_sum, in_axes=(1, None))(values, weight).astype(jnp.float32)
