"""An epoch's batches: the first can be seen before they are read, and another process can go on in their midst."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxloop.data import Batches, EmptyBatches
from jaxloop.data.loaders import entered, loader_of
from jaxloop.data.repeat import length_of
from jaxloop.data.samples import OneByOne, is_source
from jaxloop.feeding.checksums import sampled
from jaxloop.feeding.marks import Marked, Pass, Trail, check_kind, refused, tell_of_rereading
from jaxloop.feeding.states import restored


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
        self._entered: tuple[int, Iterator[Any]] | None = None
        self._trail: Trail | None = None
        self._by_time = False  # whether it is read many times, as validation is, and each is a pass of its own

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
        place, self._entered = self._entered, None
        if place is not None and place[0] == start:
            return place[1]
        peeked, self._peeked = self._peeked, None
        if start:
            return _from(self.batches, start)
        rest = iter(self.batches) if peeked is None else peeked[1]
        whole = rest if peeked is None else itertools.chain(peeked[:1], rest)
        if self._trail is None:
            return whole
        if self._by_time:
            self._trail.take(self._trail.taken + 1)
        return self._trail.reading(self.batches, rest, whole)

    def close(self) -> None:
        """Ends a loader that `peek` has begun, and the workers that it may have started. Reading begins it again.

        Our own batches have no workers, so they keep the batch that was read.
        """
        if not isinstance(self.batches, Batches):
            self._peeked = None

    # --- the place where reading was

    def watched(self) -> None:
        """Keeps from now on what finds the place again, each time that these batches are read: for validation."""
        if self._trail is None and not can_begin_at(self.batches):
            self._trail, self._by_time = Trail(), True

    def noted_on(self, trail: Trail) -> None:
        """Notes what is read of this epoch on a trail."""
        self._trail = trail

    def mark(self, position: int) -> dict[str, Any]:
        """What brings back batch `position`; JSON. At 0: before this time, or after the time before.

        If batches are read in turn, `watched` was called before the first of them was read.
        """
        if self._trail is not None:
            return self._trail.mark(self._trail.taken if position else None, position)
        assert can_begin_at(self.batches), "it was not watched"
        return looked_up(self.batches, position)

    def pass_over(self, mark: dict[str, Any]) -> None:
        """Reads them once to their end, if the marked run did that more often than was done here."""
        self.watched()
        if self._trail is None or mark["kind"] == "position":
            return
        marked, done = Marked(mark, "validation"), self._trail.taken + 1
        if done < len(marked.whole):
            self.read_again(self._trail, marked, marked.whole[done])

    def put_back(self, position: int, mark: dict[str, Any], tell: Callable[[str], None]) -> None:
        """Brings back the place of a mark: `begun_at(position)` goes on there. What `pass_over` has read counts.

        Training is put back before, since loaders may share what they draw from.

        Args:
          position: as `mark` was given it.
          mark: of the run that goes on.
          tell: is told if batches are read again.

        Raises:
          StateMismatchError: the batches are not those of that run.
        """
        self.watched()
        trail = self._trail
        check_kind("validation", mark, in_turn=trail is not None)
        if trail is None:
            check_look("validation", mark, self.batches, position)
            return
        marked, done = Marked(mark, "validation"), trail.taken + 1
        if marked.point is not None and not done:
            done = marked.point.index
            trail = self._trail = marked.trail_to_point()
            trail.take(done, first=marked.point.at)
            self.restore(trail, marked)
        else:
            tell_of_rereading("validation", marked, done, tell)
        for one in marked.passes[done:]:
            self.read_again(trail, marked, one, kept=one.index == marked.current and one is marked.passes[-1])
        marked.check(trail)

    def restore(self, trail: Trail, marked: Marked) -> None:
        """Goes on from the state of a mark.

        Raises:
          StateMismatchError: the loader cannot take it.
        """
        point, self._peeked = marked.point, None
        assert point is not None
        loader = loader_of(self.batches)
        try:
            rest = restored(loader, point.state)
        except LookupError as error:
            library = error.args[0]
            raise refused(marked.where, f"kept the state of a loader of {library}", "have no such state") from None
        whole = entered(self.batches, point.at, rest)
        trail.keep(point)
        self._entered = point.at, trail.reading(self.batches, whole, whole)

    def read_again(self, trail: Trail, marked: Marked, one: Pass, *, kept: bool = False) -> None:
        """Reads what a pass read. If it is `kept`, `begun_at(one.count)` goes on from there.

        Raises:
          StateMismatchError: it is not what was read.
        """
        if not one.begun:
            return
        done, reading = self._entered or (0, None)
        reading = reading or self.begun_at(0)
        self._entered = None
        marked.follow(trail, reading, one.count - done)
        if one.ended and next(reading, trail) is not trail:
            raise marked.mismatch(trail, "go on longer than")
        if kept:
            self._entered = one.count, iter(()) if one.ended else reading


def can_begin_at(batches: Any) -> bool:
    """Whether any batch can be read without those before it, and is the same each time."""
    return isinstance(batches, (Batches, EmptyBatches, Sequence))


def look(batches: Any, position: int) -> int:
    """A checksum of what batches that can be looked up are, for little: no sample of a source is read for it."""
    if isinstance(batches, Batches):
        samples = None if is_source(batches.samples) or isinstance(batches.samples, OneByOne) else batches.samples
        return sampled((len(batches), batches.batch_size, batches.sample_count, batches.order, samples))
    seen = batches[max(position - 1, 0)] if isinstance(batches, (list, tuple)) and batches else None
    return sampled((len(batches), seen))


def looked_up(batches: Any, position: int) -> dict[str, Any]:
    """The mark of a batch that can be looked up."""
    return {"kind": "position", "crc": look(batches, position)}


def check_look(where: str, mark: dict[str, Any], batches: Any, position: int) -> None:
    """Raises StateMismatchError if batches that are looked up are not those of a mark."""
    if mark.get("crc", now := look(batches, position)) != now:
        raise refused(where, "had other samples, or another order of them", "differ")


def _from(batches: Any, start: int) -> Iterator[Any]:
    if isinstance(batches, Batches):
        return iter(batches[start:])
    return (batches[index] for index in range(start, len(batches)))
