"""The start of a step's program if a batch does not travel as it is: the gather, and the compiled maps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.blame import placed
from jaxloop.feeding.specification import Batch, parts_of


@dataclass(frozen=True)
class Prepare:
    """Makes a batch from what travels to the device. It is traced into the program of the step.

    It is called as `prepare(resident, (travelling, None, padding))`. Equal ones share their programs.

    Attributes:
      gathers: whether `travelling` are the indices of samples in `resident`.
      transforms: the compiled ones, see `Batches.map`.
      batch_keys: as `parts_of` takes them.
      where: what the user calls the data.
      inputs_alone: whether a batch may be only the input, as for predictions.
    """

    gathers: bool
    transforms: tuple[Callable[[Any], Any], ...]
    batch_keys: tuple[str, ...] | None
    where: str
    inputs_alone: bool = False

    def __call__(self, resident: Any, batch: Batch) -> Batch:
        travelling, _, padding = batch
        if self.gathers:
            indices = travelling

            def gathered(leaf: jax.Array) -> jax.Array:
                return leaf.at[indices].get(mode="promise_in_bounds")

            travelling = jax.tree.map(gathered, resident)
        for transform in self.transforms:
            with placed(f"a compiled map of {self.where}", travelling):
                travelling = transform(travelling)
        input, target, weight = parts_of(travelling, self.batch_keys, self.where, inputs_alone=self.inputs_alone)
        if padding is None or weight is None:
            return input, target, padding if weight is None else weight
        return input, target, weight * padding.reshape(-1, *[1] * (weight.ndim - 1)).astype(weight.dtype)


@dataclass(frozen=True)
class Preparation:
    """What makes batches from what travels in a phase.

    Attributes:
      prepare: traced into the program.
      resident: the samples on the device that it gathers from; None if batches travel whole.
    """

    prepare: Prepare
    resident: Any = None
