"""Epochs of batches in a new order each, a function of the seed and the epoch."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, overload

import numpy as np

from jaxloop.data.batches import Batches, Collate, batches_of
from jaxloop.data.collate import collate as stacked_samples
from jaxloop.data.samples import Samples, check_epochs, count_of, is_source


@dataclass(frozen=True, eq=False, repr=False)
class TrainingEpochs:
    """An endless sequence of epochs, each of all samples in a new order, in batches of one size.

    `epochs[i]` is the collection of batches of epoch `i`, counted from 0. The order is a function of
    (seed, i) alone, so any position is reached without passing the ones before. What does not fill a batch is
    dropped; it is other samples in each epoch.

    Args:
      samples: PyTree of arrays with one leading axis of length N, such as `(images, labels)`; or a source: a list of
        samples, or any object with `__len__` and `__getitem__`, of which a sample is read only when its batch is.
      batch_size: examples in a batch, from 1 to N.
      seed: of the order.
      collate: makes a batch of a list of samples. Arrays that it shall only stack are gathered at once.
      resident: whether a fit puts all samples on its device once; then only indices travel, and batches are gathered
        in the step's program. For arrays that fit there.

    Raises:
      ValueError: leaves of unequal length, no sample, a batch size outside 1 to N, or `resident` samples that are no
        arrays to be stacked.

    Example:
      >>> images, labels = np.zeros((1000, 28, 28)), np.zeros(1000)
      >>> epochs = TrainingEpochs((images, labels), batch_size=128)
      >>> len(epochs[0]), epochs[3][6][0].shape
      (7, (128, 28, 28))
    """

    samples: Samples
    batch_size: int
    seed: int = 0
    _: KW_ONLY
    collate: Collate = stacked_samples
    resident: bool = False

    def __post_init__(self) -> None:
        samples = check_epochs("TrainingEpochs", self.samples, self.batch_size, self.seed)
        object.__setattr__(self, "samples", samples)
        if self.resident and (is_source(samples) or self.collate is not stacked_samples):
            what = "a `collate` of one's own" if self.collate is not stacked_samples else type(samples).__name__
            raise ValueError(
                f"TrainingEpochs: only arrays that are stacked can be `resident`, got {what}. Make arrays of the "
                "samples, or leave it out."
            )

    @functools.cached_property
    def sample_count(self) -> int:
        """How many samples there are."""
        return count_of(self.samples)

    @property
    def batch_count(self) -> int:
        """How many batches an epoch has."""
        return self.sample_count // self.batch_size

    @overload
    def __getitem__(self, index: int) -> Batches: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batches]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return epochs_at("TrainingEpochs", index, self._epoch)

    def __iter__(self) -> Iterator[Batches]:
        return map(self._epoch, itertools.count())

    def map(self, transform: Callable[[Any], Any], *, compiled: bool = False) -> "MappedEpochs":
        """These epochs, each batch passed through `transform`; see `Batches.map`."""
        return MappedEpochs(self, transform, compiled)

    def _epoch(self, index: int) -> Batches:
        order = functools.partial(shuffled, self.sample_count, self.seed, index)
        batches = batches_of(self.samples, self.batch_size, order, self.batch_count, self.collate)
        return replace(batches, resident=self.resident)

    def __repr__(self) -> str:
        return (
            f"TrainingEpochs({self.sample_count} samples, batch_size={self.batch_size}, "
            f"{self.batch_count} batches an epoch, seed={self.seed})"
        )


@dataclass(frozen=True, eq=False)
class MappedEpochs:
    """Epochs whose batches pass through a transform.

    Attributes:
      epochs: `TrainingEpochs` or their like.
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

    def _mapped(self, epoch: Batches) -> Batches:
        return epoch.map(self.transform, compiled=self.compiled)


def epochs_at(where: str, index: int | slice, epoch: Callable[[int], Batches]) -> Any:
    """Epoch `index` of an endless sequence, or the list of several.

    Raises:
      IndexError: an epoch before the first.
      ValueError: a slice that has no end, or counts from it.
    """
    if isinstance(index, slice):
        if index.stop is None or index.stop < 0 or (index.start or 0) < 0:
            raise ValueError(f"{where}: epochs are counted from 0 and have no end, got {index}. Write epochs[:10].")
        return [epoch(position) for position in range(index.start or 0, index.stop, index.step or 1)]
    if index < 0:
        raise IndexError(f"{where}: epochs are counted from 0 and have no end, got {index}.")
    return epoch(int(index))


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """int64[count]: the order of samples in an epoch, a function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(count)
