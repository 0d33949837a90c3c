"""Epochs of a loader that cannot be indexed: the whole of it each time, or consecutive parts of it."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from jaxloop.whole_number import whole_number


class SizedIterable(Protocol):
    """An epoch: an iterable of batches that knows their number."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class LoaderEpochs(Protocol):
    """An endless sequence of epochs of a loader's batches."""

    def __iter__(self) -> Iterator[SizedIterable]: ...

    def every(self, batch_count: int) -> "LoaderEpochs":
        """The same batches in epochs of `batch_count` batches. Each begins where the last one stopped."""
        ...


def loader_of(epoch: Any) -> Any:
    """The loader that an epoch's batches come from, which is the epoch itself if it is not one of `repeat`.

    Returns:
      None if the loader is not read in step with the epoch.
    """
    if isinstance(epoch, _LoaderEpoch):
        return epoch.loader.batches
    if isinstance(epoch, _StreamEpoch):
        return epoch.position.batches
    if isinstance(epoch, _FirstBatches):
        return epoch.stream.batches
    return None if isinstance(epoch, _NextBatches) else epoch


def rest_of(epoch: Any, reading: Iterator[Any]) -> Iterator[Any]:
    """The loader's own iterator as it stands, given the epoch's iterator; see `loader_of`."""
    if isinstance(epoch, _StreamEpoch):
        return epoch.position.rest
    return reading.rest if isinstance(reading, (_LoaderBatches, _Counted)) else reading


def entered(epoch: Any, at: int, rest: Iterator[Any]) -> Iterator[Any]:
    """The epoch's batches from `at` on, given its loader's iterator that stands there; see `loader_of`."""
    if isinstance(epoch, _LoaderEpoch):
        return _LoaderBatches(rest, epoch.epoch, len(epoch), at)
    if isinstance(epoch, _StreamEpoch):
        epoch.position.go_on(rest)
        return epoch.after(at)
    return _Counted(epoch.stream.batches, rest, len(epoch) - at) if isinstance(epoch, _FirstBatches) else rest


@dataclass(frozen=True, eq=False)
class Loader:
    """Epochs that are the whole loader each time."""

    batches: Iterable[Any]
    length: int

    @property
    def batch_count(self) -> int:
        """How many batches an epoch has."""
        return self.length

    def __iter__(self) -> Iterator[SizedIterable]:
        return (_LoaderEpoch(self, epoch) for epoch in itertools.count())

    def every(self, batch_count: int) -> "Stream":
        """The same batches in epochs of `batch_count` batches."""
        return Stream(self.batches, whole_number("every: `batch_count`", batch_count))

    def one_epoch(self) -> SizedIterable:
        return _LoaderEpoch(self, 0)


@dataclass(frozen=True, eq=False)
class _LoaderEpoch:
    """All batches of a loader, with a check that their number is the loader's length."""

    loader: Loader
    epoch: int

    def __len__(self) -> int:
        return self.loader.length

    def __iter__(self) -> Iterator[Any]:
        return _LoaderBatches(iter(self.loader.batches), self.epoch, len(self))


@dataclass(eq=False)
class _LoaderBatches:
    """An iterator of a whole loader. It is no generator, since a loader's state is asked of the loader's own iterator.

    Attributes:
      rest: the loader's iterator.
      epoch, length: for messages, and for the check.
      count: the batches that were taken.
    """

    rest: Iterator[Any]
    epoch: int
    length: int
    count: int = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self.rest)
        except StopIteration:
            if self.count < self.length:
                raise ValueError(_ended(self.epoch, self.count, self.length)) from None
            raise
        if self.count == self.length:
            raise ValueError(
                f"repeat: the loader's length is {self.count}, but it went on after that in epoch {self.epoch + 1} "
                f"(counted from 1). Cut it, as repeat(batches, batch_count={self.count})."
            )
        self.count += 1
        return batch


