"""Epochs of steps without data, for losses that need none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from jaxloop.data.loaders import LoaderEpochs
from jaxloop.data.repeat import repeat


def steps(count: int) -> LoaderEpochs:
    """An endless sequence of epochs of `count` steps without data: for physics-informed or variational training.

    The batches are empty: `loop.input` and `loop.target` are None, and the model and the loss get None. A step draws
    what it needs, such as points at which an equation must hold, with `loop.step_key(name)`. A batch counts as one
    example. If it is used as `validation`, each validation has `count` steps.

    Args:
      count: the number of steps in an epoch, at least 1.

    Raises:
      ValueError: `count` is not a whole number of at least 1.

    Example:
      >>> def residual(model, loop):
      ...     points = jax.random.uniform(loop.step_key("points"), (64, 1))
      ...     loss = jnp.mean((jax.vmap(jax.grad(model.unwrap()))(points) - points) ** 2)
      ...     return loss, loop.replace(output=points)
      >>> training_loop = jl.TrainingLoop(jl.steps(100), optimizer=optax.adam(1e-3), differentiable_step=residual)
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"steps: `count` must be a whole number of at least 1, got {count!r}.")
    return repeat(EmptyBatches(int(count)))


@dataclass(frozen=True)
class EmptyBatches(Sequence[Any]):
    """A number of empty batches."""

    batch_count: int

    def __len__(self) -> int:
        return self.batch_count

    def of_length(self, batch_count: int) -> "EmptyBatches":
        """Another number of empty batches."""
        return EmptyBatches(batch_count)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "EmptyBatches": ...
    def __getitem__(self, index: int | slice) -> Any:
        chosen = range(self.batch_count)[index]
        return EmptyBatches(len(chosen)) if isinstance(chosen, range) else (None, None)
