"""Reading: a user's batches in turn, run to their end, and a note on which of them went wrong."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxloop.feeding.source import Peekable, is_left, not_as_long
from jaxloop.feeding.specification import Batch, parts_of


@dataclass(frozen=True)
class Reader:
    """How a user's batch is taken apart.

    Attributes:
      where: what the user calls the data, for messages.
      batch_keys: names of input, target and weight, if a batch is a mapping.
      inputs_alone: whether a batch may be the input only, as for predictions.
      whole: whether a batch travels whole, since the step's program takes it apart.
    """

    where: str
    batch_keys: Sequence[str] | None = None
    inputs_alone: bool = False
    whole: bool = False

    def parts(self, batch: Any) -> Batch:
        """(input, target, weight) of a batch."""
        if self.whole:
            return batch, None, None
        if type(batch) is tuple and len(batch) == 2:  # for most batches, so no function is called
            return batch[0], batch[1], None
        return parts_of(batch, self.batch_keys, self.where, inputs_alone=self.inputs_alone)


@dataclass
class Position:
    """Which batch of a phase is being read, for the note on what it raises.

    Attributes:
      index: counted from 0; it moves on when the batch was given.
    """

    index: int


def check_ended(batches: Peekable, rest: Iterator[Any], where: str, position: Position) -> None:
    """Asks for one more after all batches were read, as `for` does: a loader may count its epochs by that.

    Args:
      batches: the batches that were read.
      rest: their iterator, after as many were taken as there should be.
      where: what the user calls them.
      position: how many there were.

    Raises:
      ValueError: there were fewer than their length says, or there are more.
    """
    total = len(batches)
    if position.index < total or (not batches.ends_by_itself and is_left(rest)):
        raise ValueError(not_as_long(where, total, position.index))


@contextmanager
def noting(where: str, total: int, position: Position) -> Generator[None, None, None]:
    """Adds a note to an exception: which batch was being read."""
    try:
        yield
    except Exception as error:
        index = position.index
        place = f"batch {index + 1} of {total} (counted from 1)" if index < total else f"after all {index} batches"
        error.add_note(f"jaxloop: while it read {where}, {place}")
        raise
