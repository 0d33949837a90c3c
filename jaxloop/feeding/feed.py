"""Feeding: the batches of a phase on their way from a user's data to the programs, as many at once as one takes."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxloop.data import Batches
from jaxloop.events import Phase
from jaxloop.feeding.contract import Contract, contract_of
from jaxloop.feeding.prefetch import prefetched
from jaxloop.feeding.prepare import Preparation
from jaxloop.feeding.reading import Position, Reader, check_ended, noting
from jaxloop.feeding.slots import ChunkSpec, HostSlots, Slots, slots_for
from jaxloop.feeding.source import Peekable, not_as_long
from jaxloop.feeding.specification import Batch, Specification, check_dtypes, of_lengths, rows_of, specification
from jaxloop.placement import Placement

Chunks = Generator[tuple[ChunkSpec, Any], None, None]
#: Looks into batches as they are read: given the index of the first, how many, and the batch, or several stacked.
Watch = Callable[[int, int, Any], None]
_DEPTH = 2  # dispatches that are read ahead: one waits while the other is read
_ALLOCATED = 32  # packed batches that share one piece of memory, since to ask for memory takes longer than to fill it


@dataclass(frozen=True)
class Feed:
    """The batches of one phase.

    Attributes:
      batches: as they travel, before what is left to the program.
      reader: takes each batch apart.
      placement: where they go.
      preparation: makes batches of what travels, inside the program; None if batches travel as they are.
      contract: what each batch must be like; None until the first was seen.
      watch: looks into the batches as they are read; None if nothing does.
    """

    batches: Peekable
    reader: Reader
    placement: Placement
    preparation: Preparation | None = None
    contract: Contract | None = None
    watch: Watch | None = None

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def agreed(self) -> Contract:
        """The contract, once there is one."""
        assert self.contract is not None
        return self.contract

    @property
    def resident(self) -> Any:
        """The samples on the device, if indices travel; else None."""
        return None if self.preparation is None else self.preparation.resident

    def begun(self, **options: Any) -> "Feed":
        """This feed with the contract that its first batch makes. The options are fields of `Contract`.

        No batch is read if the samples show what a batch is like.

        Raises:
          ValueError: JAX cannot take an array; or as `first`.
        """
        where, lengths = self.reader.where, self.batches.lengths
        if self.gathers:
            contract = Contract(where, self._gathered_kind(), True, lengths=lengths, **options)
        else:
            contract = contract_of(self._peeked(), where, lengths=lengths, **options)
        check_dtypes(contract.first, where)
        return replace(self, contract=contract)

    def agreeing(self, **changes: Any) -> "Feed":
        """This feed with another contract."""
        return replace(self, contract=replace(self.agreed, **changes))

    def first(self) -> Batch:
        """The first batch as it travels by itself, not packed. Reading still begins with it.

        Raises:
          As `chunks`.
        """
        return self._ready(self._peeked())

    def expected(self, steps: int) -> ChunkSpec:
        """What a dispatch of so many steps is given, if all batches are like the first."""
        contract = self.agreed
        return ChunkSpec(steps, contract.ready, self._packing if steps == 1 else None)

    def announced(self, steps: int) -> list[ChunkSpec]:
        """The same for a batch of each length that the data announce."""
        batches = of_lengths(self.agreed.ready.abstract, self.agreed.lengths)
        return [ChunkSpec(steps, specification(batch, self.reader.where)) for batch in batches]

    def chunks(self, steps: int, start: int = 0) -> Chunks:
        """The batches in order, `steps` at once: what they are like, and the batches stacked, or one batch packed.

        For an accelerator a thread reads them ahead and sends them. For a CPU none does: the next batches are gathered
        while the device works on those that were sent, and a thread would only take time from it.

        Args:
          steps: the most batches at once.
          start: the batch to begin with, a multiple of `steps`.

        Raises:
          ValueError: there are fewer than the data's length says, or more, or one is not like the first.
          Whatever the data raises, with a note of the batch.
        """
        chunks, placement = self._chunks(steps, start), self.placement
        if placement.is_cpu and placement.single:
            return chunks
        put = ((spec, placement.put_batch(batch, spec.rows, stacked=spec.steps > 1)) for spec, batch in chunks)
        return put if placement.is_cpu else prefetched(put, _DEPTH)

    def singles(self) -> Iterator[tuple[int | None, Batch]]:
        """Each batch, and how many examples it had before it was filled up, or None as `rows_of` gives it."""
        with self._noting(position := Position(0)):
            rest = self.batches.begun_at(0)
            for batch in itertools.islice(rest, len(self)):
                parts = self.reader.parts(batch)
                if not jax.tree.leaves(parts[0]):
                    raise ValueError(
                        f"{self.reader.where}: a batch holds no input to predict from. Write loop.model(None)."
                    )
                ready = self._ready(parts)
                yield rows_of(parts[:2]), self.placement.put_batch(ready, rows_of(ready))
                position.index += 1
            check_ended(self.batches, rest, self.reader.where, position)

    def _ready(self, parts: Batch) -> Batch:
        """One batch as it travels by itself, not packed, in memory of its own."""
        leaves, spec = self.agreed.fitted(parts)
        slots = slots_for(spec, leaves, 1, self.placement, None)
        slots.write(0, leaves)
        return slots.batch(0)

    def _peeked(self) -> Batch:
        """The parts of the first batch."""
        with self._noting(Position(0)):
            try:
                return self.reader.parts(self.batches.peek())
            except StopIteration:
                raise ValueError(not_as_long(self.reader.where, len(self), 0)) from None

    def _noting(self, position: Position) -> AbstractContextManager[None]:
        return noting(self.reader.where, len(self), position)

    def _chunks(self, steps: int, start: int) -> Chunks:
        gathered = self._gathered_until(start, steps)
        if gathered == start:
            return self._read(steps, start)
        packs = steps == 1 and self._packing is not None
        chunks = self._packed(start, gathered) if packs else self._gathered(steps, start, gathered)
        return chunks if gathered == len(self) else _one_after_the_other(chunks, self._read(steps, gathered))

    # --- gathered: our own batches, drawn from arrays at once

    def _gathered_until(self, start: int, steps: int) -> int:
        """The batch up to which whole dispatches can be gathered from `start` on."""
        if not self.gathers:
            return start
        if self.batches.batches.full:
            one_is_left = steps > 1 and (len(self) - start) % steps == 1
            return len(self) - (one_is_left and self._packing is not None)  # the one that is left is packed by `_read`
        return start + max(0, len(self) - 1 - start) // steps * steps

    def _gathered(self, steps: int, start: int, end: int) -> Chunks:
        """The batches up to `end`. They are alike by construction, so only their kind is checked."""
        with self._noting(position := Position(start)):
            batches: Batches = self.batches.batches
            ready, unweighted = self._kind_of_gathered()
            spec = ChunkSpec(steps, ready)
            while position.index < end:
                count = min(steps, end - position.index)
                spec = spec if count == spec.steps else ChunkSpec(count, ready)
                batch = batches[position.index] if count == 1 else batches.stacked(position.index, count)
                batch = self.reader.parts(batch)
                if unweighted:
                    shape, dtype = ready.kinds[-1]
                    batch = *batch[:2], np.ones(shape if count == 1 else (count, *shape), dtype)
                if self.watch is not None:
                    self.watch(position.index, count, batch)
                yield spec, batch
                position.index += count

    def _packed(self, start: int, end: int) -> Chunks:
        """The batches one by one, each packed. Small steps take this way, so it calls nothing of ours in each."""
        with self._noting(position := Position(start)):
            batches, watch, packing = self.batches.batches, self.watch, self._packing
            ready, _ = self._kind_of_gathered()
            samples, spec = jax.tree.leaves(self.reader.parts(batches.samples)), ChunkSpec(1, ready, packing)
            order, size = batches.order, batches.batch_size
            row = batches.first_row + start * size
            while position.index < end:
                slots = HostSlots(ready, min(_ALLOCATED, end - position.index), packing)
                pairs, words = list(zip(samples, slots.columns, strict=True)), slots.words
                assert words is not None
                for place in range(slots.count):
                    rows = slice(row, row + size) if order is None else order[row : row + size]
                    for leaf, column in pairs:
                        if order is None or leaf.dtype != column.dtype:  # `take` does not convert into `out`
                            column[place] = leaf[rows]
                        else:  # with "raise", NumPy would write to an array of its own first, and then copy it
                            leaf.take(rows, 0, column[place], "clip")
                    if watch is not None:
                        watch(position.index, 1, slots.batch(place))
                    yield spec, words[place]
                    row += size
                    position.index += 1

    def _kind_of_gathered(self) -> tuple[Specification, bool]:
        """What gathered batches are like when they are ready, and whether weights are added to them."""
        found = self._gathered_kind()
        ready = self.agreed.accepted(found)
        return ready, found.weight is None and ready.weight is not None

    @property
    def gathers(self) -> bool:
        """Whether the batches are our own, and can be drawn from arrays."""
        batches = self.batches.batches
        return isinstance(batches, Batches) and batches.can_be_gathered

    def _gathered_kind(self) -> Specification:
        """What the first gathered batch is like, as the samples show."""
        batches: Batches = self.batches.batches
        size = min(batches.batch_size, batches.sample_count - batches.first_row)
        return specification(self.reader.parts(batches.samples), self.reader.where).resized(size)

    # --- read: whatever can be iterated

    def _read(self, steps: int, start: int) -> Chunks:
        """The batches from `start` on, each written to its slot when it is read. Only equal kinds share a dispatch."""
        contract, watch, group = self.agreed, self.watch, None
        with self._noting(position := Position(start)):
            rest = self.batches.begun_at(start)
            for batch in itertools.islice(rest, len(self) - start):
                leaves, found = contract.fitted(self.reader.parts(batch))
                if group is None or group.held == group.places or (found is not group.batch and found != group.batch):
                    if group is not None and steps > 1:
                        yield from group.given(steps, mixes=contract.one_signature)
                    group = self._group(found, leaves, min(steps, len(self) - position.index))
                slots, place = group.slots, group.held
                slots.write(place, leaves)
                group.held += 1
                if watch is not None:
                    watch(position.index, 1, slots.batch(place))
                if steps == 1:
                    yield group.one, slots.alone(place)
                elif group.held == group.places:
                    yield from group.given(steps, mixes=contract.one_signature)
                    group = None
                position.index += 1
            if group is not None and steps > 1:
                yield from group.given(steps, mixes=contract.one_signature)
            check_ended(self.batches, rest, self.reader.where, position)

    def _group(self, batch: Specification, leaves: Sequence[Any], count: int) -> "_Group":
        """Room for `count` batches like this one, or for more if they travel one by one and packed."""
        packing = self._packing if count == 1 and batch is self.agreed.ready else None
        if packing is not None and any(isinstance(leaf, jax.Array) for leaf in leaves):
            packing = None  # it stays on its device, though the first batch was NumPy's and so is packed
        places = count if packing is None else _ALLOCATED
        slots = slots_for(batch, leaves, places, self.placement, packing)
        return _Group(slots, batch, ChunkSpec(1, batch, packing), places)

    @property
    def _packing(self) -> Any:
        return self.agreed.packing if self.placement.is_cpu and self.placement.single else None


@dataclass
class _Group:
    """Batches of one specification that were read but not yet given out.

    Attributes:
      slots: where they are.
      batch: what each is like.
      one: what a batch is like that travels by itself.
      places: how many there can be.
      held: how many there are.
    """

    slots: Slots
    batch: Specification
    one: ChunkSpec
    places: int
    held: int = 0

    def given(self, steps: int, *, mixes: bool) -> Chunks:
        """The batches, once no more come: together, or one by one if they are too few and others may be too.

        So each signature needs two programs, and not one for every number of equal batches in a row.

        Args:
          steps: how many a full dispatch has.
          mixes: whether all batches of the phase have one signature, so that only the last group is smaller.
        """
        if self.held == 1 or (self.held < steps and not mixes):
            yield from ((self.one, self.slots.alone(place)) for place in range(self.held))
        else:
            yield ChunkSpec(self.held, self.batch), self.slots.together(self.held)


def _one_after_the_other(*makers: Chunks) -> Chunks:
    for chunks in makers:
        yield from chunks


@dataclass(frozen=True)
class Feeds:
    """How each phase of a run is fed.

    Attributes:
      training: makes the feed of an epoch's batches.
      validation: the feed of validation; None if there is none.
    """

    training: Callable[[Peekable], Feed]
    validation: Feed | None

    def evaluated(self) -> tuple[tuple[Phase, Feed], ...]:
        """The phase of validation with its feed, if there is one."""
        return () if self.validation is None else ((Phase.VALIDATION, self.validation),)
