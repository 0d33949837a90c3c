"""Marks: what was read of data that come in turn, by which another process finds the place again, and proves it."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from jaxloop.data.loaders import loader_of, rest_of
from jaxloop.errors import StateMismatchError
from jaxloop.feeding.checksums import sampled
from jaxloop.feeding.states import random_sources, random_states, state_of

_EVERY = 32  # batches from one state of a loader to the next
#: Who reads what loaders draw their orders from, by identity.
_READERS: "WeakValueDictionary[int, Trail]" = WeakValueDictionary()
_STATES = 40  # the most that are kept: reading runs ahead of the place that is marked, by some dispatches


@dataclass(frozen=True)
class Pass:
    """What was read of one epoch.

    Attributes:
      index: of the epoch; of validation, which time it was.
      begun: whether an iterator was begun.
      count: the batches that were taken.
      ended: whether the end was asked for after them.
    """

    index: int
    begun: bool
    count: int
    ended: bool


@dataclass
class Run:
    """The pass that is being read.

    Attributes:
      index, begun, ended: as in `Pass`.
      first: the batch at which reading began here.
      count, chain: of the whole trail at that batch.
      chains: the checksum after each batch since.
    """

    index: int
    first: int
    count: int
    chain: int
    begun: bool = False
    ended: bool = False
    chains: "array[int]" = field(default_factory=lambda: array("I"))

    @property
    def position(self) -> int:
        """How many of its batches were taken."""
        return self.first + len(self.chains)

    def at(self, position: int) -> tuple[int, int]:
        """How many batches the trail has at a position of this pass, and their checksum."""
        done = position - self.first
        return self.count + done, self.chains[done - 1] if done else self.chain

    def until(self, position: int) -> Pass:
        return Pass(self.index, self.begun, position, self.ended and position == self.position)


@dataclass(frozen=True)
class Point:
    """A state of a loader, after batch `at` of epoch `index`; `count` and `chain` of the trail are those of there."""

    index: int
    at: int
    count: int
    chain: int
    state: dict[str, Any]


class Trail:
    """All that was read, pass by pass, with a checksum that each batch changes.

    A thread may read while another asks for marks of what was read before.

    Args:
      passes: those before.
      count: the batches in them.
      chain: their checksum.
      landmarks: the number of batches, and the checksum, at some places on the way.

    Attributes:
      has_states: whether a loader's states are worth asking for.
      of_one_loader: whether all passes are of one loader. If not, its state says nothing of the others; those of grain
        have nothing to say, since each of their iterators begins alike.
    """

    def __init__(
        self, passes: Sequence[Pass] = (), count: int = 0, chain: int = 0, landmarks: Sequence[Sequence[int]] = ()
    ):
        self._passes = list(passes)
        self._landmarks = [tuple(landmark) for landmark in landmarks if landmark[0] <= count]
        self._before = count, chain
        self._points: tuple[Point, ...] = ()
        self.run: Run | None = None
        self.has_states, self.of_one_loader = True, True

    @property
    def taken(self) -> int:
        """The index of the last pass; -1 before the first."""
        return self.run.index if self.run is not None else self._passes[-1].index if self._passes else -1

    @property
    def here(self) -> tuple[int, int]:
        """How many batches were read, and their checksum."""
        return self._before if self.run is None else self.run.at(self.run.position)

    def take(self, index: int, look: int | None = None, first: int = 0) -> None:
        """An epoch is taken, of which nothing was read yet, or which goes on at batch `first`.

        Args:
          index: of the epoch.
          look: a checksum of what the epoch is, if its batches are not read in turn.
          first: the batch at which it goes on.
        """
        count, chain = self.here
        if self.run is not None:
            self._passes.append(self.run.until(self.run.position))
        self.run = Run(index, first, count, chain if look is None else sampled(look, chain))

    def reading(self, batches: Any, rest: Iterator[Any], whole: Iterator[Any]) -> Iterator[Any]:
        """The batches of the epoch that was taken last; each is noted when it is read.

        Args:
          batches: the epoch.
          rest: its iterator.
          whole: gives what is to be read: `rest`, after a batch that was taken from it before.
        """
        assert self.run is not None
        if self.run.begun:  # it is read once more
            self.take(self.run.index)
        self.run.begun = True
        return self._noting(self.run, batches, rest, whole)

    def _noting(self, run: Run, batches: Any, rest: Iterator[Any], whole: Iterator[Any]) -> Iterator[Any]:
        chain, chains, position = run.chain, run.chains, run.first
        pending: tuple[Point, Any] | None = None
        for batch in whole:
            chain = sampled(batch, chain)
            chains.append(chain)
            position += 1
            if pending is not None:
                pending = self._prove(*pending)
            count = run.count + len(chains)
            if not count & (count - 1):
                self._landmarks.append((count, chain))
            yield batch
            if self.has_states and (position == 1 or not position % _EVERY):  # before the next one is asked for
                pending = self._pending(Point(run.index, position, count, chain, {}), batches, rest)
        run.ended = True

    def _pending(self, point: Point, batches: Any, rest: Iterator[Any]) -> tuple[Point, Any] | None:
        """A state of the loader, and global random states, since the loader's says nothing of these."""
        loader = loader_of(batches)
        for part in random_sources(loader):
            other = _READERS.setdefault(id(part), self)
            if other is not self:
                other.leave_states()
                self.leave_states()
        state = state_of(loader, rest_of(batches, rest)) if self.has_states and loader is not None else None
        if state is None or not (self.of_one_loader or state["library"] == "grain"):
            self.leave_states()
            return None
        return replace(point, state=state), random_states(state)

    def _prove(self, point: Point, random: Any) -> None:
        """Keeps a state if the batch after it was read without drawing from a global random state."""
        if self.has_states and random == random_states(point.state):
            self.keep(point)
        else:
            self.leave_states()

    def leave_states(self) -> None:
        """Asks the loader for no more states, and forgets those that were kept: all is read again."""
        self.has_states = False
        self._points = ()

    def keep(self, point: Point) -> None:
        """A state from which marks may go on. Every other of the older ones is let go, so that few lie far back."""
        points = self._points
        if len(points) == _STATES:
            points = (*points[: _STATES // 2 : 2], *points[_STATES // 2 :])
        self._points = (*points, point)

    def mark(self, index: int | None, position: int) -> dict[str, Any]:
        """What brings back batch `position` of pass `index`; if that was not begun, all that was read."""
        run, ends, current = self.run, (), None
        count, chain = self._before
        if run is not None:
            within = run.index == index and run.begun
            current = index if within else None
            at = position if within else run.position
            (count, chain), ends = run.at(at), (run.until(at),)
        mark: dict[str, Any] = {
            "kind": "replay",
            "passes": _in_runs((*self._passes, *ends)),
            "current": current,
            "count": count,
            "crc": chain,
            "landmarks": [list(landmark) for landmark in self._landmarks if landmark[0] <= count],
        }
        points = [point for point in self._points if point.count < count]  # one batch at least is read again
        return mark | {"kind": "state", "point": dict(vars(points[-1]))} if points else mark


class Marked:
    """A mark that was read back.

    Args:
      mark: as `Trail.mark` gave it.
      where: what the user calls the data.
    """

    def __init__(self, mark: Mapping[str, Any], where: str):
        self.where = where
        self.passes = [
            Pass(first + step, bool(begun), count, bool(ended))
            for first, repeats, begun, count, ended in mark["passes"]
            for step in range(repeats)
        ]
        self.current: int | None = mark["current"]
        self.count, self.chain = int(mark["count"]), int(mark["crc"])
        self.landmarks = {int(count): int(chain) for count, chain in mark["landmarks"]}
        self.point = Point(**mark["point"]) if mark["kind"] == "state" else None

    @property
    def whole(self) -> list[Pass]:
        """The passes that were over."""
        return [one for one in self.passes if one.index != self.current]

    @property
    def at_point(self) -> int:
        """The place in `passes` of the one that the state is of."""
        point = self.point
        assert point is not None
        return next(place for place, one in enumerate(self.passes) if one.index == point.index)

    def trail_to_point(self) -> Trail:
        """What was read until the state was taken."""
        point = self.point
        assert point is not None
        before = [one for one in self.passes if one.index < point.index]
        return Trail(before, point.count, point.chain, list(self.landmarks.items()))

    def follow(self, trail: Trail, batches: Iterator[Any], count: int) -> None:
        """Reads so many batches again, and compares them on the way.

        Raises:
          StateMismatchError: they are not what they were.
        """
        for _ in range(count):
            if next(batches, trail) is trail:
                raise self.mismatch(trail, "end earlier than")
            done, chain = trail.here
            if self.landmarks.get(done, chain) != chain:
                raise self.mismatch(trail, "differ from")

    def check(self, trail: Trail) -> None:
        """Raises StateMismatchError if what was read again is not what was read."""
        if trail.here != (self.count, self.chain):
            raise self.mismatch(trail, "differ from")

    def mismatch(self, trail: Trail, how: str) -> StateMismatchError:
        """The error for data that are not what they were."""
        return StateMismatchError(
            f"{self.where}: the first {max(trail.here[0], 1):,} batches {how} those that the checkpoint's run read, so "
            "it would go on with other data. Give a loader that gives the same in each process: seed it, as by "
            "generator=torch.Generator().manual_seed(0), and its workers; or one that saves its state, such as "
            "torchdata's StatefulDataLoader or one of grain's. Make it again to go on in the same process, since what "
            "was read once goes on elsewhere. Or begin a new fit from the loop that jaxloop.restore(...) gives."
        )


def check_kind(where: str, mark: Mapping[str, Any], *, in_turn: bool) -> None:
    """Raises StateMismatchError if data were looked up by position, and now are read in turn, or the reverse."""
    if in_turn and mark["kind"] == "position":
        raise refused(where, "looked its batches up by position", "are read in turn")
    if not in_turn and mark["kind"] != "position":
        raise refused(where, "read its data in turn", "are looked up by position")


def refused(where: str, saved: str, now: str) -> StateMismatchError:
    """The error for a mark that these data cannot use."""
    return StateMismatchError(
        f"{where}: the checkpoint's run {saved}, but these data {now}. Give the data that the run was begun with, or "
        "begin a new fit from the loop that jaxloop.restore(...) gives."
    )


def tell_of_rereading(where: str, marked: Marked, done: int, tell: Callable[[str], None]) -> None:
    """Tells how many batches are read again, after so many passes were."""
    count = sum(one.count for one in marked.passes[done:])
    if count:
        tell(
            f"Reads {count:,} batches of {where} again to find the place; a loader that saves its state goes on at "
            "once, such as one of grain's or torchdata's StatefulDataLoader"
        )


def _in_runs(passes: Sequence[Pass]) -> list[list[int]]:
    """[first index, how many, begun, count, ended] for equal passes in a row."""
    runs: list[list[int]] = []
    for one in passes:
        same = [int(one.begun), one.count, int(one.ended)]
        if runs and runs[-1][2:] == same and runs[-1][0] + runs[-1][1] == one.index:
            runs[-1][1] += 1
        else:
            runs.append([one.index, 1, *same])
    return runs
