"""Feeding: the batches of a phase on their way from a user's data to the programs, as many at once as one takes."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxloop.data import Batches
from jaxloop.data.batches import Rows
from jaxloop.data.steps import EmptyBatches
from jaxloop.events import Split
from jaxloop.feeding.checksums import sampled
from jaxloop.feeding.contract import Contract, contract_of
from jaxloop.feeding.dividing import Sender, Share, check_divides, divided, share_of, spans_processes
from jaxloop.feeding.gathering import Gathering, Watch, can_gather, gathered_kind
from jaxloop.feeding.grouping import ALLOCATED, Chunks, Group
from jaxloop.feeding.prefetch import prefetched
from jaxloop.feeding.prepare import Preparation
from jaxloop.feeding.reading import Position, Reader, check_ended, noting
from jaxloop.feeding.slots import ChunkSpec, slots_for
from jaxloop.feeding.source import Peekable, look, not_as_long
from jaxloop.feeding.specification import Batch, Specification, check_dtypes, of_lengths, rows_of, specification
from jaxloop.placement import Placement

_DEPTH = 2  # dispatches that are read ahead: one waits while the other is read


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
          ValueError: JAX cannot take an array; batches do not divide over the devices; or as `first`.
        """
        where, lengths, shared = self.reader.where, self.batches.lengths, False
        if self.gathers:
            contract = Contract(
                where, gathered_kind(self.batches.batches, self.reader), True, lengths=lengths, **options
            )
        else:
            first = self._peeked()
            shared = self.is_foreign and not any(map(spans_processes, jax.tree.leaves(first)))
            contract = contract_of(first, where, lengths=lengths, **options)
        check_dtypes(contract.first, where)
        return replace(self, contract=divided(contract, self.placement, shared=shared))

    def agreeing(self, **changes: Any) -> "Feed":
        """This feed with another contract.

        Raises:
          ValueError: no batch is filled up any more, so that those of several processes do not divide.
        """
        contract = replace(self.agreed, **changes)
        if contract.shares is not None and contract.short != "filled":
            check_divides(contract, self.placement, rows_of(contract.first.abstract))
        return replace(self, contract=contract)

    def first(self) -> Batch:
        """The first batch as it travels by itself, not packed: what this process reads. Reading still begins with it.

        Raises:
          As `chunks`.
        """
        return self._ready(self._peeked())[1]

    def probe(self) -> Batch:
        """A batch like the first to make a model by. It is the same on all processes, so what is made of it is.

        The first batch, but where each process reads other data: zeros of the shapes of the batch that all make.
        """
        if not self.is_foreign:
            return self.first()
        ready = self.agreed.ready
        return ready.tree.unflatten(
            np.zeros(shape, jax.dtypes.canonicalize_dtype(dtype)) for shape, dtype in ready.kinds
        )

    def agreement(self) -> dict[str, str]:
        """What several processes must agree on, as text: for each key that several have, the same value.

        If processes have the same rows, as where a model is divided over them, that they read the same is seen in the
        first batch.
        """
        where, contract = self.reader.where, self.agreed
        kinds = ", ".join(f"{path} {dtype.name}{list(shape)}" for path, shape, dtype in contract.ready.leaves)
        found = {f"{where}: a batch": f"{kinds or 'nothing'}; of {contract.batch_size} examples"}
        found[f"{where}: how many batches"] = str(len(self))
        batches, share = self.batches.batches, share_of(self.placement)
        if isinstance(batches, Batches):
            found[f"{where}: samples and their order"] = str(look(batches, 0))
        if share is not None and share.others_too and not self.gathers:
            parts = ", ".join(map(str, share.mine))
            found[f"{where}: part{'s' * (len(share.mine) > 1)} {parts} of the first batch"] = str(sampled(self.first()))
        return found

    @property
    def is_foreign(self) -> bool:
        """Whether each of several processes reads a loader of its own, whose batches are its share."""
        return self.placement.several_processes and not isinstance(self.batches.batches, (Batches, EmptyBatches))

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
        # Arrays of several processes may have to be moved by a program of theirs, which a thread must not start.
        moves = placement.several_processes and not self.agreed.on_host
        return chunks if placement.is_cpu or moves else prefetched(chunks, _DEPTH)

    def singles(self) -> Iterator[tuple[Rows, Batch]]:
        """Each batch, and which of its rows are examples that were read here, and do not only fill it up."""
        with self._noting(position := Position(0)):
            send, rest = self._sender(self._share), self.batches.begun_at(0)
            for batch in itertools.islice(rest, len(self)):
                parts = self.reader.parts(batch)
                if not jax.tree.leaves(parts[0]):
                    raise ValueError(
                        f"{self.reader.where}: a batch holds no input to predict from. Write loop.model(None)."
                    )
                spec, ready = self._ready(parts)
                yield self._rows(rows_of(parts[:2]), spec), send(ChunkSpec(1, spec), ready)
                position.index += 1
            check_ended(self.batches, rest, self.reader.where, position)

    def _rows(self, count: int | None, spec: Specification) -> Rows:
        if self._share is None:
            return slice(count)
        rows = self._share.rows(spec.batch_size)
        return np.arange(spec.batch_size)[rows][:count]

    def _ready(self, parts: Batch) -> tuple[Specification, Batch]:
        """One batch as it travels by itself, not packed, in memory of its own; and what it is like as a whole."""
        leaves, found = self.agreed.read.fitted(parts)
        slots = slots_for(found, leaves, 1, self.placement, None)
        slots.write(0, leaves)
        return self._whole(found), slots.batch(0)

    def _gathering(self) -> tuple[Gathering, Share | None]:
        """The batches as they are gathered, and the share of them that is gathered here; None if it is all."""
        contract = self.agreed
        share = share_of(self.placement)
        if share is not None and contract.ready.batch_size % share.parts:
            share = None  # a batch that does not divide lies whole on each device
        rows = None if share is None else share.rows(contract.ready.batch_size)
        batches: Batches = self.batches.batches
        return Gathering(batches, self.reader, contract, self._packing, self.watch, rows), share

    def _sent(self, chunks: Chunks, share: Share | None) -> Chunks:
        if self.placement.is_cpu and self.placement.single:
            return chunks
        send = self._sender(share)
        return ((spec, send(spec, batch)) for spec, batch in chunks)

    def _sender(self, share: Share | None) -> Sender:
        return Sender(self.placement, share, only_global=self.is_foreign and share is None)

    @property
    def _share(self) -> Share | None:
        """What is read here of a batch; None if it is all."""
        return None if self.agreed.shares is None else share_of(self.placement)

    @property
    def gathers(self) -> bool:
        """Whether the batches are our own, and can be drawn from arrays."""
        return can_gather(self.batches.batches)

    def _whole(self, found: Specification) -> Specification:
        """What a batch is like of which `found` is what this process reads."""
        return found if self._share is None else self.agreed.ready

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
        """The chunks, sent where that takes more than to give them."""
        if not self.gathers:
            return self._sent(self._read(steps, start), self._share)
        gathering, share = self._gathering()
        end = gathering.until(start, steps)
        if end == start:
            return self._sent(self._read(steps, start), self._share)
        chunks = self._sent(gathering.chunks(steps, start, end), share)
        if end == len(self):
            return chunks
        return _one_after_the_other(chunks, self._sent(self._read(steps, end), self._share))

    # --- read: whatever can be iterated

    def _read(self, steps: int, start: int) -> Chunks:
        """The batches from `start` on, each written to its slot when it is read. Only equal kinds share a dispatch."""
        contract, watch, group = self.agreed.read, self.watch, None
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

    def _group(self, batch: Specification, leaves: Sequence[Any], count: int) -> Group:
        """Room for `count` batches like this one, or for more if they travel one by one and packed."""
        packing = self._packing if count == 1 and batch is self.agreed.ready else None
        if packing is not None and any(isinstance(leaf, jax.Array) for leaf in leaves):
            packing = None  # it stays on its device, though the first batch was NumPy's and so is packed
        places = count if packing is None else ALLOCATED
        slots = slots_for(batch, leaves, places, self.placement, packing)
        return Group(slots, batch, ChunkSpec(1, self._whole(batch), packing), places)

    @property
    def _packing(self) -> Any:
        return self.agreed.packing if self.placement.is_cpu and self.placement.single else None


def _one_after_the_other(*makers: Chunks) -> Chunks:
    for chunks in makers:
        yield from chunks


@dataclass(frozen=True)
class Feeds:
    """How each phase of a run is fed.

    Attributes:
      training: makes the feed of an epoch's batches.
      validation: the feed of each set that is validated on, in order; none if there is no validation.
    """

    training: Callable[[Peekable], Feed]
    validation: Mapping[Split, Feed]

    @property
    def only(self) -> Feed:
        """The feed of an evaluation or a prediction."""
        (feed,) = self.validation.values()
        return feed
