"""Where epochs come from: they are looked up by position or taken in turn, peeked into, and cut short."""

# pyright: reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax

from jaxloop.data import Batches, EmptyBatches
from jaxloop.data.repeat import length_of

_END = object()


class Peekable:
    """The batches of an epoch. The first can be seen before they are read, and reading goes on from there.

    So each batch is read once, and a loader is begun once, as in a loop by hand: it starts its workers and draws its
    random order once, though the first batch is looked at early. If a thread reads ahead, the loader is begun in
    another thread than that one.

    Args:
      batches: a sized iterable of batches.
      limit: the most batches that are read; None for all.
    """

    def __init__(self, batches: Any, limit: int | None = None):
        length = None if limit is None else length_of(batches)  # what has none is refused by `check_epoch`
        self._cut = limit is not None and length is not None and limit < length
        if self._cut and isinstance(batches, (Batches, EmptyBatches, list, tuple)):
            batches = batches[:limit]
        self.batches = batches
        self._limit = limit
        self._peeked: tuple[Any, Iterator[Any]] | None = None
        self._uncompiled: Peekable | None = None

    def __len__(self) -> int:
        return len(self.batches) if self._limit is None else min(self._limit, len(self.batches))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that the data announce for padding; none if all batches are alike."""
        return getattr(self.batches, "shapes", None) or ()

    @property
    def ends_by_itself(self) -> bool:
        """Whether the batches are certain to end where their length says."""
        return self._cut or isinstance(self.batches, (Batches, EmptyBatches))

    @property
    def uncompiled(self) -> "Peekable":
        """The batches as they travel, before what is left to the program, see `Batches.uncompiled`."""
        if not isinstance(self.batches, Batches) or not (self.batches.compiled or self.batches.resident):
            return self
        if self._uncompiled is None:  # kept, since its first batch may have been seen too
            self._uncompiled = Peekable(self.batches.uncompiled())
        return self._uncompiled

    def peek(self) -> Any:
        """The first batch. `begun_at` will begin with it.

        If the batches are their own iterator, they are begun only for this, and `begun_at` begins them again. Somebody
        else may begin them in between, which would move on an iterator that was kept.
        """
        if self._peeked is None:
            rest = iter(self.batches)
            if rest is self.batches:
                return next(rest)
            self._peeked = next(rest), rest
        return self._peeked[0]

    def begun_at(self, start: int) -> Iterator[Any]:
        """The batches from `start` on."""
        peeked, self._peeked = self._peeked, None
        if start:
            return _from(self.batches, start)
        return iter(self.batches) if peeked is None else itertools.chain(peeked[:1], peeked[1])

    def close(self) -> None:
        """Ends a loader that `peek` has begun, and the workers that it may have started. Reading begins it again.

        Our own batches have no workers, so they keep the batch that was read.
        """
        if not isinstance(self.batches, Batches):
            self._peeked = None


class EpochSource:
    """Epochs by their index in the life of a loop: looked up if the data can be indexed, else taken in turn.

    Args:
      training: the epochs.
      limit: the most batches that are read of each epoch; None for all.
    """

    def __init__(self, training: Any, limit: int | None = None):
        self._training: Any = training
        self._limit = limit
        self._rest: Iterator[Any] | None = None if hasattr(training, "__getitem__") else iter(training)
        self._taken: tuple[int, Any] = (-1, None)

    def at(self, index: int, start: int = 0) -> Peekable:
        """Epoch `index`, counted from 0, to be read from batch `start` on. The same epoch can be asked for again.

        Raises:
          ValueError: there is no such epoch; or it is to be entered in its middle, but it can only be read in turn.
        """
        if self._taken[0] != index:
            try:
                epoch = self._training[index] if self._rest is None else next(self._rest)
            except (IndexError, StopIteration) as error:
                raise ValueError(
                    f"training: it has no epoch {index} (counted from 0); give more epochs, or train fewer."
                ) from error
            self._taken = (index, Peekable(epoch, self._limit))
        epoch = self._taken[1]
        if start and (self._rest is not None or not can_begin_at(epoch.batches)):
            what = "its epochs come one by one" if self._rest is not None else "it is read in turn"
            raise ValueError(
                f"training: epoch {index} cannot be entered at batch {start} (both counted from 0), since {what}, and "
                "what a loader gives next is not known to be what it gave then. Give epochs by position, such as "
                "TrainingEpochs, or a list of lists of batches."
            )
        return epoch

    def lengths(self, first: int, count: int) -> Iterable[int] | None:
        """How many batches each of `count` epochs has, from `first` on, which was asked for before. No batch is read.

        Returns:
          None if that cannot be known yet: epochs come one by one, or one of them cannot be had.
        """
        one = len(self.at(first).batches)
        alike = getattr(self._training, "batch_count", None) == one or isinstance(self._rest, itertools.repeat)
        if count == 1 or alike:
            return itertools.repeat(self._limited(one), count)
        if self._rest is not None:
            return None
        try:
            others = [len(self._training[index]) for index in range(first + 1, first + count)]
        except Exception:  # data may raise anything: what is wrong with an epoch is reported when it is reached
            return None
        return map(self._limited, (one, *others))

    def _limited(self, length: int) -> int:
        return length if self._limit is None else min(self._limit, length)


def can_begin_at(batches: Any) -> bool:
    """Whether any batch can be read without those before it, and is the same each time."""
    return isinstance(batches, (Batches, EmptyBatches, Sequence))


def _from(batches: Any, start: int) -> Iterator[Any]:
    if isinstance(batches, Batches):
        return iter(batches[start:])
    return (batches[index] for index in range(start, len(batches)))


def length_at(epochs: Any, index: Any) -> int:
    """How many batches epoch `index` has. If there is none, or `index` is traced, as many as the first."""
    try:
        return len(epochs[int(index)])
    except (LookupError, jax.errors.TracerIntegerConversionError, jax.errors.ConcretizationTypeError):
        return len(epochs[0])


def is_left(rest: Iterator[Any]) -> bool:
    """Whether there is another item. Asking lets an iterator that ends here run the code at its end."""
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
    """The message for batches that ended after `count`, though their length is `total`, or went on after that."""
    if count < total:
        return (
            f"{where}: it ended after {count} of the {total} batches that its length promises. A generator is spent "
            "after one pass; give what can be iterated again for each epoch."
        )
    return (
        f"{where}: it went on after the {total} batches that its length promises. Give data whose length is right, or "
        f"cut it, as repeat(batches, batch_count={total})."
    )