@dataclass(frozen=True, eq=False)
class Stream:
    """Epochs that are consecutive parts of one stream of batches."""

    batches: Iterable[Any]
    batch_count: int

    def __iter__(self) -> Iterator[SizedIterable]:
        position = _Position(self.batches)
        return (_StreamEpoch(position, epoch, self.batch_count) for epoch in itertools.count())

    def every(self, batch_count: int) -> "Stream":
        """The same batches in epochs of `batch_count` batches."""
        return Stream(self.batches, whole_number("every: `batch_count`", batch_count))

    def one_epoch(self) -> SizedIterable:
        return _NextBatches(self) if isinstance(self.batches, Iterator) else _FirstBatches(self)


@dataclass(frozen=True, eq=False)
class _FirstBatches:
    """The first batches of a loader, the same each time."""

    stream: Stream

    def __len__(self) -> int:
        return self.stream.batch_count

    def __iter__(self) -> Iterator[Any]:
        return _Counted(self.stream.batches, iter(self.stream.batches), len(self))


@dataclass(eq=False)
class _Around:
    """The batches of a loader. Where they end, it is iterated again.

    Attributes:
      batches: the loader.
      rest: its iterator.
    """

    batches: Iterable[Any]
    rest: Iterator[Any]

    def take(self) -> Any:
        """The next batch. If the batches have ended, it is the first one again; an ended generator has none."""
        try:
            return next(self.rest)
        except StopIteration:
            self.rest = iter(self.batches)
            return next(self.rest)


@dataclass(eq=False)
class _Counted(_Around):
    """As many batches of a loader as are left.

    Attributes:
      left: how many batches.
    """

    left: int

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.left <= 0:
            raise StopIteration
        self.left -= 1
        return self.take()


class _NextBatches:
    """The next batches of a loader that can be iterated only once, others each time.

    If a caller stops after the first batch, the next iteration begins with that batch: so the engine can look ahead.
    """

    def __init__(self, stream: Stream):
        self._count = stream.batch_count
        self._position = _Position(stream.batches)
        self._time = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        batches = iter(_StreamEpoch(self._position, self._time, self._count))
        yield next(batches)
        self._time += 1
        yield from batches


@dataclass(frozen=True, eq=False)
class _StreamEpoch:
    """The next batches of a stream.

    If it is iterated again after only its first batch was taken, it gives that batch again: so the engine can look
    ahead.
    """

    position: "_Position"
    epoch: int
    batch_count: int

    def __len__(self) -> int:
        return self.batch_count

    def __iter__(self) -> Iterator[Any]:
        return self.after(0)

    def after(self, start: int) -> Iterator[Any]:
        """The batches from `start` on, where the stream stands there."""
        for index in range(start, self.batch_count):
            try:
                batch = self.position.first_of(self.epoch) if index == 0 else self.position.take()
            except StopIteration:
                raise ValueError(_ended(self.epoch, index, self.batch_count)) from None
            yield batch


class _Position(_Around):
    """The position in a stream of batches. Only this object changes in this module, as any iterator does."""

    def __init__(self, batches: Iterable[Any]):
        super().__init__(batches, iter(batches))
        self._first: tuple[int, Any] | None = None

    def go_on(self, rest: Iterator[Any]) -> None:
        """Goes on with another iterator of the same batches."""
        self.rest, self._first = rest, None

    def first_of(self, epoch: int) -> Any:
        """The first batch of an epoch. It is the same batch again until another one is taken."""
        if self._first is None or self._first[0] != epoch:
            batch = self.take()
            self._first = (epoch, batch)
        return self._first[1]

    def take(self) -> Any:
        """The next batch, of which no first one is kept."""
        self._first = None
        return super().take()


def _ended(epoch: int, index: int, batch_count: int) -> str:
    return (
        f"repeat: the batches ended before batch {index + 1} of epoch {epoch + 1} (both counted from 1), but an epoch "
        f"has {batch_count}. Give something that can be iterated again, such as a list or a loader, more batches, or a "
        "smaller `batch_count`."
    )
