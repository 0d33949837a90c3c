"""Feeding: from what a user gives as data to the batches that the programs take."""

import functools
import itertools
import operator
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np

from jaxloop.data import Batches, EmptyBatches
from jaxloop.events import Phase
from jaxloop.feeding.first import First
from jaxloop.feeding.packing import Packing
from jaxloop.feeding.padding import padded
from jaxloop.feeding.prefetch import prefetched
from jaxloop.feeding.prepare import Prepare
from jaxloop.feeding.source import first_of, is_left, not_as_long
from jaxloop.feeding.specification import (
    Batch,
    Specification,
    abstract,
    difference,
    of_lengths,
    parts_of,
    rows_of,
    signature_of,
    specification,
    stacked,
)
from jaxloop.placement import Device

OnRecompile = Literal["raise", "warn"]
Chunks = Generator[tuple[int, Any], None, None]
_EMPTY: Batch = (None, None, None)
_DEPTH = 2  # dispatches' batches that are read ahead: one that waits, one that is being read


@dataclass(frozen=True)
class Feed:
    """The batches of one phase, on their way to the device.

    Attributes:
      batches: a sized iterable of batches as the user has them.
      where: what the user calls them, for messages.
      batch_keys: names of input, target and weight where a batch is a mapping.
      padded: whether each batch is weighted, and the last padded to the size of the first.
      device: where the batches go.
      first_seen: holds what the first batch was like, once it has been read; shared by the feeds of all epochs.
      inputs_alone: whether a batch may be the input alone, as for predictions.
      short_last: whether a batch may have fewer examples than the first, as the last of an evaluation that
        cannot be padded.
      on_recompile: what is done about a batch that is not like the first: refused, or warned of.
      prepare: what makes batches of what travels, inside of the program; None where batches travel as they are.
      resident: the samples on the device, where indices travel.
      packs: whether a batch that goes alone may be packed, for the step's whole program.
      given: the batches before anything of them was left to the program, to be looked into.
      examples: how many a batch has by its loss; None where that is not known.
      watch: looks into the batches as they are read, see `Inspection.watching`; None where nothing does.
    """

    batches: Any
    where: str
    batch_keys: Sequence[str] | None
    padded: bool
    device: Device
    first_seen: list[First] = field(default_factory=list)
    short_last: bool = False
    inputs_alone: bool = False
    on_recompile: OnRecompile = "raise"
    prepare: Prepare | None = None
    resident: Any = None
    packs: bool = True
    given: Any = None
    examples: int | None = None
    watch: Callable[[int, int, Any], None] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def watched(self, watch: Callable[[int, int, Any], None] | None) -> "Feed":
        """This feed, its batches looked into by `watch` as they are read; they are not packed then."""
        return self if watch is None else replace(self, watch=watch, packs=False)

    def with_padding(self, padded: bool) -> "Feed":
        """This feed, for an evaluation: padded, or with a last batch that may be short."""
        if not self.first_seen[0].specification.leaves:  # where a batch holds nothing, none is short
            return self
        return replace(self, padded=padded, short_last=not padded)

    @property
    def batch_size(self) -> int:
        """Examples in a full batch, once one has been read."""
        return self.examples or self.first_seen[0].specification.batch_size

    @property
    def many_signatures(self) -> bool:
        """Whether batches of several shapes may come, so that a program is chosen for each."""
        return bool(self.lengths) or self.on_recompile == "warn"

    @functools.cached_property
    def packing(self) -> Packing | None:
        """How a batch that goes alone is packed, once one has been read; None where it is not."""
        return self.first_seen[0].packing if self.packs and self._on_cpu and self._alike else None

    def travelling(self, batch: Batch, count: int) -> Any:
        """`count` batches like `batch`, abstract, as `chunks` gives them."""
        if count == 1 and self.packing is not None:
            return self.packing.abstract
        return stacked(abstract(batch), count)

    def first(self) -> Batch:
        """The first batch, ready for a program or to be prepared in one. An iteration still begins with it.

        Raises:
          As `chunks`.
        """
        try:
            return self._ready(first_of(self.batches))
        except StopIteration:
            raise ValueError(not_as_long(self.where, len(self), 0)) from None
        except Exception as error:
            error.add_note(self._reading(0))
            raise

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that the data announce to be padded to; none where all batches are alike."""
        return getattr(self.batches, "shapes", None) or ()

    def announced(self) -> list[Batch]:
        """A batch of each announced length, as shapes and dtypes; see `of_lengths`."""
        return of_lengths(self.first(), self.lengths)

    def sized(self) -> Iterator[tuple[int | None, Batch]]:
        """The batches one by one, each with how many examples it has before it is padded, as `rows_of`."""
        sizes: list[int | None] = []

        def read(rest: Iterator[Any], _: Iterator[int]) -> Iterator[tuple[int, Batch]]:
            for batch in itertools.islice(rest, len(self)):
                if not jax.tree.leaves(self._parts(batch)[0]):
                    raise ValueError(f"{self.where}: a batch holds no input to predict from. Write loop.model(None).")
                sizes.append(rows_of(self._parts(batch)[:2]))
                yield 1, self._ready(batch)

        return ((sizes.pop(), batch) for _, batch in self._noted(read))

    def chunks(self, steps: int) -> Chunks:
        """The batches in order, `steps` at once: how many, and the batches stacked; a single one packed, if it can be.

        For an accelerator they are read ahead, and sent, by a thread. Not for a CPU: there the next are gathered while
        the device is at work on those that were sent, and a thread only takes its time.

        Raises:
          ValueError: there are fewer than the data's length says, or more, or one is not like the first.
          Whatever the data raises, with a note of the batch.
        """
        if steps == 1 and self._on_cpu and self._as_they_are and self.watch is None:
            return self._straight()
        chunks = self._noted(functools.partial(self._chunks, steps))
        return chunks if self._on_cpu else prefetched(chunks, _DEPTH)

    def _straight(self) -> Chunks:
        """Our own batches one by one, of which only the first is looked into. Each step takes this way: it is short."""
        batches = iter(self.batches)
        first = self._ready(next(batches))
        if self.packing is not None:
            pack, samples = self.packing.pack, jax.tree.leaves(self._parts(self.batches.samples))
            for rows in self.batches.rows():
                yield 1, pack(samples, rows)
            return
        yield 1, first
        for batch in batches:
            yield 1, self._parts(batch)

    def _noted(self, read: Callable[[Iterator[Any], Iterator[int]], Iterator[tuple[int, Any]]]) -> Chunks:
        """What `read` makes of the batches, which are run to their end, as `for` does: a loader may count its epochs.

        Args:
          read: is given an iterator of the batches, and numbers, of which it takes one for each batch that is read
            while others wait for it; it gives how many batches, and what they became.
        """
        done, total, numbers = 0, len(self), itertools.count()
        try:
            rest = iter(self.batches)
            for count, batch in read(rest, numbers):
                if self.watch is not None:
                    self.watch(done, count, batch)
                yield count, self._placed(batch)
                done += count
            goes_on = done == total and not isinstance(self.batches, (Batches, EmptyBatches)) and is_left(rest)
        except Exception as error:
            error.add_note(self._reading(max(done, next(numbers))))
            raise
        if done < total or goes_on:
            raise ValueError(not_as_long(self.where, total, done))

    def _reading(self, batch: int) -> str:
        place = f"batch {batch} of {len(self)} (counted from 0)" if batch < len(self) else f"after all {batch} batches"
        return f"jaxloop: while it read {self.where}, {place}"

    def _chunks(self, steps: int, rest: Iterator[Any], numbers: Iterator[int]) -> Iterator[tuple[int, Batch]]:
        if isinstance(self.batches, EmptyBatches):
            yield from ((len(self.batches[start : start + steps]), _EMPTY) for start in range(0, len(self), steps))
            return
        if steps == 1:
            batches = itertools.islice(rest, len(self))
            yield from self._straight() if self._as_they_are else ((1, self._alone(batch)) for batch in batches)
            return
        own = isinstance(self.batches, Batches)
        for start in range(0, len(self), steps):
            count = min(steps, len(self) - start)
            together = self.batches.stacked(start, count) if own and count > 1 else None
            if together is None:
                batches = (self.batches[start + index] for index in range(count)) if own else rest
                given = 0
                for number, batch in self._stacked(itertools.islice(batches, count), steps, numbers):
                    yield number, batch
                    given += number
                if given < count:
                    return
            elif start == 0 or self.padded:
                yield count, self._ready(together, axes=2)
            else:  # our own batches are alike by construction: only the first are looked into
                yield count, self._parts(together)

    @functools.cached_property
    def _as_they_are(self) -> bool:
        """Whether the batches are our own, alike by construction, and go into the program as they come."""
        own = isinstance(self.batches, Batches) and self.batches.full
        return own and not self.batches.transforms and not self.padded

    def _stacked(self, batches: Iterable[Any], steps: int, numbers: Iterator[int]) -> Iterator[tuple[int, Batch]]:
        """The batches along a new leading axis, each made ready as it is read; only what is of one shape is mixed.

        Where there are several shapes, those that do not make up `steps` go one by one: so each shape has two programs.
        Each that was read takes one of `numbers`.
        """
        if self._alike and self.first_seen and self.first_seen[0].on_host:
            count, together = self.first_seen[0].together(_numbered(map(self._leaves, batches), numbers), steps)
            if count == 1:
                yield 1, self._packed(jax.tree.map(lambda leaf: leaf[0], together))
            elif count:
                yield count, together
            return
        for _, alike in itertools.groupby(_numbered(map(self._ready, batches), numbers), key=signature_of):
            ready = list(alike)
            if len(ready) == 1 or (self.many_signatures and len(ready) < steps):
                yield from ((1, self._packed(batch)) for batch in ready)
            else:
                yield len(ready), jax.tree.map(lambda *leaves: np.stack(leaves), *ready)

    def _ready(self, batch: Any, axes: int = 1) -> Batch:
        """(input, target, weight), checked against the first; `axes` leading axes count examples."""
        input, target, weight = self._parts(batch)
        if not isinstance(self.batches, Batches):  # a loader may write the next batch into the same memory
            input, target, weight = jax.tree.map(self._own, (input, target, weight))
        found = specification((input, target) if self._evaluating else (input, target, weight), self.where, axes)
        if not self.first_seen:
            on_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((input, target, weight)))
            self.first_seen.append(First(found, on_host))
        if self.padded:
            input, target, weight = padded((input, target, weight), self.batch_size, axes)
        self._check(found)
        return input, target, weight

    def _alone(self, batch: Any) -> Any:
        """A batch as it travels alone."""
        if self.first_seen and self.packing is not None:
            return self.packing.pack(self._leaves(batch))
        return self._packed(self._ready(batch))

    def _packed(self, batch: Batch) -> Any:
        return batch if self.packing is None else self.packing.pack(jax.tree.leaves(batch))

    def _leaves(self, batch: Any) -> list[Any]:
        """The arrays of what `_ready` makes of a batch; where it is like the first, on a short way and not copied."""
        leaves = self.first_seen[0].leaves_of(self._parts(batch))
        return jax.tree.leaves(self._ready(batch)) if leaves is None else leaves

    @property
    def _evaluating(self) -> bool:
        """Whether a batch may be short, and batches with weights and without may follow each other."""
        return self.padded or self.short_last

    @property
    def _alike(self) -> bool:
        """Whether all batches must be of one kind, weights included."""
        return not (self._evaluating or self.many_signatures)

    def _parts(self, batch: Any) -> Batch:
        if self.prepare is not None:
            return batch, None, None
        return parts_of(batch, self.batch_keys, self.where, inputs_alone=self.inputs_alone)

    def _check(self, found: Specification) -> None:
        first = expected = self.first_seen[0].specification
        if self._evaluating:
            size = min(found.batch_size, expected.batch_size)
            found, expected = found.resized(size), expected.resized(size)
        if found == expected or found.is_bucketed_as(expected, getattr(self.batches, "shapes", None)):
            return
        change = difference(found, expected, first)
        message = f"{self.where}: every batch must be like the first; {change}."
        if self.on_recompile == "raise":
            raise ValueError(f"{message} To compile a program for each kind instead, give on_recompile='warn'.")
        warnings.warn(f"{message} A program is compiled for it.", stacklevel=2)

    def _own(self, leaf: Any) -> Any:
        """A copy in NumPy; a JAX array as it is, moved here if it lies elsewhere: programs are of one device."""
        if not isinstance(leaf, jax.Array):
            return np.array(np.asarray(leaf))  # in two steps: not every array of others can be asked for a copy
        return leaf if leaf.devices() == {self.device} else jax.device_put(leaf, self.device)

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

    def evaluated(self) -> tuple[tuple[Phase, Feed], ...]:
        """The phase of validation with its feed, if there is one."""
        return () if self.validation is None else ((Phase.VALIDATION, self.validation),)


def _numbered(items: Iterable[Any], numbers: Iterator[int]) -> Iterator[Any]:
    """The items, each of which takes one of `numbers` once it is there. No Python runs for it."""
    return map(operator.itemgetter(0), zip(items, numbers, strict=False))
