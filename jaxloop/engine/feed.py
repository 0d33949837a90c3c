"""Feeding: from what a user gives as data to the batches that the programs take."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxloop.data import Batches
from jaxloop.placement import Device

Batch = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Feed:
    """The batches of one phase, on their way to the device.

    Attributes:
      batches: a sized iterable of batches as the user has them.
      where: what the user calls them, for messages.
      batch_keys: names of input, target and weight where a batch is a mapping.
      padded: whether each batch is weighted, and the last padded to the size of the first.
      device: where the batches go.
      first_specification: holds what the first batch was like, once it has been read; shared by the feeds of
        all epochs.
      inputs_alone: whether a batch may be the input alone, as for predictions.
      short_last: whether a batch may have fewer examples than the first, as the last of an evaluation that
        cannot be padded.
    """

    batches: Any
    where: str
    batch_keys: Sequence[str] | None
    padded: bool
    device: Device
    first_specification: list["Specification"] = field(default_factory=list)
    short_last: bool = False
    inputs_alone: bool = False

    def __len__(self) -> int:
        return len(self.batches)

    def with_padding(self, padded: bool) -> "Feed":
        """This feed, for an evaluation: padded, or with a last batch that may be short."""
        return replace(self, padded=padded, short_last=not padded)

    @property
    def batch_size(self) -> int:
        """Examples in a full batch, once one has been read."""
        return self.first_specification[0].batch_size

    def first(self) -> Batch:
        """The first batch, ready for a program."""
        return self._ready(next(iter(self.batches)))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that the data announce to be padded to; none where all batches are alike."""
        return getattr(self.batches, "shapes", None) or ()

    def announced(self) -> list[Batch]:
        """A batch of each announced length, as shapes and dtypes.

        What is padded is the second axis of every array in which it is as long as in the first that it can be.
        """
        batch = self.first()
        seconds = [leaf.shape[1] for leaf in jax.tree.leaves(batch) if leaf.ndim > 1 and leaf.shape[1] in self.lengths]
        if not seconds:
            return []

        def resized(leaf: Any, length: int) -> jax.ShapeDtypeStruct:
            padded = leaf.ndim > 1 and leaf.shape[1] == seconds[0]
            shape = (leaf.shape[0], length, *leaf.shape[2:]) if padded else leaf.shape
            return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

        return [jax.tree.map(functools.partial(resized, length=length), batch) for length in self.lengths]

    def sized(self) -> Iterator[tuple[int, Batch]]:
        """The batches one by one, each with how many examples it has before it is padded."""
        for batch in self.batches:
            input = self._parts(batch)[0]
            yield len(jax.tree.leaves(input)[0]), self._placed(self._ready(batch))

    def chunks(self, steps: int) -> Iterator[tuple[int, Batch]]:
        """The batches in order, `steps` at once: how many, and the batches stacked (a single one is not).

        Raises:
          ValueError: there are fewer than the data's length says, or one is not like the first.
          Whatever the data raises, with a note of the batch.
        """
        done = 0
        try:
            for count, batch in self._chunks(steps):
                yield count, self._placed(batch)
                done += count
        except Exception as error:
            error.add_note(f"jaxloop: while it read {self.where}, batch {done} of {len(self)} (counted from 0)")
            raise
        if done < len(self):
            raise ValueError(
                f"{self.where}: it ended after {done} of the {len(self)} batches that its length promises. A generator "
                "is spent after one pass; give what can be iterated anew each epoch."
            )

    def _chunks(self, steps: int) -> Iterator[tuple[int, Batch]]:
        if steps == 1:
            for batch in self._singles():
                yield 1, batch
            return
        rest = iter(self.batches) if not isinstance(self.batches, Batches) else None
        for start in range(0, len(self), steps):
            count = min(steps, len(self) - start)
            if rest is not None:
                yield from self._stacked(itertools.islice(rest, count))
                continue
            stacked = self.batches.stacked(start, count) if count > 1 else None
            if stacked is None:
                yield from self._stacked(self.batches[start + index] for index in range(count))
            elif start == 0 or self.padded:
                yield count, self._ready(stacked, axes=2)
            else:  # our own batches are alike by construction: only the first are looked into
                yield count, parts_of(stacked, self.batch_keys, self.where)

    def _singles(self) -> Iterator[Batch]:
        """The batches one by one, ready; of our own, again only the first is looked into."""
        if not isinstance(self.batches, Batches) or self.batches.transforms or self.padded:
            yield from map(self._ready, itertools.islice(self.batches, len(self)))
            return
        batches = iter(self.batches)
        yield self._ready(next(batches))
        for batch in batches:
            yield parts_of(batch, self.batch_keys, self.where)

    def _stacked(self, batches: Iterable[Any]) -> Iterator[tuple[int, Batch]]:
        """The batches along a new leading axis, each made ready as it is read; only what is of one shape is mixed."""
        for _, alike in itertools.groupby(map(self._ready, batches), key=kind_of):
            ready = list(alike)
            one = ready[0] if len(ready) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *ready)
            yield len(ready), one

    def _ready(self, batch: Any, axes: int = 1) -> Batch:
        """(input, target, weight), checked against the first; `axes` leading axes count examples."""
        input, target, weight = self._parts(batch)
        if not isinstance(self.batches, Batches):  # a loader may write the next batch into the same memory
            input, target, weight = jax.tree.map(_own, (input, target, weight))
        found = specification((input, target), self.where, axes)
        if not self.first_specification:
            self.first_specification.append(found)
        if self.padded:
            weight = np.ones(_leading_axis(input, axes), np.float32) if weight is None else weight
            if found.batch_size < self.batch_size:
                input, target, weight = _pad((input, target, weight), self.batch_size)
        self._check(found)
        return input, target, weight

    def _parts(self, batch: Any) -> Batch:
        if self.inputs_alone and not isinstance(batch, (tuple, list, Mapping)):
            return batch, None, None
        return parts_of(batch, self.batch_keys, self.where)

    def _check(self, found: "Specification") -> None:
        expected = self.first_specification[0]
        if self.padded or self.short_last:
            size = min(found.batch_size, expected.batch_size)
            found, expected = found.resized(size), expected.resized(size)
        if found == expected or found.is_bucketed_as(expected, getattr(self.batches, "shapes", None)):
            return
        if found.tree != expected.tree:
            raise ValueError(
                f"{self.where}: every batch must be like the first; its structure was {expected.tree} there, now it "
                f"is {found.tree}."
            )
        pairs = zip(found.leaves, self.first_specification[0].leaves, expected.leaves, strict=True)
        (path, shape, dtype), (_, full, first_dtype), _ = next(pair for pair in pairs if pair[0] != pair[2])
        raise ValueError(
            f"{self.where}: every batch must be like the first; {path} was {first_dtype.name}{list(full)} there, "
            f"now it is {dtype.name}{list(shape)}."
        )

    @functools.cached_property
    def _on_cpu(self) -> bool:
        return self.device.platform == "cpu"

    def _placed(self, batch: Batch) -> Batch:
        """On the CPU a NumPy batch goes straight into the program; elsewhere its transfer starts now."""
        return batch if self._on_cpu else jax.device_put(batch, self.device)


