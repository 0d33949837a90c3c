"""Data go on where a run was: other libraries' loaders, validation, dispatches of several steps, loaders that share."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxloop.data import repeat
from jaxloop.errors import StateMismatchError
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.marks import Point, Trail
from jaxloop.feeding.prefetch import prefetched
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import EpochSource
from jaxloop.placement import resolve
from tests.feeding.lives import ROWS, Life, check_all_places, imported, places, same_marks, through_json
from tests.feeding.test_marks import KINDS, Shuffling, made, pairs, taken

# --- dispatches


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_dispatches_go_on(kind: str, steps: int) -> None:
    def unseen(source: EpochSource, index: int) -> Feed:
        return Feed(source.at(index).uncompiled, Reader("training", whole=kind in ("compiled", "resident")), place)

    def fed(source: EpochSource, index: int) -> Feed:  # an epoch after the first is not looked into
        return replace(unseen(source, index), contract=contract)

    def leaves(feed: Feed, start: int = 0, until: int | None = None) -> list[Any]:
        chunks = feed.chunks(steps, start)
        found = [(spec, *map(np.array, jax.tree.leaves(batch))) for spec, batch in itertools.islice(chunks, until)]
        chunks.close()
        return found

    place = resolve(None)
    contract = unseen(EpochSource(KINDS[kind]()), 0).begun(short="alone").contract
    live = made(KINDS[kind]())
    expected = [leaves(fed(live, index)) for index in range(3)]
    for index in range(3):
        for dispatches in range(len(expected[index]) + 1):
            position = sum(spec.steps for spec, *_ in expected[index][:dispatches])
            before = made(KINDS[kind]())
            for earlier in range(index):
                leaves(fed(before, earlier))
            if position:
                leaves(fed(before, index), 0, dispatches)
            after = made(KINDS[kind]())
            after.put_back(index, position, through_json(before.mark(index, position)), lambda text: None)
            if position % steps == 0:  # else the epoch is over
                np.testing.assert_equal(
                    jax.tree.map(str, leaves(fed(after, index), position)),
                    jax.tree.map(str, expected[index][dispatches:]),
                )


# --- reading that runs ahead, and epochs that are cut short


def test_a_place_is_found_again_though_a_thread_has_read_ahead() -> None:
    live = made(repeat(Shuffling(50), batch_count=70))
    expected = [taken(live, index) for index in range(2)]
    for position in range(1, 70, 7):
        before = made(repeat(Shuffling(50), batch_count=70))
        ahead = prefetched(before.at(0).begun_at(0), 2)
        for _ in range(position):
            next(ahead)
        mark = through_json(before.mark(0, position))
        ahead.close()
        after = made(repeat(Shuffling(50), batch_count=70))
        after.put_back(0, position, mark, lambda text: None)
        assert [taken(after, 0, position), taken(after, 1)] == [expected[0][position:], expected[1]]


@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("count", [None, 4])
def test_an_epoch_that_was_cancelled_is_read_as_far_again(read: int, count: int | None) -> None:
    def lived() -> EpochSource:
        source = made(repeat(Shuffling(), batch_count=count))
        taken(source, 0)
        taken(source, 1, 0, read)
        return source

    mark = through_json(lived().mark(2, 0))
    after = made(repeat(Shuffling(), batch_count=count))
    after.put_back(2, 0, mark, lambda text: None)
    assert taken(after, 2) == taken(lived(), 2)


def test_an_epoch_whose_training_was_left_out_is_taken_all_the_same() -> None:
    def lived() -> EpochSource:
        source = made(iter([Shuffling(3, 1), Shuffling(4, 2), Shuffling(5, 3)]))
        taken(source, 0)
        source.at(1)
        return source

    after = made(iter([Shuffling(3, 1), Shuffling(4, 2), Shuffling(5, 3)]))
    after.put_back(2, 0, through_json(lived().mark(2, 0)), lambda text: None)
    assert taken(after, 2) == taken(lived(), 2)


def test_a_run_may_be_at_its_end() -> None:
    before, after = (made(iter([list(range_of_pairs(3)), list(range_of_pairs(2))])) for _ in range(2))
    for index in range(2):
        taken(before, index)
    assert len(after.put_back(2, 0, through_json(before.mark(2, 0)), lambda text: None)) == 2


def range_of_pairs(count: int) -> Iterator[Any]:
    return (pairs(2) for _ in range(count))


def test_a_fit_that_begins_in_a_later_epoch_goes_on() -> None:
    def source() -> EpochSource:
        later = EpochSource(repeat(Shuffling()))
        later.at(4).peek()
        later.watched()
        return later

    before, live, after = source(), source(), source()
    assert taken(before, 4) == taken(live, 4)
    taken(before, 5, 0, 2)
    after.put_back(5, 2, through_json(before.mark(5, 2)), lambda text: None)
    assert taken(after, 5, 2) == taken(live, 5)[2:]


class Threaded(Shuffling):
    """A loader whose iterator starts a worker, which reads ahead."""

    def __iter__(self) -> Any:
        return prefetched(super().__iter__(), 2)


@pytest.mark.parametrize("count", [None, 4])
def test_a_loader_with_a_worker_is_read_again(count: int | None) -> None:
    check_all_places(lambda: repeat(Threaded(), batch_count=count), {"replay"})


# --- several loaders


class Rewinding(Shuffling):
    """A loader that is its own iterator."""

    def __iter__(self) -> Any:
        self.rest = super().__iter__()
        return self

    def __next__(self) -> Any:
        return next(self.rest)


def shared(kind: str) -> Life:
    loader = Rewinding() if kind == "own iterator" else Shuffling()
    other = Shuffling(3)
    other.random = loader.random
    return {
        "own iterator": lambda: Life([loader] * 3, loader),
        "one loader": lambda: Life(repeat(loader), loader),
        "one random state": lambda: Life(repeat(loader), other),
        "streams": lambda: Life(repeat(loader, batch_count=4), repeat(other, batch_count=2)),
        "looked up": lambda: Life([list(Shuffling())] * 3, other),
        "generator": lambda: Life(repeat(loader), repeat((batch for _ in range(9) for batch in other), batch_count=4)),
    }[kind]()


SHARED = ["own iterator", "one loader", "one random state", "streams", "looked up", "generator"]


@pytest.mark.parametrize("kind", SHARED)
def test_training_goes_on_with_the_validations_before_it(kind: str) -> None:
    expected = shared(kind).lived(3)
    for index, position in places([len(training) for training, _ in expected]):
        before, after = shared(kind), shared(kind)
        before.lived(index)
        if position:
            taken(before.source, index, 0, position)
        after.put_back(index, position, 0, before.marks(index, position, 0))
        assert same_marks(after.marks(index, position, 0), before.marks(index, position, 0))
        again = [(taken(after.source, index, position), after.validated()), *after.lived_from(index + 1)]
        assert again == [(expected[index][0][position:], expected[index][1]), *expected[index + 1 :]]


@pytest.mark.parametrize("kind", SHARED)
def test_validation_goes_on_in_its_midst(kind: str) -> None:
    expected = shared(kind).lived(3)
    for index, position in places([len(validation) for _, validation in expected]):
        if not position:
            continue
        before, after = shared(kind), shared(kind)
        before.lived(index)
        taken(before.source, index)
        before.validated(0, position)
        after.put_back(index + 1, 0, position, before.marks(index + 1, 0, position))
        assert same_marks(after.marks(index + 1, 0, position), before.marks(index + 1, 0, position))
        assert after.validated(position) == expected[index][1][position:]
        assert after.lived_from(index + 1) == expected[index + 1 :]


@pytest.mark.parametrize("count", [None, 7])
def test_a_validation_of_grain_goes_on_from_its_state(count: int | None) -> None:
    grain = imported("grain")

    def life() -> Life:
        data = grain.MapDataset.source(ROWS[:20]).shuffle(seed=3).repeat(None if count else 1).batch(2)
        return Life(repeat(Shuffling()), repeat(data, batch_count=count))

    expected = life().lived(3)
    before, after = life(), life()
    before.lived(1)
    taken(before.source, 1)
    before.validated(0, 5)
    marks = before.marks(2, 0, 5)
    assert marks[1]["kind"] == "state"
    assert after.put_back(2, 0, 5, marks) != []
    assert after.validated(5) == expected[1][1][5:]
    assert after.lived_from(2) == expected[2:]


# --- what is refused, and what is told


@pytest.mark.parametrize(
    ("saved", "now", "why"),
    [
        (repeat([pairs(2)] * 5), repeat(Shuffling()), "looked its batches up by position, but these data are read in"),
        ([[pairs(2)] * 5] * 2, [Shuffling()] * 2, "looked its batches up by position, but these data are read in turn"),
        (repeat(Shuffling()), repeat([pairs(2)] * 5), "read its data in turn, but these data are looked up"),
        ([[pairs(2)] * 5] * 2, [[pairs(2)] * 4 + [pairs(3)]] * 2, "had other samples, or another order of them"),
        (repeat(Shuffling(5)), repeat(Shuffling(4)), "differ from those that the checkpoint's run read"),
        (repeat(Shuffling(5)), repeat(Shuffling(5, 1)), "the first 1 batches differ from those"),
        (
            iter([Shuffling(5)] * 2),
            iter([Shuffling(5)]),
            r"had an epoch 2 \(counted from 1\), but these data end before",
        ),
        ([[pairs(2)] * 5] * 2, [[pairs(2)] * 5], r"had an epoch 2 \(counted from 1\), but these data end before it"),
    ],
)
def test_other_data_are_refused(saved: Any, now: Any, why: str) -> None:
    before = made(saved)
    taken(before, 0)
    taken(before, 1, 0, 5)
    with pytest.raises(StateMismatchError, match=rf"training: .*{why}.*jaxloop.restore"):
        made(now).put_back(1, 5, through_json(before.mark(1, 5)), lambda text: None)


def test_a_state_is_refused_by_a_loader_that_has_none() -> None:
    grain = imported("grain")
    before = made(repeat(grain.MapDataset.source(ROWS).batch(2)))
    taken(before, 0, 0, 3)
    with pytest.raises(StateMismatchError, match="kept the state of a loader of grain, but these data have no such"):
        made(repeat(Shuffling())).put_back(0, 3, through_json(before.mark(0, 3)), lambda text: None)


def test_what_is_read_again_is_told() -> None:
    before, told = made(repeat(Shuffling())), []
    taken(before, 0)
    taken(before, 1, 0, 2)
    made(repeat(Shuffling())).put_back(1, 2, before.mark(1, 2), told.append)
    assert len(told) == 1
    assert told[0].startswith("Reads 7 batches of training again to find the place")


def test_states_of_long_ago_are_few_but_there() -> None:
    trail = Trail()
    for count in range(3000):
        trail.keep(Point(0, count, count, 0, {}))
    kept = [point.count for point in trail._points]
    assert len(kept) <= 40
    assert kept[0] == 0
    assert kept[-20:] == list(range(2980, 3000))


def test_marks_stay_small_over_many_epochs() -> None:
    source = made(repeat(Shuffling()))
    for index in range(300):
        taken(source, index)
    assert len(json.dumps(source.mark(300, 0))) < 1000
