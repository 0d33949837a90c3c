"""Epochs of samples that differ in size: a batch has samples of similar size, and the largest batch comes first."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, overload

import numpy as np

from jaxloop.data.batches import Batches, Collate, batches_of
from jaxloop.data.collate import collate as stacked_samples
from jaxloop.data.derived import CutEpochs, MappedEpochs, epochs_at
from jaxloop.data.epochs import shuffled
from jaxloop.data.samples import OneByOne, Samples, check_epochs, count_of


@dataclass(frozen=True, eq=False, repr=False)
class NonuniformTrainingEpochs:
    """An endless sequence of epochs. Each has all samples in a new order, in batches of samples of similar size.

    It works as `TrainingEpochs`, with two steps after shuffling. The largest sample of all is moved into the first
    batch, and groups of `batches_per_sort` batches are sorted by descending size. So there is little padding, and the
    batches still differ from epoch to epoch. The largest batch of an epoch comes first: if it needs too much memory,
    this shows at once.

    Args:
      samples: a source: a list of N samples, or any object with `__len__` and `__getitem__`; or arrays with one leading
        axis. A sample is read when its batch is read. All samples are also read once before the first batch, for their
        sizes.
      batch_size: the number of examples in a batch, from 1 to N.
      seed: the seed of the order.
      size: gives the size of a sample.
      batches_per_sort: how many batches are sorted together; None for a hundredth of an epoch, but at least 2.
      collate: makes a batch from a list of samples, such as `functools.partial(pad_and_collate, pad_value=0)`.
      lengths: the lengths that `collate` pads to, or after a `.map` that changes them, for `Batches.shapes`; None if
        shapes are not limited.

    Raises:
      ValueError: there is no sample, the batch size is not from 1 to N, `batches_per_sort` is below 1, or a size is not
        a number.

    Example:
      >>> pad = functools.partial(pad_and_collate, pad_value=0, lengths=(4, 8))
      >>> texts = [list(range(length)) for length in (3, 7, 2, 8, 6, 1)]
      >>> epochs = NonuniformTrainingEpochs(texts, batch_size=3, collate=pad, lengths=(4, 8))
      >>> [batch.shape for batch in epochs[0]]
      [(3, 8), (3, 4)]
    """

    samples: Samples
    batch_size: int
    seed: int = 0
    _: KW_ONLY
    size: Callable[[Any], Any] = len
    batches_per_sort: int | None = None
    collate: Collate = stacked_samples
    lengths: Sequence[int] | None = None

    def __post_init__(self) -> None:
        samples = check_epochs("NonuniformTrainingEpochs", self.samples, self.batch_size, self.seed)
        object.__setattr__(self, "samples", samples)
        group = self.batches_per_sort
        if group is not None and (not isinstance(group, (int, np.integer)) or group < 1):
            raise ValueError(
                "NonuniformTrainingEpochs: `batches_per_sort` must be a whole number of at least 1, or None for a "
                f"hundredth of an epoch, got {group!r}."
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
        return epochs_at("NonuniformTrainingEpochs", index, self._epoch)

    def __iter__(self) -> Iterator[Batches]:
        return map(self._epoch, itertools.count())

    def map(self, transform: Callable[[Any], Any], *, compiled: bool = False) -> MappedEpochs:
        """These epochs, each batch passed through `transform`; see `Batches.map`."""
        return MappedEpochs(self, transform, compiled)

    def every(self, batch_count: int) -> CutEpochs:
        """The same batches in the same order, in epochs of `batch_count` batches; see `TrainingEpochs.every`."""
        return CutEpochs(self, batch_count)

    def __repr__(self) -> str:
        return (
            f"NonuniformTrainingEpochs({self.sample_count} samples, batch_size={self.batch_size}, "
            f"{self.batch_count} batches an epoch, seed={self.seed})"
        )

    def _epoch(self, index: int) -> Batches:
        order = functools.partial(self._order, index)
        return batches_of(self.samples, self.batch_size, order, self.batch_count, self.collate, self.lengths)

    def _order(self, epoch: int) -> np.ndarray:
        """int64[batch_count * batch_size]: the indices of the samples of an epoch, in order."""
        order = shuffled(self.sample_count, self.seed, epoch)
        largest = np.argmax(self._sizes[order])
        order[[0, largest]] = order[[largest, 0]]
        order = order[: self.batch_count * self.batch_size]
        batches_per_sort = self.batches_per_sort or max(2, self.batch_count // 100)
        groups = np.arange(len(order)) // (batches_per_sort * self.batch_size)
        return order[np.lexsort((-self._sizes[order], groups))]

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return OneByOne(self.samples).sizes("NonuniformTrainingEpochs", self.size)
