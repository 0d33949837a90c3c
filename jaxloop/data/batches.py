"""Batches: a lazy collection that has a length and can be indexed."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import jax
import numpy as np

from jaxloop.data.collate import collate as stacked_samples
from jaxloop.data.samples import OneByOne, Samples, checked, count_of, is_source

Collate = Callable[[list[Any]], Any]
#: Which rows of an array: a range of them, or each by its position.
Rows = slice | np.ndarray


@dataclass(frozen=True, eq=False, repr=False)  # eq=False: the comparison of two arrays is not a bool
class Batches:
    """A sized, indexable collection of batches. The samples of a batch are read when the batch is read.

    It is made by `TrainingEpochs` and `in_batches`. `batches[i]` is a batch, and `batches[i:j]` is a collection.

    Attributes:
      transforms: the functions that each batch passes through when it is read. If samples are read one at a time, the
        first of them makes a batch from a list of samples.
      shapes: the lengths that batches are padded to, so that programs have no more shapes than these; None if they are
        not limited.
      compiled: the functions that each batch passes through after `transforms`. In a fit they run inside of the step's
        program.
      resident: whether a fit keeps the samples on the device, and gathers batches there.
      order_length: how many samples the order names, some of them more than once; None for each sample once.

    Example:
      >>> batches = jl.in_batches((images, labels), 100)
      >>> len(batches), batches[2][0].shape, len(batches[:2])
      (3, (56, 8), 2)
    """

    _samples: Samples
    _batch_size: int
    _make_order: Callable[[], np.ndarray] | None
    transforms: tuple[Callable[[Any], Any], ...]
    _range: range
    shapes: tuple[int, ...] | None = None
    compiled: tuple[Callable[[Any], Any], ...] = ()
    resident: bool = False
    order_length: int | None = None

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return replace(self, _range=self._range[index])
        return self._transformed(self._gather(self._span(self._range[index])))

    def __iter__(self) -> Iterator[Any]:
        batches = (self._gather(self._span(index)) for index in self._range)
        return map(self._transformed, batches) if self.transforms or self.compiled else batches

    def __repr__(self) -> str:
        return f"Batches({len(self)} batches of {self._batch_size})"

    def map(self, transform: Callable[[Any], Any], *, compiled: bool = False) -> "Batches":
        """These batches, each passed through `transform` when it is read.

        Args:
          transform: makes a batch from a batch, with the same number of examples.
          compiled: whether `transform` is traced into the step's program. Then it must use `jax.numpy`, and the batch
            travels to the device before the transform, for example as images of bytes. Compiled transforms come after
            all that are not compiled.

        Raises:
          ValueError: `transform` is not compiled, but an earlier one is, or the samples are on the device.
        """
        if compiled:
            return replace(self, compiled=(*self.compiled, transform))
        if self.compiled or self.resident:
            why = "comes after one that is compiled" if self.compiled else "is given samples that are on the device"
            raise ValueError(f"map: this transform {why}: it must be compiled. Write .map(transform, compiled=True).")
        return replace(self, transforms=(*self.transforms, transform))

    def uncompiled(self) -> "Batches":
        """These batches before the compiled transforms. If samples are on the device: their indices, int32[batch]."""
        if not self.resident:
            return replace(self, compiled=())
        indices = _Indices(self._make_order, self.row_count)
        return replace(self, _samples=indices, _make_order=None, compiled=(), resident=False)

    @property
    def samples(self) -> Samples:
        """The samples that the batches are drawn from. If samples are on the device: their indices in order."""
        return self._samples.order if isinstance(self._samples, _Indices) else self._samples

    @property
    def batch_size(self) -> int:
        """Examples in a full batch."""
        return self._batch_size

    @property
    def can_be_gathered(self) -> bool:
        """Whether neighbours can be drawn from the samples at once: from arrays, with no transform in between."""
        return not self.transforms and not self.compiled and self._range.step == 1

    @property
    def first_row(self) -> int:
        """The position in the order at which the first batch begins."""
        return self._span(self._range.start).start

    def stacked(self, start: int, count: int) -> Any | None:
        """Batches `start` to `start + count`, gathered at once and stacked along a new leading axis.

        Returns:
          PyTree of (count, batch_size, ...). None if this is not possible: for batches that are not neighbours, that
          are not full, or that pass through a transform.
        """
        chosen = self._range[start : start + count]
        rows = slice(chosen.start * self._batch_size, chosen.stop * self._batch_size)
        if self.transforms or self.compiled or chosen.step != 1 or rows.stop > self.row_count:
            return None
        shape = (count, self._batch_size)  # full neighbours are one range of rows: one gather, and a reshape
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), self._gather(rows))

    def part(self, start: int, count: int, rows: Rows) -> Any:
        """Some rows of batches `start` to `start + count`, stacked along a new leading axis, or of one as they are.

        The other rows are not read. The batches must be such as can be gathered, and full.

        Args:
          start: the first batch.
          count: how many.
          rows: which rows of each.

        Returns:
          PyTree of (count, rows, ...), or of (rows, ...) for one batch.
        """
        chosen, size = self._range[start : start + count], self._batch_size
        if count == 1 and isinstance(rows, slice):  # a slice of the samples is not copied if they have no order
            begin, end, _ = rows.indices(size)
            return self._gather(slice(chosen.start * size + begin, chosen.start * size + end))
        positions = np.arange(chosen.start * size, chosen.stop * size).reshape(count, size)[:, rows]
        shape = positions.shape if count > 1 else positions.shape[1:]
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), self._gather(positions.ravel()))

    @property
    def full(self) -> bool:
        """Whether all batches have the same number of examples. If not, the last one has fewer."""
        ends = [self._span(index).stop for index in (*self._range[:1], *self._range[-1:])]
        return max(ends, default=0) <= self.row_count

    def rows(self) -> Iterator[Rows]:
        """The positions of each batch's samples: a slice, or indices if the batches have an order of their own."""
        order = self.order
        for index in self._range:
            rows = self._span(index)
            yield rows if order is None else order[rows]

    def _span(self, index: int) -> slice:
        """The positions of a batch in the order."""
        return slice(index * self._batch_size, (index + 1) * self._batch_size)

    @functools.cached_property
    def order(self) -> np.ndarray | None:
        """int[N]: the samples in the order in which batches are drawn; None for their own order."""
        return None if self._make_order is None else self._make_order()

    @functools.cached_property
    def _gather(self) -> Callable[[Any], Any]:
        """The function that reads the samples at given positions in the order, before any transform."""
        if isinstance(self._samples, _Indices):
            return self._samples.order.__getitem__
        order = self.order
        if isinstance(self._samples, OneByOne):
            return functools.partial(self._samples.rows, order)
        leaves, tree = jax.tree.flatten(self._samples)
        if order is None:
            return lambda rows: tree.unflatten([leaf[rows] for leaf in leaves])

        def gather(rows: Rows) -> Any:
            indices = order[rows]
            return tree.unflatten([leaf.take(indices, axis=0) for leaf in leaves])

        return gather

    @functools.cached_property
    def sample_count(self) -> int:
        """How many samples there are, of which batches may be a part."""
        return self._samples.count if isinstance(self._samples, _Indices) else count_of(self._samples)

    @property
    def row_count(self) -> int:
        """How many positions the order has."""
        return self.sample_count if self.order_length is None else self.order_length

    def _transformed(self, batch: Any) -> Any:
        for transform in (*self.transforms, *self.compiled):
            batch = transform(batch)
        return batch


