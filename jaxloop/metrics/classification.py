"""Accuracy, and accuracy within several guesses, from logits and the true classes or probabilities."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.losses import spread_weight
from jaxloop.metrics.labels import check_arrays, each_alone, known, labels, logit_count, single_logit, yes_or_no
from jaxloop.metrics.means import add_to_mean, empty_mean, mean_of
from jaxloop.outputs import Key, name_by_output, output_and_target


@dataclass(frozen=True)
class Accuracy:
    """The share of examples (or tokens) whose predicted class is the true class: `sum w_i [y_i = t_i] / sum w_i`.

    The predicted class is that of the largest logit, and in a tie the first of them. If there is only one logit, the
    predicted class is 1 where the logit is above 0, that is, where its sigmoid is above 1/2. An example with a NaN in
    its logits or its target is wrong.

    | `output` | `target` |
    | --- | --- |
    | float[..., classes] | int[...], or probabilities float[..., classes] |
    | float[batch] or float[..., 1]: one logit | 0 or 1, int or float, of the output's shape, or without the axis of 1 |

    Args:
      name: the name of the statistic, by default `"accuracy"`, or `"digit_accuracy"` of the output `"digit"`.
      multilabel: whether each logit is an independent question that is answered by yes or no, as in
        `losses.sigmoid_cross_entropy`. Then `target` is 0 or 1 and has the output's shape, and labels are counted:
        `sum w_i [y_ij = t_ij] / (classes sum w_i)`. With None, data whose targets are several classes at once, or none,
        are refused: the largest target would be taken for the class. True or False allows such data.
      output: which part of an output that is a mapping, a dataclass or a tuple is measured: its key, field or place.
      target: which part of the target belongs to it; None for the same as `output`. A target that is one array is that
        of each output.

    Example:
      >>> metric = Accuracy()
      >>> output, target = jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    name: str = ""
    multilabel: bool | None = None
    output: Key | None = None
    target: Key | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or name_by_output("accuracy", self.output))

    @property
    def one_class(self) -> bool:
        """Whether targets of the output's shape must be probabilities of one class."""
        return self.multilabel is None

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_arrays(self.name, output, target)
        single = each_alone(self.name, output, target) if self.multilabel else single_logit(output, target)
        predicted, label = labels(self.name, output, target) if single is None else yes_or_no(*single)
        correct = ((predicted == label) & known(output, target, single)).astype(jnp.float32)
        return add_to_mean(state, correct, spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)


@dataclass(frozen=True)
class TopKAccuracy:
    """The share of examples (or tokens) for which fewer than `k` classes have a larger logit than the true class.

    Classes that tie with the true class do not count as larger. An example with a NaN in its logits or its target is
    wrong. `output` is float[..., classes]. `target` is int[...], or float[..., classes] for probabilities.

    Args:
      k: the number of guesses, at least 1 and at most the number of classes.
      name: the name of the statistic, by default `"top{k}_accuracy"`. `metrics=["top3_accuracy"]` means
        `TopKAccuracy(3)`.
      output, target: as in `Accuracy`.

    Example:
      >>> metric = TopKAccuracy(2)
      >>> output, target = jnp.array([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]]), jnp.array([2, 0])
      >>> metric.compute(metric.update(metric.init(), output=output, target=target, loss=None, weight=None))
      Array(0.5, dtype=float32)
    """

    k: int = 5
    name: str = ""
    output: Key | None = None
    target: Key | None = None
    one_class: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, (int, np.integer)) or self.k < 1:
            raise ValueError(f"TopKAccuracy: `k` must be a whole number of at least 1, got {self.k!r}.")
        object.__setattr__(self, "name", self.name or name_by_output(f"top{self.k}_accuracy", self.output))

    def init(self) -> dict[str, Any]:
        return empty_mean()

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        check_arrays(self.name, output, target)
        count = logit_count(output)
        if count < max(self.k, 2):
            raise ValueError(
                f"{self.name}: the output must have at least {max(self.k, 2)} classes, got {count} in shape "
                f"{output.shape}. Choose a smaller `k`, or Accuracy() for one logit, or check the model's last layer."
            )
        label = labels(self.name, output, target)[1]
        classes = jax.lax.broadcasted_iota(label.dtype, output.shape, output.ndim - 1)
        at_target = jnp.sum(jnp.where(classes == label[..., None], output, 0), axis=-1, keepdims=True)
        above = jnp.sum(output > at_target, axis=-1)
        correct = (above < self.k) & (label >= 0) & (label < count) & known(output, target, None)
        return add_to_mean(state, correct.astype(jnp.float32), spread_weight(weight, correct.shape))

    def compute(self, state: dict[str, Any]) -> jax.Array:
        return mean_of(state)
