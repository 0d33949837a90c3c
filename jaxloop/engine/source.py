"""Where epochs come from: looked up by position, or taken one by one; and phases cut short."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxloop.data import Batches


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