def in_batches(
    samples: Samples,
    batch_size: int,
    *,
    collate: Collate = stacked_samples,
    size: Callable[[Any], Any] | None = None,
    lengths: Sequence[int] | None = None,
) -> Batches:
    """The samples in batches, for validation: in their order, or the largest first. The last batch may be short.

    Args:
      samples: PyTree of arrays with one leading axis, or a source: a list of samples, or any object with `__len__`
        and `__getitem__`.
      batch_size: the number of examples in a batch, at least 1.
      collate: makes a batch from a list of samples.
      size: gives the size of a sample, such as `len`. Then the samples are sorted by descending size, so that the
        samples of a batch have similar sizes. It is called once for each sample, when the first batch is read. None
        keeps the order of the samples.
      lengths: the lengths that `collate` pads to, or after a `.map` that changes them, for `Batches.shapes`; None if
        shapes are not limited.

    Raises:
      ValueError: leaves have unequal lengths, there is no sample, or the batch size is below 1.

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
    """Batches of samples in an order that is made once, when the first batch is read.

    Arrays that only need stacking are gathered at once. All other samples are read one at a time.
    """
    batch_size = int(batch_size)  # a number of NumPy would stand in shapes
    make_order = None if make_order is None else functools.cache(make_order)
    shapes = None if lengths is None else tuple(sorted(lengths))
    if collate is stacked_samples and not is_source(samples):
        return Batches(samples, batch_size, make_order, (), range(batch_count), shapes)
    return Batches(OneByOne(samples), batch_size, make_order, (collate,), range(batch_count), shapes)


@dataclass(frozen=True, eq=False)
class _Indices:
    """The indices of samples that are on the device."""

    make_order: Callable[[], np.ndarray] | None
    count: int

    @functools.cached_property
    def order(self) -> np.ndarray:
        """int32[count]: the indices of the samples, in order."""
        order = np.arange(self.count) if self.make_order is None else self.make_order()
        return order.astype(np.int32)


def _largest_first(samples: OneByOne, size: Callable[[Any], Any]) -> np.ndarray:
    return np.argsort(-samples.sizes("in_batches", size), kind="stable")
