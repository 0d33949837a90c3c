"""Grouping: batches of one kind that were read one after the other, and that share a dispatch."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from jaxloop.feeding.slots import ChunkSpec, Slots
from jaxloop.feeding.specification import Specification

Chunks = Generator[tuple[ChunkSpec, Any], None, None]
#: Packed batches share one piece of memory, as many as these, since to ask for memory takes longer than to fill it.
ALLOCATED = 32


@dataclass
class Group:
    """Batches of one specification that were read but not yet given out.

    Attributes:
      slots: where they are.
      batch: what each is like, as far as it is read here.
      one: what a batch is like that travels by itself, as a whole.
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
            yield ChunkSpec(self.held, self.one.batch), self.slots.together(self.held)
