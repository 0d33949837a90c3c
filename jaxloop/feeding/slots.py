"""Slots: where the batches of a dispatch are written. Each is written once, in the form that travels."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxloop.feeding.packing import Packing
from jaxloop.feeding.specification import Batch, Specification, Weak, rows_of, stacked
from jaxloop.placement import Placement


@dataclass(frozen=True)
class ChunkSpec:
    """What a program sees of the batches of one dispatch.

    Attributes:
      steps: how many batches; several have a leading axis of steps.
      batch: the specification of each batch.
      packing: how a single batch is packed; None if it travels as its arrays.
    """

    steps: int
    batch: Specification
    packing: Packing | None = None

    @functools.cached_property
    def signature(self) -> Any:
        """What the program depends on."""

        def dtype_of(dtype: Any) -> Any:
            return dtype if isinstance(dtype, Weak) else jax.dtypes.canonicalize_dtype(dtype)

        leaves = tuple((shape, dtype_of(dtype)) for _, shape, dtype in self.batch.leaves)
        return self.steps, self.batch.tree, leaves, self.packing

    @functools.cached_property
    def rows(self) -> int | None:
        """How many examples each batch has; None if its arrays differ."""
        return rows_of(self.batch.abstract)

    @property
    def abstract(self) -> Any:
        """Shapes and dtypes, as the program takes them."""
        return stacked(self.batch.abstract, self.steps) if self.packing is None else self.packing.abstract


@functools.lru_cache(maxsize=128)
def shardings_of_chunk(placement: Placement, chunk: ChunkSpec) -> tuple[Sharding, ...]:
    """Where each array of a chunk lies on several devices. Kept, since to make shardings takes longer than a batch."""
    shardings = placement.batch_shardings(chunk.abstract, chunk.rows, stacked=chunk.steps > 1)
    return tuple(jax.tree.leaves(shardings))


class Slots(Protocol):
    """Places for several batches of one specification."""

    def write(self, place: int, leaves: Sequence[Any]) -> None:
        """Writes a batch to its place. If it is short, copies of its last example fill the place, with weight 0."""
        ...

    def batch(self, place: int) -> Batch:
        """The batch of one place, as its arrays, (input, target, weight)."""
        ...

    def alone(self, place: int) -> Any:
        """The batch of one place, as it travels by itself."""
        ...

    def together(self, count: int) -> Batch:
        """The first `count` batches along a leading axis."""
        ...


class HostSlots:
    """Slots in memory of the host that nobody else writes to. Each place is written only once.

    That matters since a program on the CPU reads NumPy's memory in place, even after its dispatch has returned.

    Attributes:
      count: how many places.
      columns: for each array of a batch, its places: [count, ...].
      words: the packed batches, int32[count, size]; None if they are not packed.

    Args:
      batch: the specification of each batch.
      count: how many places.
      packing: how each batch is packed; None if it travels as its arrays.
    """

    def __init__(self, batch: Specification, count: int, packing: Packing | None = None):
        self._batch, self.count = batch, count
        if packing is None:
            self.words: np.ndarray | None = None
            self.columns = [np.empty((count, *shape), dtype) for shape, dtype in batch.kinds]
        else:
            self.words, self.columns = packing.places(count)

    def write(self, place: int, leaves: Sequence[Any]) -> None:
        columns = self.columns
        if len(leaves) < len(columns) or (leaves and len(leaves[0]) < columns[0].shape[1]):
            self._fill(place, leaves)
            return
        for column, leaf in zip(columns, leaves, strict=True):
            column[place] = leaf

    def batch(self, place: int) -> Batch:
        return self._batch.tree.unflatten([column[place] for column in self.columns])

    def alone(self, place: int) -> Any:
        return self.batch(place) if self.words is None else self.words[place]

    def together(self, count: int) -> Batch:
        return self._batch.tree.unflatten([column[:count] for column in self.columns])

    def _fill(self, place: int, leaves: Sequence[Any]) -> None:
        rows = len(leaves[0])
        for column, leaf in zip(self.columns, leaves, strict=False):
            column[place, :rows] = leaf
            column[place, rows:] = leaf[-1:] if rows else 0  # a real example: zeros may be no valid input
        weight = self.columns[-1][place]
        if len(leaves) < len(self.columns):
            weight[...] = 1
        weight[rows:] = 0


class DeviceSlots:
    """Slots for batches whose arrays lie on a device already. They stay there, and are stacked there.

    Args:
      batch: the specification of each batch.
      placement: where programs take them. An array of another device is moved.
    """

    def __init__(self, batch: Specification, placement: Placement):
        self._spec, self._placement = batch, placement
        self._shardings: tuple[Sharding, ...] | None = None
        if not placement.single and not placement.several_processes:
            self._shardings = shardings_of_chunk(placement, ChunkSpec(1, batch))
        self._written: list[list[Any]] = []

    def write(self, place: int, leaves: Sequence[Any]) -> None:
        leaves = [self._own(leaf) for leaf in leaves]
        size, rows = self._spec.kinds[0][0][0], leaves[0].shape[0]
        weighted = len(leaves) == len(self._spec.leaves)
        if not weighted:
            shape, dtype = self._spec.kinds[-1]
            leaves.append(np.ones((rows, *shape[1:]), dtype))
        if rows < size:
            last = len(leaves) - 1
            leaves = [_filled(leaf, size, nothing=index == last) for index, leaf in enumerate(leaves)]
        if self._shardings is not None:  # only now, since a short batch may not divide
            pairs = zip(leaves, self._shardings, strict=True)
            leaves = [jax.device_put(leaf, at) if isinstance(leaf, jax.Array) else leaf for leaf, at in pairs]
        self._written[place:] = [leaves]

    def batch(self, place: int) -> Batch:
        return self._spec.tree.unflatten(self._written[place])

    def alone(self, place: int) -> Any:
        return self.batch(place)

    def together(self, count: int) -> Batch:
        columns = zip(*self._written[:count], strict=True)
        return self._spec.tree.unflatten([_stack(*column) for column in columns])

    def _own(self, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return np.array(leaf)  # a loader may write the next batch into the same memory
        if self._placement.single:
            return leaf if self._placement.holds(leaf) else self._placement.put(leaf)
        return np.asarray(leaf) if self._placement.several_processes and leaf.is_fully_addressable else leaf


def slots_for(
    batch: Specification, leaves: Sequence[Any], count: int, placement: Placement, packing: Packing | None
) -> Slots:
    """Slots for `count` batches like the one whose arrays are `leaves`."""
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return DeviceSlots(batch, placement)
    return HostSlots(batch, count, packing)


@jax.jit
def _stacked(*leaves: Any) -> jax.Array:
    return jnp.stack(leaves)


def _stack(*leaves: Any) -> Any:
    return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else _stacked(*leaves)


def _filled(leaf: Any, size: int, *, nothing: bool) -> Any:
    """The array filled up to `size` rows: with copies of its last row, or with zeros."""
    rows, library = leaf.shape[0], jnp if isinstance(leaf, jax.Array) else np
    shape = (size - rows, *leaf.shape[1:])
    fill = library.zeros(shape, leaf.dtype) if nothing or not rows else library.broadcast_to(leaf[-1:], shape)
    return library.concatenate([leaf, fill])
