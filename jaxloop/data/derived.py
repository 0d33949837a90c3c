"""Epochs that are made of other epochs: with a transform, or cut elsewhere."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from jaxloop.data.batches import Batches
from jaxloop.whole_number import whole_number


@dataclass(frozen=True, eq=False)
class MappedEpochs:
    """Epochs whose batches pass through a transform.

    Attributes:
      epochs: `TrainingEpochs` or similar epochs.
      transform: as `Batches.map` takes it.
      compiled: whether it is traced into the step's program.
    """

    epochs: Any
    transform: Callable[[Any], Any]
    compiled: bool = False

    @property
    def batch_count(self) -> int:
        """How many batches an epoch has."""
        return self.epochs.batch_count

    @overload
    def __getitem__(self, index: int) -> Batches: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batches]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._mapped(epoch) for epoch in self.epochs[index]]
        return self._mapped(self.epochs[index])

    def __iter__(self) -> Iterator[Batches]:
        return map(self._mapped, self.epochs)

    def map(self, transform: Callable[[Any], Any], *, compiled: bool = False) -> "MappedEpochs":
        """These epochs, each batch passed through a further transform."""
        return MappedEpochs(self, transform, compiled)

    def every(self, batch_count: int) -> "MappedEpochs":
        """The same batches in epochs of `batch_count` batches; see `TrainingEpochs.every`."""
        return MappedEpochs(self.epochs.every(batch_count), self.transform, self.compiled)

    def _mapped(self, epoch: Batches) -> Batches:
        return epoch.map(self.transform, compiled=self.compiled)


@dataclass(frozen=True, eq=False, repr=False)
class CutEpochs:
    """The batches of other epochs, in their order, cut into epochs of another length.

    It is made by `every`. Epoch `i` has batches `i * batch_count` to `(i + 1) * batch_count`, counted over all of the
    other epochs. So any position is reached without passing the positions before it.

    Attributes:
      epochs: `TrainingEpochs` or similar epochs, each with as many batches.
      batch_count: how many batches an epoch has, at least 1.

    Raises:
      ValueError: `batch_count` is not a whole number of at least 1.
    """

    epochs: Any
    batch_count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_count", whole_number("every: `batch_count`", self.batch_count))

    @overload
    def __getitem__(self, index: int) -> Batches: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batches]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return epochs_at("every", index, self._epoch)

    def __iter__(self) -> Iterator[Batches]:
        return map(self._epoch, itertools.count())

    def __reduce__(self) -> tuple[Any, ...]:
        # What keeps the epochs that were read can neither be pickled nor be shared by a copy.
        return CutEpochs, (self.epochs, self.batch_count)

    def __repr__(self) -> str:
        return f"{self.epochs!r}.every({self.batch_count})"

    def map(self, transform: Callable[[Any], Any], *, compiled: bool = False) -> MappedEpochs:
        """These epochs, each batch passed through `transform`; see `Batches.map`."""
        return MappedEpochs(self, transform, compiled)

    def every(self, batch_count: int) -> "CutEpochs":
        """The same batches in epochs of another length."""
        return CutEpochs(self.epochs, batch_count)

    def _epoch(self, index: int) -> Batches:
        first, start = divmod(index * self.batch_count, self.epochs.batch_count)
        batches = self._whole(first)
        order = functools.cache(functools.partial(self._order, first, start * batches.batch_size))
        count = self.batch_count
        return replace(batches, _make_order=order, _range=range(count), order_length=count * batches.batch_size)

    def _order(self, epoch: int, start: int) -> np.ndarray:
        """int[batch_count * batch_size]: the samples from position `start` of an epoch on, into the epochs after it."""
        parts: list[np.ndarray] = []
        size = self._whole(epoch).batch_size
        left, end = self.batch_count * size, self.epochs.batch_count * size  # what fills no batch is dropped
        while left:
            order = self._whole(epoch).order
            assert order is not None
            parts.append(order[start : min(end, start + left)])
            left -= len(parts[-1])
            epoch, start = epoch + 1, 0
        return np.concatenate(parts)

    @functools.cached_property
    def _whole(self) -> Callable[[int], Batches]:
        """The other epochs. The last ones are kept, since several of these epochs may lie in one."""
        return functools.lru_cache(maxsize=2)(self.epochs.__getitem__)


def epochs_at(where: str, index: int | slice, epoch: Callable[[int], Batches]) -> Any:
    """Epoch `index` of an endless sequence; for a slice, a list of epochs.

    Raises:
      IndexError: `index` is negative.
      ValueError: the slice has no end, or counts from the end.
    """
    if isinstance(index, slice):
        if index.stop is None or index.stop < 0 or (index.start or 0) < 0:
            raise ValueError(f"{where}: epochs are counted from 0 and have no end, got {index}. Write epochs[:10].")
        return [epoch(position) for position in range(index.start or 0, index.stop, index.step or 1)]
    if index < 0:
        raise IndexError(f"{where}: epochs are counted from 0 and have no end, got {index}.")
    return epoch(int(index))
