"""Epochs and batches over arrays: lazy, sized, and reached by position alone."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

import jax
import numpy as np

Samples = Any


@dataclass(frozen=True, eq=False)
class Batches:
    """A sized, indexable collection of batches. Nothing is read from the samples until a batch is.

    Made by `TrainingEpochs` and `in_batches`. `batches[i]` is a batch, `batches[i:j]` a collection.

    Attributes:
      transforms: what each batch passes through when it is read.
    """

    _samples: Samples
    _batch_size: int
    _make_order: Callable[[], np.ndarray] | None
    transforms: tuple[Callable[[Any], Any], ...]
    _range: range

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
        if self.transforms or chosen.step != 1 or rows.stop > _count(self._samples):
            return None
        shape = (count, self._batch_size)
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), self._gather(rows))

    @functools.cached_property
    def _order(self) -> np.ndarray | None:
        return None if self._make_order is None else self._make_order()

    def _gather(self, rows: slice) -> Any:
        order, (leaves, tree) = self._order, self._flat
        if order is None:
            return tree.unflatten([leaf[rows] for leaf in leaves])
        indices = order[rows]
        return tree.unflatten([leaf.take(indices, axis=0) for leaf in leaves])

    @functools.cached_property
    def _flat(self) -> tuple[list[np.ndarray], Any]:
        return jax.tree.flatten(self._samples)

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
      samples: PyTree of arrays with one leading axis of length N, such as `(images, labels)`.
      batch_size: examples in a batch, from 1 to N.
      seed: of the order.

    Raises:
      ValueError: leaves of unequal length, no sample, or a batch size outside 1 to N.

    Example:
      >>> epochs = TrainingEpochs((images, labels), batch_size=128)
      >>> len(epochs[0]), epochs[3][7]
    """

    samples: Samples
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        samples, count = _checked("TrainingEpochs", self.samples, self.batch_size)
        if not isinstance(self.seed, (int, np.integer)) or self.seed < 0:
            raise ValueError(f"TrainingEpochs: `seed` must be a whole number of at least 0, got {self.seed!r}.")
        if self.batch_size > count:
            raise ValueError(
                f"TrainingEpochs: `batch_size` must be at most the number of samples, {count}, "
                f"got {self.batch_size}; an epoch would have no batch."
            )
        object.__setattr__(self, "samples", samples)

    @functools.cached_property
    def sample_count(self) -> int:
        """How many samples there are."""
        return _count(self.samples)

    @property
    def batch_count(self) -> int:
        """How many batches an epoch has."""
        return self.sample_count // self.batch_size

    @overload
    def __getitem__(self, index: int) -> Batches: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batches]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            if index.stop is None or index.stop < 0 or (index.start or 0) < 0:
                raise ValueError(
                    f"TrainingEpochs: epochs are counted from 0 and have no end, got {index}. Write epochs[:10]."
                )
            return [self[position] for position in range(index.start or 0, index.stop, index.step or 1)]
        if index < 0:
            raise IndexError(f"TrainingEpochs: epochs are counted from 0 and have no end, got {index}.")
        order = functools.partial(_shuffled, self.sample_count, self.seed, int(index))
        return Batches(self.samples, self.batch_size, order, (), range(self.batch_count))

    def __iter__(self) -> Iterator[Batches]:
        index = 0
        while True:
            yield self[index]
            index += 1

    def __repr__(self) -> str:
        return (
            f"TrainingEpochs({self.sample_count} samples, batch_size={self.batch_size}, "
            f"{self.batch_count} batches an epoch, seed={self.seed})"
        )


def in_batches(samples: Samples, batch_size: int) -> Batches:
    """The samples in their order, in batches; the last may be short. For validation.

    Args:
      samples: PyTree of arrays with one leading axis.
      batch_size: examples in a batch, at least 1.

    Raises:
      ValueError: leaves of unequal length, no sample, or a batch size below 1.

    Example:
      >>> [len(labels) for _, labels in in_batches((images, labels), 64)]
    """
    samples, count = _checked("in_batches", samples, batch_size)
    return Batches(samples, batch_size, None, (), range(-(-count // batch_size)))


def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _count(samples: Samples) -> int:
    return len(jax.tree.leaves(samples)[0])


def _checked(where: str, samples: Samples, batch_size: int) -> tuple[Samples, int]:
    """The samples as NumPy arrays, and how many there are."""
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"{where}: `batch_size` must be a whole number of at least 1, got {batch_size!r}.")
    samples = jax.tree.map(np.asarray, samples)
    lengths = {
        jax.tree_util.keystr(path): len(leaf) if leaf.ndim else None
        for path, leaf in jax.tree_util.tree_leaves_with_path(samples)
    }
    if len(set(lengths.values())) != 1 or None in lengths.values():
        listed = [f"{path or 'samples'}: {length}" for path, length in lengths.items()] or ["no array"]
        found = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
        raise ValueError(
            f"{where}: all samples' arrays must share one leading axis, got lengths {found}. "
            "Make lists into arrays, by numpy.asarray."
        )
    count = next(iter(lengths.values()))
    if not count:
        raise ValueError(f"{where}: there are no samples.")
    return samples, count