@dataclass(frozen=True)
class Feeds:
    """How each phase of a fit is fed.

    Attributes:
      training: makes the feed of an epoch's batches.
      validation: or None where there is none.
    """

    training: Callable[[Any], Feed]
    validation: Feed | None


def parts_of(batch: Any, batch_keys: Sequence[str] | None, where: str) -> Batch:
    """(input, target, weight) of a batch as a user gives it; the weight may be None.

    Raises:
      ValueError: it is neither (input, target), (input, target, weight), nor a mapping that has `batch_keys`.
    """
    if type(batch) is not tuple and isinstance(batch, Mapping):
        if batch_keys is None:
            raise ValueError(
                f"{where}: a batch is a mapping of {', '.join(map(str, batch))}; say which of them are input and "
                "target, as TrainingLoop(..., batch_keys=('image', 'label'))."
            )
        missing = [key for key in batch_keys if key not in batch]
        if missing:
            raise ValueError(f"{where}: a batch has no {missing[0]!r}; it has {', '.join(map(str, batch))}.")
        batch = tuple(batch[key] for key in batch_keys)
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"{where}: a batch must be (input, target) or (input, target, weight), got {what}.")
    return (*batch, None) if len(batch) == 2 else tuple(batch)


class Specification(NamedTuple):
    """What batches have in common: the structure of (input, target); path, shape and dtype of each array."""

    tree: Any
    leaves: tuple[tuple[str, tuple[int, ...], Any], ...]

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return self.leaves[0][1][0]

    def resized(self, batch_size: int) -> "Specification":
        """The same of batches of another size, where all arrays have one."""
        sizes = {shape[0] for _, shape, _ in self.leaves}
        if len(sizes) != 1:
            return self
        resized = ((path, (batch_size, *shape[1:]), dtype) for path, shape, dtype in self.leaves)
        return Specification(self.tree, tuple(resized))

    def is_bucketed_as(self, other: "Specification", lengths: tuple[int, ...] | None) -> bool:
        """Whether the two differ in nothing but axes whose lengths are among `lengths`."""
        if lengths is None or self.tree != other.tree:
            return False

        def alike(one: int, another: int) -> bool:
            return one == another or (one in lengths and another in lengths)

        return all(
            dtype == other_dtype
            and len(shape) == len(other_shape)
            and shape[0] == other_shape[0]
            and all(map(alike, shape[1:], other_shape[1:]))
            for (_, shape, dtype), (_, other_shape, other_dtype) in zip(self.leaves, other.leaves, strict=True)
        )


