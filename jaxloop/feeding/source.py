"""Where epochs come from: looked up by position, or taken one by one; looked at ahead, and cut short."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.data import Batches, EmptyBatches

_END = object()


class EpochSource:
    """Epochs by their index in the life of a loop: looked up where the data can be, else taken one by one."""

    def __init__(self, training: Any):
        self._training: Any = training
        self._rest = None if hasattr(training, "__getitem__") else iter(training)
        self._taken: tuple[int, Any] = (-1, None)

    def at(self, index: int) -> Any:
        """Epoch `index`, counted from 0, as `peekable`. The epoch last asked for can be had again.

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
            self._taken = (index, peekable(epoch))
        return self._taken[1]

    def lengths(self, first: int, count: int) -> Iterable[int] | None:
        """The batches of each of `count` epochs from `first` on, which was asked for before; no batch is read.

        Returns:
          None where they cannot be known ahead: epochs come one by one, or one of them cannot be had yet.
        """
        one = len(self.at(first))
        alike = getattr(self._training, "batch_count", None) == one or isinstance(self._rest, itertools.repeat)
        if count == 1 or alike:
            return itertools.repeat(one, count)
        if self._rest is not None:
            return None
        try:
            return [one, *(len(self._training[index]) for index in range(first + 1, first + count))]
        except Exception:  # of whatever data: what is wrong with an epoch is said once it is reached
            return None


def length_at(epochs: Any, index: Any) -> int:
    """How many batches epoch `index` has; as many as the first where there is none, or while `index` is traced."""
    try:
        return len(epochs[int(index)])
    except (LookupError, jax.errors.TracerIntegerConversionError, jax.errors.ConcretizationTypeError):
        return len(epochs[0])


class Ahead:
    """A loader's batches, whose first can be looked at before they are read: reading them goes on from there.

    So a loader is begun once, as in a loop by hand: it starts its workers and draws its random order once, however much
    is found out from the first batch. Where a thread reads ahead, the loader is begun in another than it.
    """

    def __init__(self, batches: Any):
        self._batches = batches
        self._begun: tuple[Any, Iterator[Any]] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        return iter(self._batches) if begun is None else itertools.chain(begun[:1], begun[1])

    @property
    def shapes(self) -> Any:
        """See `Batches.shapes`."""
        return getattr(self._batches, "shapes", None)

    def first(self) -> Any:
        """The first batch, which the next iteration will begin with.

        Batches that are their own iterator are begun anew instead: somebody else may do so in between.
        """
        if self._begun is None:
            rest = iter(self._batches)
            if rest is self._batches:
                return next(rest)
            self._begun = next(rest), rest
        return self._begun[0]

    def close(self) -> None:
        """Ends what `first` has begun, with the workers that it may have started; reading them begins anew."""
        self._begun = None


def peekable(batches: Any) -> Any:
    """Batches whose first can be had ahead by `first_of`, for all alike; itself where that costs nothing."""
    at_hand = isinstance(batches, (Ahead, Batches, EmptyBatches, list, tuple)) or not hasattr(batches, "__len__")
    return batches if at_hand else Ahead(batches)


def first_of(batches: Any) -> Any:
    """The first batch."""
    return batches.first() if isinstance(batches, (Ahead, _First)) else next(iter(batches))


def close(batches: Any) -> None:
    """Ends what `first_of` has begun, for batches that are read much later."""
    if isinstance(batches, (Ahead, _First)):
        batches.close()


def is_left(rest: Iterator[Any]) -> bool:
    """Whether there is another item. Asking lets what ends here do what it does at its end."""
    return next(rest, _END) is not _END


def whole(batches: Any, where: str) -> Iterator[Any]:
    """The batches, run to their end.

    Raises:
      ValueError: there are fewer than their length says, or more.
    """
    done, total, rest = 0, len(batches), iter(batches)
    for batch in itertools.islice(rest, total):
        yield batch
        done += 1
    if done < total or is_left(rest):
        raise ValueError(not_as_long(where, total, done))


def not_as_long(where: str, total: int, count: int) -> str:
    """What is told of batches that ended after `count` where their length is `total`, or went on after that."""
    if count < total:
        return (
            f"{where}: it ended after {count} of the {total} batches that its length promises. A generator is spent "
            "after one pass; give what can be iterated anew each epoch."
        )
    return (
        f"{where}: it went on after the {total} batches that its length promises. Give what tells how many it has, or "
        f"cut it, as repeat(batches, batch_count={total})."
    )


def limited(batches: Any, count: int | None) -> Any:
    """The first `count` batches."""
    if count is None or len(batches) <= count:
        return batches
    if isinstance(batches, (Batches, EmptyBatches, list, tuple)):
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

    def first(self) -> Any:
        return first_of(self.batches)

    def close(self) -> None:
        close(self.batches)
