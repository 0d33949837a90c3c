"""Where epochs come from: they are looked up by position or taken in turn, peeked into, and cut short."""

# pyright: reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jaxloop.data import Batches
from jaxloop.data.repeat import length_of, repeated
from jaxloop.feeding.marks import Marked, Trail, check_kind, refused, tell_of_rereading
from jaxloop.feeding.peekable import Peekable as Peekable
from jaxloop.feeding.peekable import can_begin_at, check_look, look, looked_up

_END = object()


class EpochSource:
    """Epochs by their index in the life of a loop: looked up if the data can be indexed, else taken in turn.

    Args:
      training: the epochs.
      limit: the most batches that are read of each epoch; None for all.
    """

    def __init__(self, training: Any, limit: int | None = None):
        self._training: Any = training
        self._limit = limit
        self._last: tuple[int, int] | None = None  # the epoch that is cut short, and its length
        self._rest: Iterator[Any] | None = None if hasattr(training, "__getitem__") else iter(training)
        self._taken: tuple[int, Any] = (-1, None)
        self._whole: int | None = None  # the length of the epoch that was taken, before any limit
        self._trail: Trail | None = None
        self._back: int | None = None  # the epoch that was put back

    def at(self, index: int, start: int = 0) -> Peekable:
        """Epoch `index`, counted from 0, to be read from batch `start` on. The same epoch can be asked for again.

        Raises:
          ValueError: there is no such epoch; or it is to be entered in its middle, but it can only be read in turn.
        """
        if self._taken[0] != index:
            try:
                epoch = self._training[index] if self._rest is None else next(self._rest)
            except (LookupError, StopIteration) as error:
                raise ValueError(
                    f"training: it has no epoch {index + 1} (counted from 1); give more epochs, or train fewer."
                ) from error
            self._whole = length_of(epoch)
            self._taken = (index, Peekable(epoch, self._limit_of(index)))
            self._note_taken()
        epoch = self._taken[1]
        if start and index != self._back and self._in_turn(epoch):
            what = "its epochs come one by one" if self._rest is not None else "it is read in turn"
            raise ValueError(
                f"training: epoch {index + 1} cannot be entered at batch {start + 1} (both counted from 1), since "
                f"{what}, and what a loader gives next is not known to be what it gave then. Give epochs by position, "
                "such as TrainingEpochs, or a list of lists of batches."
            )
        return epoch

    def lengths(self, first: int, count: int) -> Iterable[int] | None:
        """How many batches each of `count` epochs has, from `first` on, which was asked for before. No batch is read.

        Returns:
          None if that cannot be known yet: epochs come one by one, or one of them cannot be had.
        """
        one = len(self.at(first))
        if count == 1:
            return (one,)
        if self._alike:
            return itertools.chain(itertools.repeat(one, count - 1), (self._length_of(first + count - 1, one),))
        if self._rest is not None:
            return None
        try:
            others = [self._length_of(index, len(self._training[index])) for index in range(first + 1, first + count)]
        except Exception:  # data may raise anything: what is wrong with an epoch is reported when it is reached
            return None
        return one, *others

    def cut_to(self, first: int, steps: int) -> int:
        """Cuts the epochs from `first` on so that all together have `steps` batches. It is called before one is read.

        Returns:
          How many epochs that are. The last one may be short.

        Raises:
          ValueError: there are fewer batches; or lengths are not known ahead, since epochs come one by one.
        """
        one = len(self.at(first))
        if self._alike:
            count = -(-steps // max(one, 1))
            left = steps - (count - 1) * one
        else:
            count, left, length = 1, steps, one
            while left > length:
                left -= length
                length = self._known_length(first + count, steps - left)
                count += 1
        self._last = first + count - 1, left
        if count == 1:
            self._taken = (first, Peekable(self._taken[1].batches, left))
        return count

    def _known_length(self, index: int, before: int) -> int:
        """How many batches epoch `index` has, of which nothing was asked yet. The epochs before it have `before`."""
        if self._rest is not None:
            raise ValueError(
                "fit: how many epochs `steps` are cannot be known ahead, since those of `training` come one by one. "
                "Give `epochs`, or epochs of one length, as repeat(batches, batch_count=100)."
            )
        try:
            return self._length_of(index, len(self._training[index]))
        except LookupError as error:
            raise ValueError(
                f"fit: `training` has only {before} batches from here on, since it ends after epoch {index} (counted "
                "from 1). Give more epochs, or fewer `steps`."
            ) from error

    # --- the place where reading was

    def watched(self) -> None:
        """Keeps from now on what finds the place again in data that are read in turn. Others need nothing for it."""
        if self._trail is None:
            self._go_on_with(Trail())

    def mark(self, index: int, position: int) -> dict[str, Any]:
        """What brings back batch `position` of epoch `index`; JSON. At 0 the epoch need not have been asked for.

        After an epoch's training it is the next epoch, position 0, whatever was read of the epoch. If data are read in
        turn, `watched` was called before the first epoch was read.
        """
        taken, epoch = self._taken
        if self._trail is not None and (self._rest is not None or self._trail.taken >= 0):
            return self._trail.mark(index, position) | {"taken": taken == index}
        assert self._rest is None, "it was not watched"
        assert taken < 0 or can_begin_at(epoch.batches), "it was not watched"
        return looked_up(epoch.batches, position) if taken == index else {"kind": "position"}

    def put_back(
        self,
        index: int,
        position: int,
        mark: dict[str, Any],
        tell: Callable[[str], None],
        between: Callable[[], None] = lambda: None,
    ) -> Peekable:
        """The epoch of a mark, whose `begun_at(position)` goes on where the run was. `at` gives it too.

        Nothing was read here but what setting up sees. Data that are read in turn go on from a state of their loader,
        or all is read again. Either way checksums say whether it is what the run has read.

        Args:
          index, position: as `mark` was given them.
          mark: of the run that goes on.
          tell: is told if batches are read again.
          between: called after each epoch that is read again, such as for reading validation, which may share a random
            state with training.

        Returns:
          The epoch. If that run had not asked for it yet, the one before: `at` takes the epoch when it is its time.

        Raises:
          StateMismatchError: the data are not those of that run.
        """
        self.watched()
        if mark["kind"] == "position":
            return self._looked_up(index, position, mark)
        marked = Marked(mark, "training")
        if marked.point is None:
            tell_of_rereading("training", marked, 0, tell)
        else:
            self._restore(mark, marked)
        for one in marked.passes if marked.point is None else marked.passes[marked.at_point :]:
            epoch = self._again(one.index)
            check_kind("training", mark, in_turn=self._in_turn(epoch))
            here = one.index == index and one is marked.passes[-1]
            epoch.read_again(self._noted, marked, one, kept=here)
            if not here and marked.point is None:
                between()
        marked.check(self._noted)
        self._back = index
        return self.at(index) if mark["taken"] else self._taken[1]

    @property
    def _noted(self) -> Trail:
        assert self._trail is not None
        return self._trail

    def _restore(self, mark: dict[str, Any], marked: Marked) -> None:
        """Takes epochs without reading them, up to that of a loader's state, and goes on from that state."""
        point = marked.point
        assert point is not None
        for one in marked.passes[: marked.at_point + 1]:
            epoch = self._again(one.index)
            check_kind("training", mark, in_turn=self._in_turn(epoch))
        trail = marked.trail_to_point()
        trail.take(point.index, first=point.at)
        self._go_on_with(trail)
        self.at(point.index).restore(trail, marked)

    def _looked_up(self, index: int, position: int, mark: dict[str, Any]) -> Peekable:
        if self._rest is not None:
            check_kind("training", mark, in_turn=True)
        if not position and "crc" not in mark:
            return self._taken[1]
        epoch = self._again(index)
        check_kind("training", mark, in_turn=not can_begin_at(epoch.batches))
        check_look("training", mark, epoch.batches, position)
        self._back = index
        return epoch

    def _again(self, index: int) -> Peekable:
        """An epoch that the run had."""
        try:
            return self.at(index)
        except ValueError:
            raise refused("training", f"had an epoch {index + 1} (counted from 1)", "end before it") from None

    def _in_turn(self, epoch: Peekable) -> bool:
        return self._rest is not None or not can_begin_at(epoch.batches)

    def _go_on_with(self, trail: Trail) -> None:
        """Notes what is read on a trail, also of the epoch that was taken already."""
        self._trail = trail
        trail.of_one_loader = repeated(self._training) is not None
        # Epochs of another kind may draw themselves.
        trail.has_states = trail.of_one_loader or isinstance(self._training, (list, tuple))
        if self._taken[1] is not None:
            self._note_taken()

    def _note_taken(self) -> None:
        """Notes an epoch that was taken, if it is read in turn or was not looked up."""
        (index, epoch), trail = self._taken, self._trail
        if trail is None or not self._in_turn(epoch):
            return
        own = isinstance(epoch.batches, Batches)  # these are looked up in any case, not read in turn
        if index != trail.taken:
            trail.take(index, look(epoch.batches, 0) if own else None)
        if not own:
            epoch.noted_on(trail)

    @property
    def _alike(self) -> bool:
        """Whether all epochs are known to be as long as the one that was taken."""
        known = getattr(self._training, "batch_count", None)
        return (known is not None and known == self._whole) or isinstance(self._rest, itertools.repeat)

    def _limit_of(self, index: int) -> int | None:
        return self._last[1] if self._last is not None and self._last[0] == index else self._limit

    def _length_of(self, index: int, length: int) -> int:
        limit = self._limit_of(index)
        return length if limit is None else min(limit, length)


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
