"""Epochs of a plain loader, which gives batches and has no notion of epochs."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxloop.data.batches import Batches
from jaxloop.data.loaders import Loader, LoaderEpochs, SizedIterable, Stream
from jaxloop.whole_number import MOST, whole_number


def repeat(batches: Iterable[Any], batch_count: int | None = None) -> LoaderEpochs:
    """An endless sequence of epochs from a loader's batches: a loader of torch, tf.data, grain or another, or a list.

    Without `batch_count`, an epoch is the whole loader, which is iterated again for each epoch. With `batch_count`, an
    epoch has that many batches, and begins where the last epoch stopped. A loader that ends is iterated again, unless
    it can be iterated only once, as a generator. Epochs of a list, a tuple or `Batches` can be indexed. Epochs of other
    loaders only come in turn, and each fit begins with a new iterator. `repeat(batches).every(n)` has epochs of n
    batches.

    It can also be `validation`, and the batches of `evaluate` and `predict`. With `batch_count` these take the first
    batches of the loader each time, so that their results can be compared; they too go around one that ends. From a
    loader that can be iterated only once they take the next batches.

    Args:
      batches: an iterable of batches. It needs a length if `batch_count` is None.
      batch_count: the number of batches in an epoch, at least 1; None for all batches of the loader.

    Raises:
      ValueError: there is no length and no `batch_count`, or no batch, or `batch_count` is below 1. Later, in training:
        the batches end early, or there are more than the loader's length.

    Example:
      >>> loader = [np.array([1, 2]), np.array([3, 4]), np.array([5, 6])]
      >>> [[batch.tolist() for batch in epoch] for epoch in itertools.islice(repeat(loader, batch_count=2), 2)]
      [[[1, 2], [3, 4]], [[5, 6], [1, 2]]]
    """
    if batch_count is not None and (not isinstance(batch_count, (int, np.integer)) or batch_count < 1):
        raise ValueError(f"repeat: `batch_count` must be a whole number of at least 1, or None, got {batch_count!r}.")
    length = length_of(batches)
    if length == 0:
        raise ValueError("repeat: there is no batch. Check the batch size against the number of samples.")
    if length is None and batch_count is None:
        raise ValueError(
            f"repeat: {type(batches).__name__} has no length, so an epoch has none. Say how many batches an epoch has, "
            "as repeat(batches, batch_count=100)."
        )
    if length is not None and isinstance(batches, (Sequence, Batches)):
        return _Sequence(batches, length, int(batch_count or length))
    return Loader(batches, length or 0) if batch_count is None else Stream(batches, int(batch_count))


def one_epoch(batches: Any, where: str) -> Any:
    """Batches for validation: one epoch of what `repeat` or `steps` has made, and anything else as it is.

    Raises:
      TypeError: they have no length, or are a mapping, of which a pass would give the keys.
    """
    if isinstance(batches, (_Sequence, Loader, Stream)):
        return batches.one_epoch()
    if isinstance(batches, Mapping):
        names = ", ".join(map(repr, batches)) or "nothing"
        raise TypeError(f"{where}: expected batches, got a mapping of {names}. Of several sets give one at a time.")
    if length_of(batches) is not None:
        return batches
    if hasattr(batches, "__getitem__"):
        fix = f"They may be epochs: give one of them, as {where}[0], or in_batches(samples, batch_size)."
    else:
        fix = "Say how many are taken, as repeat(batches, batch_count=20)."
    raise TypeError(f"{where}: expected batches of a known number, but {type(batches).__name__} has no length. {fix}")


def length_of(batches: Any) -> int | None:
    """The number of batches; None if it is not known, or if there is no end."""
    try:
        length = len(batches)
    except (TypeError, NotImplementedError):
        return None
    return length if length <= MOST else None  # a loader that reports more has no end


def repeated(epochs: Any) -> tuple[Any, int] | None:
    """The batches that `repeat` or `steps` was given, and how many an epoch has; None if `epochs` is not theirs."""
    if isinstance(epochs, (_Sequence, Loader, Stream)):
        return epochs.batches, epochs.batch_count
    return None


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Epochs of batches that can be indexed."""

    batches: Any
    length: int
    batch_count: int

    def __getitem__(self, index: int) -> SizedIterable:
        if index < 0:
            raise IndexError(f"repeat: epochs are counted from 0 and have no end, got {index}.")
        return self.batches if self.batch_count == self.length else _SequenceEpoch(self, index)

    def __iter__(self) -> Iterator[SizedIterable]:
        return map(self.__getitem__, itertools.count())

    def every(self, batch_count: int) -> "_Sequence":
        """The same batches in epochs of `batch_count` batches."""
        count = whole_number("every: `batch_count`", batch_count)
        cut = getattr(self.batches, "of_length", None)  # batches that are all alike may have any number
        return _Sequence(self.batches, self.length, count) if cut is None else _Sequence(cut(count), count, count)

    def one_epoch(self) -> SizedIterable:
        return self[0]


@dataclass(frozen=True, eq=False)
class _SequenceEpoch:
    """An epoch that is a part of a sequence, and can continue from its end to its beginning."""

    whole: _Sequence
    epoch: int

    def __len__(self) -> int:
        return self.whole.batch_count

    def __iter__(self) -> Iterator[Any]:
        start = self.epoch * len(self)
        return (self.whole.batches[index % self.whole.length] for index in range(start, start + len(self)))