def specification(batch: Any, where: str = "batch", axes: int = 1) -> Specification:
    """The specification of (input, target), or of several of them stacked along further leading axes.

    Raises:
      ValueError: something in it is no array with a leading axis of examples.
    """
    names = ("input", "target")
    paths, tree = jax.tree_util.tree_flatten_with_path(batch)
    leaves = []
    for path, leaf in paths:
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        if np.ndim(leaf) < axes:
            raise ValueError(
                f"{where}: {name} must be an array whose first axis counts examples, got {type(leaf).__name__} "
                f"{leaf!r:.60}. Make lists into arrays, by numpy.asarray."
            )
        leaves.append((name, leaf.shape[axes - 1 :], leaf.dtype))
    return Specification(tree, tuple(leaves))


def kind_of(batch: Batch | None) -> Any:
    """What a program depends on in a batch: structure, shapes and dtypes."""
    leaves, tree = jax.tree.flatten(batch)
    return tree, tuple((leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves)


class EpochSource:
    """Epochs by their index in the life of a loop: looked up where the data can be, else taken one by one."""

    def __init__(self, training: Any):
        self._training = training
        self._rest = None if hasattr(training, "__getitem__") else iter(training)
        self._taken: tuple[int, Any] = (-1, None)

    def at(self, index: int) -> Any:
        """Epoch `index`, counted from 0. The epoch last asked for can be had again.

        Raises:
          ValueError: there is no such epoch.
        """
        if self._taken[0] != index:
            try:
                epoch = self._training[index] if self._rest is None else next(self._rest)
            except (IndexError, StopIteration) as error:
                raise ValueError(
                    f"training: it has no epoch {index} (counted from 0); give more epochs, or train fewer."
                ) from error
            self._taken = (index, epoch)
        return self._taken[1]


def limited(batches: Any, count: int | None) -> Any:
    """The first `count` batches."""
    if count is None or len(batches) <= count:
        return batches
    if isinstance(batches, (Batches, list, tuple)):
        return batches[:count]
    return _First(batches, count)


@dataclass(frozen=True)
class _First:
    batches: Iterable[Any]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.batches), self.count)


def _leading_axis(tree: Any, axes: int = 1) -> tuple[int, ...]:
    return jax.tree.leaves(tree)[0].shape[:axes]


def _own(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def _pad(batch: Batch, size: int) -> Batch:
    """The batch filled up to `size` examples by its last one, which weigh nothing."""
    input, target, weight = batch
    missing = size - len(weight)

    def fill(leaf: Any) -> Any:
        return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), missing, axis=0)])

    nothing = np.zeros((missing, *weight.shape[1:]), weight.dtype)
    return *jax.tree.map(fill, (input, target)), np.concatenate([weight, nothing])
