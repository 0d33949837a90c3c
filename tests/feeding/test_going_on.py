"""Data go on where a run was: other libraries' loaders, validation, dispatches of several steps, loaders that share."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxloop.data import repeat
from jaxloop.data.repeat import one_epoch
from jaxloop.errors import StateMismatchError
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.marks import Point, Trail
from jaxloop.feeding.prefetch import prefetched
from jaxloop.feeding.reading import Position, Reader, check_ended
from jaxloop.feeding.source import EpochSource, Peekable
from jaxloop.placement import resolve
from tests.feeding.test_marks import KINDS, Shuffling, made, pairs, taken

ROWS = [(inputs, target) for inputs, target in zip(*pairs(80), strict=True)]


def imported(name: str) -> Any:
    """A module, or a skipped test where it did not install."""
    return pytest.importorskip(name, reason=f"{name} did not install", exc_type=ImportError)


def through_json(mark: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(mark))


def without_states(mark: dict[str, Any]) -> dict[str, Any]:
    """A mark without the state of a loader, which may be of another batch though the place is the same."""
    return {name: value for name, value in through_json(mark).items() if name not in ("kind", "point")}


def same_marks(found: tuple[Any, Any], expected: tuple[Any, Any]) -> bool:
    return [*map(without_states, found)] == [*map(without_states, expected)]


def places(lengths: list[int]) -> Iterator[tuple[int, int]]:
    return ((index, position) for index, length in enumerate(lengths) for position in range(length + 1))


def check_all_places(make: Callable[[], Any], kinds: set[str], every: int = 1, limit: int | None = None) -> None:
    """Every place of three epochs is found again; the marks are of the given kinds."""
    live = made(make(), limit)
    expected = [taken(live, index) for index in range(3)]
    found = set()
    for index, position in itertools.islice(places([len(epoch) for epoch in expected]), 0, None, every):
        before = made(make(), limit)
        for earlier in range(index):
            taken(before, earlier)
        if position:
            taken(before, index, 0, position)
        mark = through_json(before.mark(index, position))
        after = made(make(), limit)
        after.put_back(index, position, mark, lambda text: None)
        assert without_states(after.mark(index, position)) == without_states(mark)  # the next save says the same
        again = [taken(after, index, position), *(taken(after, later) for later in range(index + 1, 3))]
        assert again == [expected[index][position:], *expected[index + 1 :]], (index, position, mark)
        found.add(mark["kind"])
    assert found == kinds


# --- grain


@pytest.mark.parametrize("count", [None, 7])
def test_a_data_set_of_grain_goes_on_from_its_state(count: int | None) -> None:
    grain = imported("grain")

    def make() -> Any:
        data = grain.MapDataset.source(ROWS).seed(5).shuffle().repeat(None if count else 1).batch(2)
        return repeat(data, batch_count=count)

    check_all_places(make, {"replay", "state"}, every=3 if count else 13)


def test_an_iterable_data_set_of_grain_goes_on_from_its_state() -> None:
    grain = imported("grain")

    def make() -> Any:
        data = grain.MapDataset.source(ROWS).shuffle(seed=5).to_iter_dataset()
        return repeat(grain.experimental.WindowShuffleIterDataset(data, window_size=8, seed=3).batch(2), batch_count=7)

    check_all_places(make, {"replay", "state"}, every=3)


def test_an_iterator_of_grain_goes_on_from_its_state() -> None:
    grain = imported("grain")
    check_all_places(
        lambda: repeat(iter(grain.MapDataset.source(ROWS).shuffle(seed=5).repeat().batch(2)), batch_count=7),
        {"replay", "state"},
        every=3,
    )


@pytest.mark.parametrize("many", [False, True], ids=["repeat", "list"])
def test_a_loader_of_grain_goes_on_from_its_state(many: bool) -> None:
    grain = imported("grain")

    def make() -> Any:
        loader = grain.DataLoader(
            data_source=ROWS[:12],
            sampler=grain.samplers.IndexSampler(12, shuffle=True, seed=4, num_epochs=1),
            operations=[grain.transforms.Batch(2)],
        )
        return [Sized(loader, 6)] * 3 if many else repeat(loader, batch_count=4)

    check_all_places(make, {"replay"} if many else {"replay", "state"})


class Sized:
    """A loader of another library with its length."""

    def __init__(self, loader: Any, length: int):
        self.loader, self.length = loader, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return iter(self.loader)


# --- torch


def torch_data(rows: int = 12) -> Any:
    torch = imported("torch")
    inputs, targets = pairs(rows)
    return torch.utils.data.TensorDataset(torch.tensor(inputs), torch.tensor(targets))


def seeded(seed: int = 3) -> Any:
    return imported("torch").Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [None, 4])
def test_a_loader_of_torch_is_read_again(count: int | None) -> None:
    data, loader = torch_data(), imported("torch").utils.data.DataLoader
    check_all_places(lambda: repeat(loader(data, 2, shuffle=True, generator=seeded()), batch_count=count), {"replay"})


def test_a_loader_of_torch_that_draws_from_the_global_state_is_read_again() -> None:
    torch, data = imported("torch"), torch_data()

    def make() -> Any:
        torch.manual_seed(0)
        return repeat(torch.utils.data.DataLoader(data, 2, shuffle=True))

    check_all_places(make, {"replay"})


def test_a_loader_of_torch_without_a_seed_is_refused() -> None:
    torch, data = imported("torch"), torch_data()
    before = made(repeat(torch.utils.data.DataLoader(data, 2, shuffle=True)))
    taken(before, 0)
    with pytest.raises(StateMismatchError, match=r"training: the first .* batches? differ.*manual_seed"):
        made(repeat(torch.utils.data.DataLoader(data, 2, shuffle=True))).put_back(
            1, 0, before.mark(1, 0), lambda text: None
        )


of_torchdata = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # what torchdata 0.11 calls of torch


@of_torchdata
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("count", [None, 4])
@pytest.mark.parametrize("generator", [seeded, lambda: None], ids=["generator", "none"])
def test_a_stateful_loader_goes_on_from_its_state(
    generator: Callable[[], Any], count: int | None, limit: int | None
) -> None:
    torch, stateful, data = imported("torch"), imported("torchdata.stateful_dataloader"), torch_data()

    def make() -> Any:
        torch.manual_seed(0)
        return repeat(stateful.StatefulDataLoader(data, 2, shuffle=True, generator=generator()), batch_count=count)

    check_all_places(make, {"replay", "state"}, limit=limit)


@pytest.mark.filterwarnings("ignore")  # of torch's workers, which a busy machine starts slowly
def test_a_stateful_loader_with_workers_goes_on_from_its_state() -> None:
    stateful, data = imported("torchdata.stateful_dataloader"), torch_data()
    check_all_places(
        lambda: repeat(
            stateful.StatefulDataLoader(
                data, 2, shuffle=True, generator=seeded(), num_workers=1, multiprocessing_context="spawn"
            )
        ),
        {"replay", "state"},
        every=17,
    )


@of_torchdata
@pytest.mark.parametrize("kind", ["one loader", "one generator", "a plain one's generator"])
def test_stateful_loaders_that_share_what_they_draw_from_go_on(kind: str) -> None:
    torch, stateful, data = imported("torch"), imported("torchdata.stateful_dataloader"), torch_data()

    def life() -> Life:
        generator = seeded()
        loader = stateful.StatefulDataLoader(data, 2, shuffle=True, generator=generator)
        other = stateful.StatefulDataLoader(data, 4, generator=generator)
        plain = torch.utils.data.DataLoader(data, 4, generator=generator)
        return Life(repeat(loader), {"one loader": loader, "one generator": other}.get(kind, plain))

    expected = life().lived(3)
    for index, position in places([len(training) for training, _ in expected]):
        before, after = life(), life()
        before.lived(index)
        if position:
            taken(before.source, index, 0, position)
        after.put_back(index, position, 0, before.marks(index, position, 0))
        assert same_marks(after.marks(index, position, 0), before.marks(index, position, 0))
        again = [(taken(after.source, index, position), after.validated()), *after.lived_from(index + 1)]
        assert again == [(expected[index][0][position:], expected[index][1]), *expected[index + 1 :]]


@of_torchdata
def test_a_stateful_loader_whose_samples_draw_from_a_global_state_is_read_again() -> None:
    torch, stateful = imported("torch"), imported("torchdata.stateful_dataloader")

    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> Any:
            return torch.rand(2), torch.randint(100, ())

    def make() -> Any:
        torch.manual_seed(0)
        return repeat(stateful.StatefulDataLoader(Noisy(), 2, shuffle=True, generator=seeded()))

    check_all_places(make, {"replay"})


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


class Life:
    """Training and validation, set up and read as a fit does it."""

    def __init__(self, training: Any, validation: Any):
        self.validation = Peekable(one_epoch(validation, "validation"))
        self.source = EpochSource(training)
        self.source.at(0)
        self.validation.peek()
        self.validation.close()
        self.source.at(0).peek()
        self.source.watched()
        self.validation.watched()

    def validated(self, start: int = 0, until: int | None = None) -> list[Any]:
        rest, total = self.validation.begun_at(start), len(self.validation)
        found = [batch[1].tolist() for batch in itertools.islice(rest, (total if until is None else until) - start)]
        if until is None:
            check_ended(self.validation, rest, "validation", Position(total))
        return found

    def lived(self, until: int) -> list[Any]:
        return self.lived_from(0, until)

    def lived_from(self, first: int, until: int = 3) -> list[Any]:
        return [(taken(self.source, index), self.validated()) for index in range(first, until)]

    def marks(self, index: int, training: int, validation: int) -> tuple[Any, Any]:
        return through_json(self.source.mark(index, training)), through_json(self.validation.mark(validation))

    def put_back(self, index: int, training: int, validation: int, marks: tuple[Any, Any]) -> list[str]:
        told: list[str] = []
        self.source.put_back(index, training, marks[0], told.append, lambda: self.validation.pass_over(marks[1]))
        self.validation.put_back(validation, marks[1], told.append)
        return told


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
            r"had an epoch 1 \(counted from 0\), but these data end before",
        ),
        ([[pairs(2)] * 5] * 2, [[pairs(2)] * 5], r"had an epoch 1 \(counted from 0\), but these data end before it"),
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
