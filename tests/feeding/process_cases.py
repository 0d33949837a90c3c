"""Feeds in several processes, for scripts that are run in each of them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxloop as jl
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import Peekable
from jaxloop.placement import Placement
from tests.feeding.mesh_cases import Loader, as_jax, lists

OTHER = 1000  # what tells the numbers of the second process's own data from those of the first


def placements() -> dict[str, tuple[Placement, int]]:
    """Ways in which 8 devices of 2 processes have a batch together, each with the number of shares that make one."""
    devices = jax.devices()
    grid = Mesh(np.array(devices).reshape(2, 4), ("data", "model"))  # each process has one half of the examples
    across = Mesh(np.array(devices).reshape(2, 4).T, ("data", "model"))  # each has all of the examples
    mixed = Mesh(np.array([devices[index] for index in (0, 4, 1, 5, 2, 6, 3, 7)]), ("data",))
    return {
        "line": (jl.data_parallel(), 2),
        "mixed": (Placement(mixed), 2),
        "grid": (Placement(grid), 2),
        "across": (Placement(across), 1),
        "columns": (Placement(grid, batch_spec=PartitionSpec("data", "model")), 2),
        "all": (Placement(across, batch_spec=PartitionSpec(("data", "model"))), 2),
        "none": (Placement(grid, batch_spec=PartitionSpec(None, "model")), 1),
    }


def pairs(count: int, first: int = 0) -> Any:
    """Input float32[count, 4] and target int64[count], numbered."""
    target = np.arange(first, first + count)
    return np.repeat(target[:, np.newaxis], 4, axis=1).astype(np.float32), target


def feed(batches: Any, on: Placement, where: str = "training", **options: Any) -> Feed:
    return Feed(Peekable(batches), Reader(where), on).begun(**options)


def fed(feed: Feed, steps: int) -> list[tuple[int, np.ndarray, Any]]:
    """Steps, target and weight of each chunk, whole; all else about the arrays is checked."""
    on, found = feed.placement, []
    for spec, batch in feed.chunks(steps):
        shardings = on.batch_shardings(spec.abstract, spec.rows, stacked=spec.steps > 1)
        assert jax.tree.structure(batch) == jax.tree.structure(spec.abstract)
        for leaf, kind, sharding in zip(*map(jax.tree.leaves, (batch, spec.abstract, shardings)), strict=True):
            assert (leaf.shape, leaf.dtype) == (kind.shape, kind.dtype)
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        input, target, weight = on.fetch(batch)
        np.testing.assert_array_equal(input, np.repeat(target[..., np.newaxis], 4, axis=-1))
        found.append((spec.steps, target, weight))
    return found


def targets(feed: Feed, steps: int) -> list[int]:
    return np.concatenate([np.ravel(target) for _, target, _ in fed(feed, steps)]).tolist()


def weighted(feed: Feed, steps: int) -> list[int]:
    """The targets that weigh something."""
    found = fed(feed, steps)
    return np.concatenate([target[weight > 0] for _, target, weight in found]).tolist()


def predicted(feed: Feed) -> list[int]:
    """The targets of the rows that count as read here."""
    return np.concatenate([feed.placement.fetch(batch)[1][rows] for rows, batch in feed.singles()]).tolist()


OWN: dict[str, Callable[[], Any]] = {
    "epochs": lambda: jl.TrainingEpochs(pairs(70), 16)[3],
    "in order": lambda: jl.in_batches(pairs(64), 16),
    "mapped": lambda: jl.TrainingEpochs(pairs(70), 16)[3].map(lambda batch: batch),
    "JAX": lambda: jl.TrainingEpochs(pairs(70), 16)[3].map(as_jax),
    "one by one": lambda: jl.TrainingEpochs(lists(pairs(70)), 16)[3],
}


def check_own(name: str, steps: int) -> None:
    """Our own batches are the same, in the same order, in any number of processes."""
    on, shares = placements()[name]
    for kind, make in OWN.items():
        expected = np.concatenate([np.asarray(target) for _, target in make()]).tolist()
        assert targets(feed(make(), on), steps) == expected, kind
    for make in (lambda: jl.in_batches(pairs(53), 10), lambda: jl.in_batches(pairs(53), 16)):
        evaluated = feed(make(), on, "validation", short="filled")
        assert weighted(evaluated, steps) == list(range(53))
        assert evaluated.agreed.batch_size == make().batch_size
        assert predicted(evaluated) == list(range(53))
    sizes: list[int] = []
    watched = feed(jl.TrainingEpochs(pairs(64), 16)[0], on)
    watched = Feed(**(vars(watched) | {"watch": lambda index, count, batch: sizes.append(batch[1].shape[-1])}))
    list(watched.chunks(steps))
    assert set(sizes) == {16 // shares}, "each process gathers only what its devices have"


def share_of_all(rows: list[int], shares: int) -> list[int]:
    """What both processes have, where each has `rows` of its own; or these, where both have the same."""
    return sorted([*rows, *(row + OTHER for row in rows)] if shares == 2 else rows)


def check_loaders(name: str, steps: int) -> None:
    """The batches of loaders are shares of a batch, in the order of the processes."""
    on, shares = placements()[name]
    size, first = 16 // shares, OTHER * jax.process_index() if shares == 2 else 0
    kinds: list[Callable[[Any], Any]] = [
        list,
        Loader,
        lambda batches: Loader(batches, as_jax),
        lambda batches: Loader(batches, lambda batch: (jnp.asarray(batch[0]), batch[1])),
    ]
    for kind in kinds:
        one = feed(kind(jl.in_batches(pairs(4 * size, first), size)), on)
        found = np.reshape(targets(one, steps), (4, 16))
        for index, target in enumerate(found.tolist()):
            mine = share_of_all(list(range(index * size, (index + 1) * size)), shares)
            assert (target if name in ("line", "grid", "columns") else sorted(target)) == mine
        assert one.agreed.batch_size == 16
        assert [leaf.shape for leaf in jax.tree.leaves(one.probe())] == [(16, 4), (16,)]
        assert not np.any(one.probe()[0]), "what a model is made by is the same everywhere"
        assert one.first()[1].tolist() == list(range(first, first + size))
        odd = feed(kind(jl.in_batches(pairs(3 * size - 1, first), size - 1)), on, "validation", short="filled")
        assert sorted(weighted(odd, steps)) == share_of_all(list(range(3 * size - 1)), shares)
        assert odd.agreed.batch_size == shares * (size - 1)
        assert predicted(odd) == list(range(first, first + 3 * size - 1))


def spanning(batch: Any) -> Any:
    """The batch, divided over the devices of all processes."""
    sharding = jl.data_parallel().batch_shardings(np.zeros(16), 16)

    def made(leaf: np.ndarray) -> jax.Array:
        leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype))
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(made, batch)


def check_spanning(name: str, steps: int) -> None:
    """Arrays that span the processes are whole batches, wherever they lie."""
    batches = Loader(jl.in_batches(pairs(64), 16), spanning)
    assert targets(feed(batches, placements()[name][0]), steps) == list(range(64))


def refusals() -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is refused, and a part of its message."""
    on, first = jl.data_parallel(), OTHER * jax.process_index()

    def local(*sizes: int) -> Any:
        return [pairs(size, first) for size in sizes]

    def all_of(batches: Any, **options: Any) -> Callable[[], Any]:
        return lambda: list(feed(batches, on, **options).chunks(1))

    whole = jax.tree.map(lambda leaf: leaf.astype(np.float32), pairs(16))

    class Announced(list[Any]):
        shapes = (4, 8)

    yield "12 = 8 x 1 + 4; give a batch size of 8 or 16", lambda: feed(jl.TrainingEpochs(pairs(64), 12)[0], on)
    yield "over the 4 parts that this process has: 6 = 4 x 1 + 2; give a batch size of 4 or 8", all_of(local(6, 6))
    yield "must share one axis of examples", all_of([(np.zeros((8, 2)), np.zeros(4))])
    yield "input was float32[8, 4] there, now it is float32[4, 4]. In several", all_of(local(8, 4))
    yield "In several processes no batch of a loader may differ", all_of(local(8, 4), on_recompile="warn")
    yield "every batch of a loader must be like the first", all_of(local(7, 9), short="filled")
    uneven = Placement(Mesh(np.array([jax.devices()[index] for index in (0, 1, 4)]), ("data",)))
    yield "of the 3 parts of a batch, and others have more or fewer", lambda: feed(local(4), uneven)
    yield "the lengths (4, 8)", all_of(Announced(local(8)))
    yield (
        "7 = 4 x 1 + 3",
        lambda: feed(local(7, 7), on, short="filled").agreeing(short="alone"),
    )
    yield (
        "every batch of a loader must be like the first",
        lambda: list(feed(local(8, 4), on, short="filled").agreeing(short="alone").chunks(1)),
    )
    yield "Give all batches in one of these two forms", all_of([spanning(whole), whole])


def check_refusals() -> None:
    """What the processes cannot have together is refused, in each of them."""
    for message, make in refusals():
        with pytest.raises(ValueError, match=re.escape(message)):
            make()
