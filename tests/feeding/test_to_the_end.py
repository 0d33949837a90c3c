"""Loaders are run to their end, as `for` does, however they are read; what is not as long as it says is told."""

import contextlib
from typing import Any

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event, Scope
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import Peekable
from jaxloop.placement import Placement
from tests import small

IMAGES, LABELS = small.samples(12)


class Shuffled:
    """Three batches of four, in an order that a generator of its own draws; what counts comes after the last."""

    def __init__(self, *, promised: int = 3, given: int = 3, error: Exception | None = None):
        self.promised, self.given, self.error = promised, given, error
        self.random = np.random.default_rng(0)
        self.epoch = self.closed = 0
        self.orders: list[list[int]] = []

    def __len__(self) -> int:
        return self.promised

    def __iter__(self):
        order = np.random.default_rng([self.epoch, int(self.random.integers(9))]).permutation(12)
        self.orders.append(order.tolist())
        try:
            for index in range(self.given):
                rows = order[index % 3 * 4 :][:4]
                yield IMAGES[rows], LABELS[rows]
            if self.error is not None:
                raise self.error
            self.random.integers(9, size=self.epoch + 1)  # as torch's RandomSampler draws once more
            self.epoch += 1
        finally:
            self.closed += 1


def by_hand(epochs: int) -> tuple[list[list[int]], list[Any]]:
    """The orders of a plain `for` loop, and the epochs as lists of batches."""
    loader = Shuffled()
    batches = [list(loader) for _ in range(epochs)]
    return loader.orders, batches


class Accelerator(Placement):
    """A CPU that is fed as an accelerator is."""

    @property
    def is_cpu(self) -> bool:
        return False


def feed(batches: Any, *, padded: bool = False, accelerator: bool = False) -> Feed:
    place = (Accelerator if accelerator else Placement)(jax.devices()[0])
    unseen = Feed(Peekable(batches), Reader("training"), place)
    return unseen.begun(short="filled" if padded else "refused")


def targets(chunks: Any) -> list[np.ndarray]:
    """The targets of each chunk, one after the other."""
    unpacked = (batch if chunk.packing is None else chunk.packing.split(batch) for chunk, batch in chunks)
    return [np.ravel(target) for _, target, _ in unpacked]


@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "thread"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_loader_is_asked_for_its_end(steps: int, padded: bool, accelerator: bool) -> None:
    loader = Shuffled()
    for epoch in range(3):
        found = targets(feed(loader, padded=padded, accelerator=accelerator).chunks(steps))
        order = by_hand(epoch + 1)[0][epoch]
        np.testing.assert_array_equal(np.concatenate(found), LABELS[order])
    assert (loader.epoch, loader.closed) == (3, 3)


@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "thread"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_loader_that_goes_on_after_its_length_is_told_once_its_batches_were_given(
    steps: int, accelerator: bool
) -> None:
    chunks = feed(Shuffled(given=5), accelerator=accelerator).chunks(steps)
    assert sum(next(chunks)[0].steps for _ in range(0, 3, steps)) == 3
    message = r"training: it went on after the 3 batches that its length promises.*batch_count=3"
    with pytest.raises(ValueError, match=message):
        next(chunks)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_is_raised_at_the_very_end_says_so(steps: int) -> None:
    with pytest.raises(KeyError) as caught:
        list(feed(Shuffled(error=KeyError("mine"))).chunks(steps))
    assert caught.value.__notes__ == ["jaxloop: while it read training, after all 3 batches"]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_is_raised_in_a_batch_that_waits_for_others_names_that_batch(steps: int, at: int) -> None:
    broken = Shuffled(given=at, error=KeyError("mine"))
    with pytest.raises(KeyError) as caught:
        list(feed(broken).chunks(steps))
    assert caught.value.__notes__ == [f"jaxloop: while it read training, batch {at + 1} of 3 (counted from 1)"]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_batch_unlike_the_first_is_named(steps: int, at: int) -> None:
    batches = by_hand(1)[1][0]
    batches[at] = batches[at][0], np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="every batch must be like the first") as caught:
        list(feed(batches).chunks(steps))
    assert f"batch {at + 1} of 3" in caught.value.__notes__[0]


@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "thread"])
@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_left_early_is_let_go_and_not_run_to_its_end(steps: int, accelerator: bool) -> None:
    loader = Shuffled(promised=9, given=9)
    chunks = feed(loader, accelerator=accelerator).chunks(steps)
    next(chunks)
    chunks.close()
    assert (loader.epoch, loader.closed) == (0, 1)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
def test_each_epoch_of_a_fit_has_the_order_of_a_loop_by_hand(steps_per_dispatch: Any) -> None:
    orders, epochs = by_hand(3)
    training, validation = Shuffled(), Shuffled()
    changes = {"steps_per_dispatch": steps_per_dispatch, "metrics": []}
    training_loop = small.training_loop(training=[training] * 3, validation=validation, **changes)
    loop, _ = training_loop.fit(small.model(), 3)
    assert training.orders == orders
    assert (training.epoch, validation.epoch) == (3, 3)
    expected, _ = small.training_loop(training=epochs, validation=None, **changes).fit(small.model(), 3)
    small.assert_trees_equal(loop.model.params, expected.model.params)

    training_loop.evaluate(loop, validation)
    training_loop.predict(loop, validation)
    assert validation.epoch == 5
    with pytest.raises(ValueError, match="batches: it went on after the 3 batches"):
        training_loop.predict(loop, Shuffled(given=4))
    with pytest.raises(ValueError, match="batches: it ended after 2 of the 3 batches"):
        training_loop.predict(loop, Shuffled(given=2))
    with pytest.raises(ValueError, match="batches: it went on after the 3 batches"):
        training_loop.evaluate(loop, Shuffled(given=4))


@pytest.mark.parametrize("reads", ["stats", "step"])
def test_a_fit_that_ends_early_lets_the_loader_go(reads: Any) -> None:
    @jl.on_host(Event.BATCH_END, reads=reads)
    def enough(loop, event):
        loop.cancel(Scope.FIT)

    @jl.on_host(Event.BATCH_END, reads=reads)
    def broken(loop, event):
        raise KeyError("mine")

    loader = Shuffled(promised=9, given=9)
    small.training_loop(training=jl.repeat(loader), validation=None, callbacks=[enough]).fit(small.model(), 1)
    assert (loader.epoch, loader.closed) == (0, 1)
    with pytest.raises(KeyError):
        small.training_loop(training=jl.repeat(loader), validation=None, callbacks=[broken]).fit(small.model(), 1)
    assert (loader.epoch, loader.closed) == (0, 2)


def test_a_limit_cuts_a_loader_and_asks_for_no_more() -> None:
    loader = Shuffled(given=5)
    small.training_loop(training=[loader], validation=None).fit(small.model(), 1, limit_batches=2)
    assert (loader.epoch, loader.closed) == (0, 1)


@pytest.mark.parametrize(("steps", "ended"), [(12, 4), (11, 3)])
def test_the_learning_rate_finder_runs_the_epochs_that_it_takes_to_their_end(steps: int, ended: int) -> None:
    loader = Shuffled()
    training_loop = small.training_loop(training=[loader] * 4, validation=None)
    with contextlib.suppress(ValueError):  # so few batches may show no descent
        jl.find_learning_rate(training_loop, small.model(), start_rate=1e-9, end_rate=1e-8, steps=steps)
    assert (loader.epoch, loader.closed) == (ended, 4)
