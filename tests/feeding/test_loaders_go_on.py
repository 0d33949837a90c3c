"""Other libraries' loaders go on where a run was: from a state where that is exact, else they are read again."""

from collections.abc import Callable
from typing import Any

import pytest

from jaxloop.data import repeat
from jaxloop.errors import StateMismatchError
from tests.feeding.lives import ROWS, Life, check_all_places, imported, places, same_marks
from tests.feeding.test_marks import made, pairs, taken

# --- grain


@pytest.mark.slow
@pytest.mark.parametrize("count", [None, 7])
def test_a_data_set_of_grain_goes_on_from_its_state(count: int | None) -> None:
    grain = imported("grain")

    def make() -> Any:
        data = grain.MapDataset.source(ROWS).seed(5).shuffle().repeat(None if count else 1).batch(2)
        return repeat(data, batch_count=count)

    check_all_places(make, {"replay", "state"}, every=3 if count else 13)


@pytest.mark.slow
def test_an_iterable_data_set_of_grain_goes_on_from_its_state() -> None:
    grain = imported("grain")

    def make() -> Any:
        data = grain.MapDataset.source(ROWS).shuffle(seed=5).to_iter_dataset()
        return repeat(grain.experimental.WindowShuffleIterDataset(data, window_size=8, seed=3).batch(2), batch_count=7)

    check_all_places(make, {"replay", "state"}, every=3)


@pytest.mark.slow
def test_an_iterator_of_grain_goes_on_from_its_state() -> None:
    grain = imported("grain")
    check_all_places(
        lambda: repeat(iter(grain.MapDataset.source(ROWS).shuffle(seed=5).repeat().batch(2)), batch_count=7),
        {"replay", "state"},
        every=3,
    )


@pytest.mark.slow
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
