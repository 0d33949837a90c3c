"""Epochs and batches: lazy, sized, and reached by position alone."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, overload

import jax
import numpy as np

from jaxloop.data.collate import collate as stacked_samples
from jaxloop.data.samples import OneByOne, Samples, check_epochs, checked, count_of, is_source

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Batches:
    """A sized, indexable collection of batches. Nothing is read from the samples until a batch is.

    Made by `TrainingEpochs` and `in_batches`. `batches[i]` is a batch, `batches[i:j]` a collection.

    Attributes:
      transforms: what each batch passes through when it is read; for samples read one at a time, first of all
        what makes a batch of a list of them.
      shapes: the lengths that the batches are padded to, so that programs see no more shapes than these; None
        where that was not said.
    """

    _samples: Samples
    _batch_size: int
    _make_order: Callable[[], np.ndarray] | None
    transforms: tuple[Callable[[Any], Any], ...]
    _range: range
    shapes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return replace(self, _range=self._range[index])
        start = self._range[index] * self._batch_size
        return self._transformed(self._gather(slice(start, start + self._batch_size)))

    def __iter__(self) -> Iterator[Any]:
        if self.transforms or self._range.step != 1:
            return (self[index] for index in range(len(self)))
        starts = range(self._range.start * self._batch_size, self._range.stop * self._batch_size, self._batch_size)
        return (self._gather(slice(start, start + self._batch_size)) for start in starts)

    def __repr__(self) -> str:
        return f"Batches({len(self)} batches of {self._batch_size})"

    def map(self, transform: Callable[[Any], Any]) -> "Batches":
        """These batches, each passed through `transform` when it is read."""
        return replace(self, transforms=(*self.transforms, transform))

    def stacked(self, start: int, count: int) -> Any | None:
        """Batches `start` to `start + count` gathered in one go, along a new leading axis.

        Returns:
          PyTree of (count, batch_size, ...), or None where that cannot be: batches that are not neighbours,
          are not full or pass through a transform.
        """
        chosen = self._range[start : start + count]
        rows = slice(chosen.start * self._batch_size, chosen.stop * self._batch_size)
        if self.transforms or chosen.step != 1 or rows.stop > self._sample_count:
            return None
        shape = (count, self._batch_size)
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), self._gather(rows))

    @functools.cached_property
    def _gather(self) -> Callable[[slice], Any]:
        """What reads the samples at some rows of the order, before any transform."""
        order = None if self._make_order is None else self._make_order()
        if isinstance(self._samples, OneByOne):
            return functools.partial(self._samples.rows, order)
        leaves, tree = jax.tree.flatten(self._samples)
        if order is None:
            return lambda rows: tree.unflatten([leaf[rows] for leaf in leaves])

        def gather(rows: slice) -> Any:
            indices = order[rows]
            return tree.unflatten([leaf.take(indices, axis=0) for leaf in leaves])

        return gather

    @functools.cached_property
    def _sample_count(self) -> int:
        return count_of(self._samples)

    def _transformed(self, batch: Any) -> Any:
        for transform in self.transforms:
            batch = transform(batch)
        return batch


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

    Raises:
      ValueError: leaves of unequal length, no sample, or a batch size outside 1 to N.

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

    def __post_init__(self) -> None:
        samples = check_epochs("TrainingEpochs", self.samples, self.batch_size, self.seed)
        object.__setattr__(self, "samples", samples)

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

    def _epoch(self, index: int) -> Batches:
        order = functools.partial(shuffled, self.sample_count, self.seed, index)
        return batches_of(self.samples, self.batch_size, order, self.batch_count, self.collate)

    def __repr__(self) -> str:
        return (
            f"TrainingEpochs({self.sample_count} samples, batch_size={self.batch_size}, "
            f"{self.batch_count} batches an epoch, seed={self.seed})"
        )


def in_batches(
    samples: Samples,
    batch_size: int,
    *,
    collate: Collate = stacked_samples,
    size: Callable[[Any], Any] | None = None,
    lengths: Sequence[int] | None = None,
) -> Batches:
    """The samples in their order, or the largest first, in batches; the last may be short. For validation.

    Args:
      samples: PyTree of arrays with one leading axis, or a source: a list of samples, or any object with `__len__`
        and `__getitem__`.
      batch_size: examples in a batch, at least 1.
      collate: makes a batch of a list of samples.
      size: gives the size of a sample, such as `len`; then the samples go by descending size, so that batches are of
        like size. It is asked once for each, when the first batch is read. None keeps their order.
      lengths: that `collate` pads to, for `Batches.shapes`; None where shapes are not bounded so.

    Raises:
      ValueError: leaves of unequal length, no sample, or a batch size below 1.

    Example:
      >>> samples = np.zeros((5, 3)), np.arange(5)
      >>> [labels.tolist() for _, labels in in_batches(samples, 2)]
      [[0, 1], [2, 3], [4]]
      >>> [batch.tolist() for batch in in_batches([[1], [2, 3], [4, 5], [6]], 2, size=len)]
      [[[2, 3], [4, 5]], [[1], [6]]]
    """
    samples, count = checked("in_batches", samples, batch_size)
    order = None if size is None else functools.partial(_largest_first, OneByOne(samples), size)
    return batches_of(samples, batch_size, order, -(-count // batch_size), collate, lengths)


def batches_of(
    samples: Samples,
    batch_size: int,
    make_order: Callable[[], np.ndarray] | None,
    batch_count: int,
    collate: Collate,
    lengths: Sequence[int] | None = None,
) -> Batches:
    """Batches of samples in an order that is made once, when the first of them is read.

    Arrays are gathered at once where all that is asked is to stack them; all else is read one sample at a time.
    """
    make_order = None if make_order is None else functools.cache(make_order)
    shapes = None if lengths is None else tuple(sorted(lengths))
    if collate is stacked_samples and not is_source(samples):
        return Batches(samples, batch_size, make_order, (), range(batch_count), shapes)
    return Batches(OneByOne(samples), batch_size, make_order, (collate,), range(batch_count), shapes)


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


def _largest_first(samples: OneByOne, size: Callable[[Any], Any]) -> np.ndarray:
    return np.argsort(-samples.sizes("in_batches", size), kind="stable")
