"""Gathering: our own batches, drawn from arrays at once, not one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.data import Batches
from jaxloop.data.batches import Rows
from jaxloop.feeding.contract import Contract
from jaxloop.feeding.grouping import ALLOCATED, Chunks
from jaxloop.feeding.packing import Packing
from jaxloop.feeding.reading import Position, Reader, noting
from jaxloop.feeding.slots import ChunkSpec, HostSlots
from jaxloop.feeding.specification import Specification, specification

#: Looks into batches as they are read: given the index of the first, how many, and the batch, or several stacked.
Watch = Callable[[int, int, Any], None]


def can_gather(batches: Any) -> bool:
    """Whether batches are our own, and can be drawn from arrays."""
    return isinstance(batches, Batches) and batches.can_be_gathered


def gathered_kind(batches: Batches, reader: Reader) -> Specification:
    """What the first gathered batch is like, as the samples show. No batch is read."""
    size = min(batches.batch_size, batches.row_count - batches.first_row)
    return specification(reader.parts(batches.samples), reader.where).resized(size)


@dataclass(frozen=True)
class Gathering:
    """The batches of a phase that can be gathered.

    Attributes:
      batches: the batches.
      reader: takes each apart.
      contract: of the phase.
      packing: how a batch that goes by itself is packed; None where it is not.
      watch: looks into the batches; None if nothing does.
      rows: which rows of each batch are gathered, since other processes have the others; None for all.
    """

    batches: Batches
    reader: Reader
    contract: Contract
    packing: Packing | None
    watch: Watch | None
    rows: Rows | None = None

    def until(self, start: int, steps: int) -> int:
        """The batch up to which whole dispatches can be gathered from `start` on: none if each must be filled up."""
        total = len(self.batches)
        if self.contract.ready.batch_size != self.contract.first.batch_size:
            return start
        if self.batches.full:
            one_is_left = steps > 1 and (total - start) % steps == 1
            return total - (one_is_left and self.packing is not None)  # the one that is left is packed when it is read
        return start + max(0, total - 1 - start) // steps * steps

    def chunks(self, steps: int, start: int, end: int) -> Chunks:
        """The batches from `start` to `end`, `steps` at once. They are alike by construction: their kind is checked.

        Of a batch that several processes have together, it is this one's rows.
        """
        if steps == 1 and self.packing is not None:
            return self._packed(start, end)
        return self._stacked(steps, start, end)

    def _stacked(self, steps: int, start: int, end: int) -> Chunks:
        batches, rows, position = self.batches, self.rows, Position(start)
        with noting(self.reader.where, len(batches), position):
            ready, unweighted = self._kind()
            spec = ChunkSpec(steps, ready)
            while position.index < end:
                count = min(steps, end - position.index)
                spec = spec if count == spec.steps else ChunkSpec(count, ready)
                if rows is not None:
                    batch = batches.part(position.index, count, rows)
                else:
                    batch = batches[position.index] if count == 1 else batches.stacked(position.index, count)
                batch = self.reader.parts(batch)
                if unweighted:
                    batch = *batch[:2], self._weights(ready, count)
                if self.watch is not None:
                    self.watch(position.index, count, batch)
                yield spec, batch
                position.index += count

    def _packed(self, start: int, end: int) -> Chunks:
        """The batches one by one, each packed. Small steps take this way, so it calls nothing of ours in each."""
        batches, watch, packing, position = self.batches, self.watch, self.packing, Position(start)
        with noting(self.reader.where, len(batches), position):
            ready, _ = self._kind()
            samples, spec = jax.tree.leaves(self.reader.parts(batches.samples)), ChunkSpec(1, ready, packing)
            order, size = batches.order, batches.batch_size
            row = batches.first_row + start * size
            while position.index < end:
                slots = HostSlots(ready, min(ALLOCATED, end - position.index), packing)
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

    def _kind(self) -> tuple[Specification, bool]:
        """What gathered batches are like when they are ready, and whether weights are added to them."""
        found = gathered_kind(self.batches, self.reader)
        ready = self.contract.accepted(found)
        return ready, found.weight is None and ready.weight is not None

    def _weights(self, ready: Specification, count: int) -> np.ndarray:
        shape, dtype = ready.kinds[-1]
        if self.rows is not None:
            shape = (len(np.arange(shape[0])[self.rows]), *shape[1:])
        return np.ones(shape if count == 1 else (count, *shape), dtype)
