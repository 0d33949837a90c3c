"""Epochs of batches, each in a new order, which is a function of the seed and the epoch."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, overload

import numpy as np

from jaxloop.data.batches import Batches, Collate, batches_of
from jaxloop.data.collate import collate as stacked_samples
from jaxloop.data.derived import CutEpochs, MappedEpochs, epochs_at
from jaxloop.data.samples import Samples, check_epochs, count_of, is_source


@dataclass(frozen=True, eq=False, repr=False)
class TrainingEpochs:
    """An endless sequence of epochs. Each has all samples in a new order, in batches of one size.

    `epochs[i]` is the collection of batches of epoch `i`, counted from 0. The order depends only on (seed, i), so any
    position is reached without passing the positions before it. Samples that do not fill a batch are dropped. They are
    other samples in each epoch.

    Args:
      samples: PyTree of arrays with one leading axis of length N, such as `(images, labels)`; or a source: a list of
        samples, or any object with `__len__` and `__getitem__`. A sample of a source is read when its batch is read.
      batch_size: the number of examples in a batch, from 1 to N.
      seed: the seed of the order.
      collate: makes a batch from a list of samples. With the default, arrays are gathered at once.
      resident: whether a fit puts all samples on its device once. Then only indices travel, and batches are gathered in
        the step's program. This is for arrays that fit on the device.

    Raises:
      ValueError: leaves have unequal lengths, there is no sample, or the batch size is not from 1 to N; or `resident`
        samples are not arrays that only need stacking.

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

    def every(self, batch_count: int) -> CutEpochs:
        """The same batches in the same order, in epochs of `batch_count` batches, after each of which comes validation.

        An epoch here may end in the middle of one of these, and the next goes on there.

        Example:
          >>> epochs = TrainingEpochs(np.arange(6), batch_size=2)
          >>> [[len(epoch) for epoch in epochs.every(count)[:2]] for count in (2, 5)]
          [[2, 2], [5, 5]]
        """
        return CutEpochs(self, batch_count)

    def _epoch(self, index: int) -> Batches:
        order = functools.partial(shuffled, self.sample_count, self.seed, index)
        batches = batches_of(self.samples, self.batch_size, order, self.batch_count, self.collate)
        return replace(batches, resident=self.resident)

    def __repr__(self) -> str:
        return (
            f"TrainingEpochs({self.sample_count} samples, batch_size={self.batch_size}, "
            f"{self.batch_count} batches an epoch, seed={self.seed})"
        )


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """int64[count]: the order of samples in an epoch, a function of (seed, epoch)."""
    # A list as seed: NumPy mixes its numbers, while seed + epoch would repeat epochs of one seed under the next.
    return np.random.default_rng([seed, epoch]).permutation(count)
