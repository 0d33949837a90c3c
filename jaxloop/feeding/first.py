"""What is kept of the first batch, and the short way of those that are like it."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.feeding.packing import Packing, packing_of
from jaxloop.feeding.specification import Batch, Specification


@dataclass(frozen=True)
class First:
    """What the first batch was like.

    Attributes:
      specification: what all batches must be like.
      on_host: whether its arrays are NumPy's.
    """

    specification: Specification
    on_host: bool

    @functools.cached_property
    def packing(self) -> Packing | None:
        """How a batch like it is packed; None where it is not."""
        return packing_of(self.specification) if self.on_host else None

    def leaves_of(self, batch: Batch) -> list[np.ndarray] | None:
        """The arrays of a batch in NumPy, not copied; None where it is not like this one in all that a program sees."""
        leaves, tree = jax.tree.flatten(batch)
        leaves = [leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf) for leaf in leaves]
        same = tree == self.specification.tree and [(leaf.shape, leaf.dtype) for leaf in leaves] == self._kinds
        return leaves if same else None

    def together(self, batches: Iterable[Sequence[Any]], most: int) -> tuple[int, Batch]:
        """Batches like this one, given as their arrays: how many, at most `most`, and stacked along a new leading axis.

        Each is copied to its place before the next is asked for, since a loader may write that into the same memory.
        """
        places = [np.empty((most, *shape), dtype) for shape, dtype in self._kinds]
        count = 0
        for leaves in batches:
            for place, leaf in zip(places, leaves, strict=True):
                place[count] = leaf
            count += 1
        return count, self.specification.tree.unflatten([place[:count] for place in places])

    @functools.cached_property
    def _kinds(self) -> list[tuple[tuple[int, ...], Any]]:
        return [(shape, dtype) for _, shape, dtype in self.specification.leaves]
