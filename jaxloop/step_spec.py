"""`StepSpec`: what the steps of a run are made of."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # pyright: ignore[reportMissingTypeStubs] it has none

from jaxloop.callback import Callback, fire
from jaxloop.events import VALIDATION, Event, Split, splits_of
from jaxloop.kinds import strong
from jaxloop.loop import Loop
from jaxloop.measured import as_statistic
from jaxloop.metrics import Metric, is_scalar
from jaxloop.model import Model
from jaxloop.output_losses import LossFn as LossFn
from jaxloop.placement import Placement

DifferentiableStep = Callable[[Model, Loop], tuple[jax.Array, Loop]]


class UnboundMetrics(ValueError):
    """A step was traced whose metrics do not know yet of what shapes they are. Nothing is wrong: it is traced again.

    Attributes:
      metrics: the metrics, bound to the shapes of output and target.
    """

    def __init__(self, metrics: tuple[Metric, ...]):
        super().__init__(
            "loop: its metrics must know the shapes of output and target, and no run has shown them yet. Begin with "
            "training_loop.start(model, epochs=...), or with a fit."
        )
        self.metrics = metrics


@dataclass(frozen=True, eq=False)
class StepSpec:
    """What the steps of a run are made of: constants of its programs, compared by identity.

    Attributes:
      optimizer: the optax transformation.
      loss_fn: `loss_fn(output, target)`, one loss per example or token, or a scalar.
      differentiable_step: `differentiable_step(model, loop) -> (loss, loop)`, in place of forward pass and `loss_fn`;
        None if there is none.
      metrics: what is measured.
      callbacks: the compiled ones, bound to the plan.
      new_stats: whether callbacks may record names that are not in `loop.stats` yet.
      accumulate: as how many microbatches a batch of training is taken.
      compute_dtype: of the forward pass; None if nothing is cast.
      placement: the several devices that the steps run on; None for one.
      validation_sets: the names of what is validated on, in order.
      unbound: the spec whose metrics were bound to make this one; None if they were not.
    """

    optimizer: optax.GradientTransformation
    loss_fn: LossFn | None
    differentiable_step: DifferentiableStep | None
    metrics: tuple[Metric, ...]
    callbacks: tuple[Callback, ...] = ()
    new_stats: bool = False
    accumulate: int = 1
    compute_dtype: Any = None
    placement: Placement | None = None
    validation_sets: tuple[str, ...] = (VALIDATION.name,)
    unbound: "StepSpec | None" = None

    @property
    def splits(self) -> tuple[Split, ...]:
        """Training, then each set that is validated on."""
        return splits_of(self.validation_sets)

    def fire(self, loop: Loop, event: Event) -> Loop:
        """What the compiled callbacks make of `loop` at `event`."""
        return fire(self.callbacks, loop, event, new_stats=self.new_stats)

    @functools.cached_property
    def empty_metrics(self) -> dict[str, Any]:
        """The accumulators that a phase begins with, in NumPy, so that no step writes over them."""

        def in_numpy(leaf: Any) -> Any:
            leaf = strong(leaf)
            return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf

        def empty(metric: Metric) -> Any:
            return {} if self.is_unbound(metric) else jax.tree.map(in_numpy, metric.init())

        with jax.ensure_compile_time_eval():  # it may be asked for first while a step is traced
            return {metric.name: empty(metric) for metric in self.metrics}

    @functools.cached_property
    def stat_dtypes(self) -> dict[str, Any]:
        """The dtype of each metric's statistic, by the metric's name; nothing runs on a device."""

        def of_nothing(metric: Metric) -> Any:
            return statistic_of(metric, jax.tree.map(_as_array, metric.init()))

        def dtype_of(metric: Metric) -> Any:
            if self.is_unbound(metric):
                return np.dtype(np.float32)
            shape = jax.eval_shape(functools.partial(of_nothing, metric))  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open
            return shape.dtype

        return {metric.name: dtype_of(metric) for metric in self.metrics if is_scalar(metric)}

    def is_unbound(self, metric: Metric) -> bool:
        """Whether a metric still has to be bound to the shapes of output and target."""
        return self.unbound is None and hasattr(metric, "bind")

    def check_bound(self, loop: Loop) -> None:
        """Makes sure that all metrics are bound, in a step that is traced with output and target.

        Raises:
          UnboundMetrics: they are not.
        """
        if not any(map(self.is_unbound, self.metrics)):
            return
        shapes = jax.tree.map(_shape, (loop.output, loop.target))
        metrics: list[Any] = [*self.metrics]
        raise UnboundMetrics(tuple(each.bind(*shapes) if self.is_unbound(each) else each for each in metrics))


def statistic_of(metric: Metric, state: Any, known: Any = None) -> Any:
    """What a metric gives for its accumulator, as the scalar that `loop.stats` keeps."""
    return as_statistic("metrics", metric.name, metric.compute(state), known)


def _as_array(value: Any) -> jax.Array:
    return jnp.asarray(value)  # pyright: ignore[reportUnknownMemberType] JAX leaves a type open


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
