"""However a fit with checkpoints ends, what was saved is whole, its folder is free, and the run goes on exactly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callback import HostDeclaration
from jaxloop.checkpoint.store import Store
from tests import small

EPOCHS, BATCHES = 2, 4


class Data:
    """Epochs of batches that raise in place of one, while there is an error."""

    def __init__(self) -> None:
        self.epochs = list(jl.TrainingEpochs(small.samples(4 * BATCHES), 4)[:EPOCHS])
        self.at: tuple[int, int] | None = None

    def epoch(self, index: int) -> "Epoch":
        return Epoch(self, index)


class Epoch:
    def __init__(self, data: Data, index: int):
        self.data, self.index = data, index

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.data.epochs[self.index]):
            if self.data.at == (self.index, number):
                raise KeyError("mine")
            yield batch


class Raises:
    """A host callback that raises at one event of the second epoch, or of the fit, until it is told to stop."""

    host_declaration = HostDeclaration(
        frozenset(event for event in jl.Event if not event.in_step) | {jl.Event.BATCH_END}, "stats"
    )

    def __init__(self) -> None:
        self.at: jl.Event | None = None
        self.steps: list[int] = []

    def __call__(self, loop: Any, event: jl.Event) -> None:
        if event is jl.Event.BATCH_END and loop.phase is jl.Phase.TRAINING:
            self.steps.append(int(loop.step) + 1)  # a row counts its step from 0
        late = event is jl.Event.FIT_END or int(loop.epoch) == EPOCHS
        if event is self.at and late:
            raise KeyError("mine")


class Run:
    """A run, the callback and the data in it that can fail, and what it gives if they do not."""

    def __init__(self) -> None:
        self.data, self.raises = Data(), Raises()
        epochs = [self.data.epoch(index) for index in range(EPOCHS)]
        self.training_loop = small.training_loop(training=epochs, callbacks=[jl.callbacks.ema(0.9), self.raises])
        self.expected, self.history = self.training_loop.fit(small.model(), EPOCHS)

    def fit(self, directory: Path, every: Any = 1) -> tuple[jl.Loop, jl.History]:
        self.raises.steps.clear()
        checkpoint = jl.callbacks.Checkpoint(directory, every=every, keep=99)
        return self.training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint], resume_from=directory)

    def assert_goes_on(self, directory: Path, every: Any = 1) -> None:
        self.raises.at = self.data.at = None
        loop, history = self.fit(directory, every)
        small.assert_trees_equal(loop, self.expected)
        for name in ("loss", "accuracy", "learning_rate"):
            np.testing.assert_array_equal(history.batches[name], self.history.batches[name])


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def assert_whole(directory: Path) -> list[str]:
    """Where the checkpoints are, once all of them were verified."""
    assert not [path for path in directory.iterdir() if path.suffix in (".writing", ".removing")]
    saved = Store(directory).checkpoints()
    for checkpoint in saved:
        checkpoint.verify()
    return [checkpoint.manifest()["about"]["where"] for checkpoint in saved]


AT = [event for event in jl.Event if not event.in_step and event is not jl.Event.FIT_START]


@pytest.mark.parametrize("event", [*AT, jl.Event.BATCH_END], ids=lambda event: event.name)
def test_a_callback_that_raises_leaves_its_own_error_and_whole_checkpoints(
    run: Run, tmp_path: Path, event: jl.Event
) -> None:
    run.raises.at = event
    with pytest.raises(KeyError, match="mine") as raised:
        run.fit(tmp_path)
    assert any("Raises" in note and event.name in note for note in raised.value.__notes__)
    assert len(assert_whole(tmp_path)) >= BATCHES
    run.assert_goes_on(tmp_path)


@pytest.mark.parametrize("at", [(0, 1), (0, BATCHES - 1), (1, 0), (1, 2), (1, BATCHES - 1)])
def test_data_that_raise_leave_their_own_error_and_whole_checkpoints(
    run: Run, tmp_path: Path, at: tuple[int, int]
) -> None:
    run.data.at, run.raises.at = at, None
    with pytest.raises(KeyError, match="mine") as raised:
        run.fit(tmp_path)
    epoch, batch = at
    assert any(f"epoch {epoch + 1}" in note for note in raised.value.__notes__)
    assert len(assert_whole(tmp_path)) >= epoch * BATCHES + batch - 1
    run.assert_goes_on(tmp_path)


def test_a_run_saved_between_two_epochs_trains_all_epochs_that_are_left(run: Run, tmp_path: Path) -> None:
    run.raises.at = jl.Event.EPOCH_START
    with pytest.raises(KeyError):
        run.fit(tmp_path, every="epoch")
    assert assert_whole(tmp_path) == ["after epoch 1 of 2"]
    run.assert_goes_on(tmp_path, every="epoch")
    assert run.raises.steps == list(range(BATCHES + 1, EPOCHS * BATCHES + 1))


@pytest.mark.parametrize("every", [BATCHES - 1, BATCHES, BATCHES + 2])
def test_a_run_saved_within_an_epoch_trains_the_rest_of_it_and_validates(run: Run, tmp_path: Path, every: int) -> None:
    """The last batch of training is such a place too: what is left of that epoch is its validation."""
    run.raises.at = jl.Event.TRAINING_END if every > BATCHES else jl.Event.EPOCH_START
    with pytest.raises(KeyError):
        run.fit(tmp_path, every=every)
    where = "epoch 2 of 2, training batch 2 of 4" if every > BATCHES else f"epoch 1 of 2, training batch {every} of 4"
    assert assert_whole(tmp_path) == [where]
    run.assert_goes_on(tmp_path, every=every)
    untold = 1  # rows are told one dispatch late: that of the last step was saved with the run
    assert run.raises.steps == list(range(every + 1 - untold, EPOCHS * BATCHES + 1))


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        (4, 1),
        *(
            pytest.param(at, steps, marks=pytest.mark.slow)
            for at, steps in ((1, 1), (EPOCHS * BATCHES, 1), (1, 2), (4, 2), (EPOCHS * BATCHES, 2))
        ),
    ],
)
def test_a_loss_that_is_not_finite_leaves_checkpoints_that_are(tmp_path: Path, at: int, steps: int) -> None:
    def spoils(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is not jl.Event.UPDATE_START:
            return loop
        spoilt = jnp.where(loop.step == at - 1, jnp.nan, 1.0)
        return loop.replace(gradient=jax.tree.map(lambda leaf: leaf * spoilt, loop.gradient))

    stops = jl.callbacks.stop_on_non_finite()
    training = jl.TrainingEpochs(small.samples(4 * BATCHES), 4)
    training_loop = small.training_loop(training=training, callbacks=[spoils, stops], steps_per_dispatch=steps)
    checkpoint = jl.callbacks.Checkpoint(tmp_path, every=1, keep=2)
    with pytest.raises(jl.errors.NonFiniteError, match=f"step {at}"):
        training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint])
    assert assert_whole(tmp_path)
    loop = jl.restore(tmp_path, training_loop, small.model())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loop.model.params, loop.opt_state)))
    with pytest.raises(jl.errors.NonFiniteError):  # the same command meets the same fault, and trains no further
        training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint], resume_from=tmp_path)
