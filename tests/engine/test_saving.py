"""Saving: when a run is saved, what is kept, and how a save that fails is told."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from jaxloop.checkpoint.store import Store
from jaxloop.engine import saving
from jaxloop.errors import CheckpointError
from tests import small
from tests.devices import run_on_devices

BATCHES = 6


def training_loop(directory: Path, *, callbacks: Any = (), steps: Any = 1, **options: Any) -> jl.TrainingLoop:
    """Six training batches and two of validation, saved to `directory`."""
    return small.training_loop(
        training=jl.TrainingEpochs(small.samples(4 * BATCHES), 4),
        callbacks=[*callbacks, jl.callbacks.Checkpoint(directory, **options)],
        steps_per_dispatch=steps,
    )


def places(directory: Path) -> list[str]:
    return [saved.manifest()["about"]["where"] for saved in Store(directory).checkpoints()]


def test_a_run_is_saved_after_each_epoch_and_when_it_is_over(tmp_path) -> None:
    training_loop(tmp_path, keep=9).fit(small.model(), 2)
    assert places(tmp_path) == ["after epoch 1 of 2", "after epoch 2 of 2", "the run is over"]


@pytest.mark.parametrize(("every", "steps", "expected"), [(4, 1, [4, 2, 6]), (4, 3, [6, 3, 6]), (6, 1, [6, 6])])
def test_a_run_is_saved_at_the_first_boundary_after_so_many_steps(tmp_path, every, steps, expected) -> None:
    training_loop(tmp_path, keep=9, every=every, steps=steps).fit(small.model(), 2)
    found = [saved.manifest()["about"]["place"] for saved in Store(tmp_path).checkpoints()]
    assert [place["position"] for place in found if place["moment"] == "training"] == expected
    assert found[-1]["moment"] == "fit_end"


def test_a_run_is_saved_at_the_first_boundary_after_so_much_time(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])

    @jl.on_host(Event.BATCH_END)
    def clock(loop, event):
        now[0] += 1.0

    training_loop(tmp_path, keep=99, every=timedelta(seconds=5), callbacks=[clock]).fit(small.model(), 2)
    found = [saved.manifest()["about"]["place"] for saved in Store(tmp_path).checkpoints()]
    assert [(place["moment"], place["position"]) for place in found] == [
        ("training", 6),  # rows are told one dispatch late: five seconds are over at the sixth batch
        ("training", 3),  # the last of the first training, two of validation, two of the next training
        ("validation", 2),
        ("fit_end", 0),
    ]


def test_the_newest_and_the_best_are_kept(tmp_path) -> None:
    values = jnp.array([3.0, 1.0, jnp.nan, 2.0, 4.0])

    def score(loop, event):
        if event is not Event.EPOCH_END:
            return loop
        return loop.record("score", values[loop.epoch_index])

    training_loop(tmp_path, keep=1, best=("score", "min"), callbacks=[score]).fit(small.model(), 5)
    assert places(tmp_path) == ["after epoch 2 of 5", "the run is over"]
    assert Store(tmp_path).best_ordinal() == Store(tmp_path).checkpoints()[0].ordinal


def test_the_best_epoch_is_saved_even_if_nothing_else_is_due_there(tmp_path) -> None:
    values = jnp.array([1.0, 3.0, 2.0])

    def score(loop, event):
        return loop.record("score", values[loop.epoch_index]) if event is Event.EPOCH_END else loop

    options = {"keep": 1, "every": timedelta(days=1), "best": ("score", "max")}
    training_loop(tmp_path, callbacks=[score], **options).fit(small.model(), 3)
    assert places(tmp_path) == ["after epoch 2 of 3", "the run is over"]


def test_a_statistic_that_nothing_measures_cannot_be_the_best(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"Checkpoint: `best` must be a statistic that is measured, got 'score'"):
        training_loop(tmp_path / "run", best=("score", "min")).fit(small.model(), 1)


def test_two_checkpoints_save_at_their_own_times_and_hold_the_same(tmp_path) -> None:
    both = small.training_loop(
        callbacks=[
            jl.callbacks.Checkpoint(tmp_path / "epochs", keep=9),
            jl.callbacks.Checkpoint(tmp_path / "steps", every=2, keep=9),
        ]
    )
    expected, whole = both.fit(small.model(), 2)
    assert places(tmp_path / "epochs") == ["after epoch 1 of 2", "after epoch 2 of 2", "the run is over"]
    assert len(places(tmp_path / "steps")) == 4
    for name in ("epochs", "steps"):
        loop, history = small.training_loop().fit(small.model(), 2, resume_from=tmp_path / name)
        small.assert_trees_equal(loop, expected)
        assert history.batches["loss"].tolist() == whole.batches["loss"].tolist()


def test_saving_changes_nothing(tmp_path) -> None:
    with_saves, history = training_loop(tmp_path, every=1, steps=3).fit(small.model(), 2)
    data = jl.TrainingEpochs(small.samples(4 * BATCHES), 4)
    without, expected = small.training_loop(training=data, steps_per_dispatch=3).fit(small.model(), 2)
    small.assert_trees_equal(with_saves, without)
    assert history.batches["loss"].tolist() == expected.batches["loss"].tolist()


def test_training_does_not_wait_for_the_compiler_in_its_first_save(tmp_path) -> None:
    """What copies the arrays is compiled by a thread as the phase begins, once in the whole fit."""
    threads: list[str] = []

    def noted(event: str, duration: float, **details: Any) -> None:
        if event.endswith("backend_compile_duration") and details["fun_name"] == "jit(snapshot)":
            threads.append(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(noted)
    try:
        data = jl.TrainingEpochs((np.ones((24, 5), np.float32), np.ones((24, 7), np.float32)), 4)
        checkpoint = jl.callbacks.Checkpoint(tmp_path, every=2)
        model = jl.Model(_linear, {"weights": np.ones((5, 7), np.float32), "bias": np.ones(7, np.float32)})
        made = jl.TrainingLoop(
            data, data[0][:2], optimizer=optax.adam(0.1), loss_fn=jl.losses.mean_squared_error, callbacks=[checkpoint]
        )
        made.fit(model, 2)
    finally:
        jax.monitoring.unregister_event_duration_listener(noted)
    assert threads == ["jaxloop-checkpoint"]


def _linear(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
    return input @ params["weights"] + params["bias"], state


@pytest.mark.parametrize("failing", ["compile_snapshot", "load_library"])
def test_a_run_is_saved_even_if_nothing_could_be_prepared_for_it(tmp_path, monkeypatch, failing) -> None:
    monkeypatch.setattr(f"jaxloop.checkpoint.writer.{failing}", _full_disk)
    training_loop(tmp_path, every=2, keep=9).fit(small.model(), 1)
    assert len(places(tmp_path)) == 4


@pytest.mark.parametrize("steps", [1, 3])
def test_a_save_that_fails_ends_the_fit_at_the_next_boundary_and_leaves_the_earlier_ones(
    tmp_path, monkeypatch, steps
) -> None:
    seen: list[int] = []

    @jl.on_host(Event.BATCH_END)
    def full(loop, event):
        seen.append(int(loop.step))
        if len(seen) == 4:
            monkeypatch.setattr("jaxloop.checkpoint.writer.prepare", _full_disk)

    with pytest.raises(CheckpointError, match=r"step .*No space left on device.*Those saved before are as they were"):
        training_loop(tmp_path, every=1, keep=9, callbacks=[full], steps=steps).fit(small.model(), 9)
    assert len(seen) < 4 * BATCHES
    monkeypatch.undo()
    saved = Store(tmp_path).checkpoints()
    assert saved
    for checkpoint in saved:
        checkpoint.verify()


def _full_disk(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_last_save_that_fails_is_raised_with_the_trained_loop(tmp_path, monkeypatch) -> None:
    @jl.on_host(Event.FIT_END)
    def full(loop, event):
        monkeypatch.setattr("jaxloop.checkpoint.writer.prepare", _full_disk)

    with pytest.raises(CheckpointError, match="No space left on device") as raised:
        training_loop(tmp_path, callbacks=[full]).fit(small.model(), 1)
    assert int(raised.value.loop.step) == BATCHES


def test_what_fails_first_is_raised_and_a_save_that_fails_then_is_noted(tmp_path, monkeypatch) -> None:
    @jl.on_host(Event.EPOCH_START)
    def wrong(loop, event):
        if int(loop.epoch_index) == 1:
            raise RuntimeError("mine")

    def slow(*arguments: Any) -> None:
        time.sleep(0.5)
        _full_disk()

    monkeypatch.setattr("jaxloop.checkpoint.writer.prepare", slow)
    with pytest.raises(RuntimeError, match="mine") as raised:
        training_loop(tmp_path, callbacks=[wrong]).fit(small.model(), 2)
    assert any("a checkpoint could not be saved either" in note for note in raised.value.__notes__)


def test_sigterm_saves_at_the_next_boundary_and_ends_the_fit(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    @jl.on_host(Event.BATCH_END)
    def killed(loop, event):
        if int(loop.step) == 3 and loop.phase is Phase.TRAINING:
            os.kill(os.getpid(), signal.SIGTERM)

    loop, history = training_loop(tmp_path, callbacks=[killed]).fit(small.model(), 2)
    assert history.stopped == "preempted"
    assert signal.getsignal(signal.SIGTERM) is before
    assert int(loop.step) == 5  # the row of step 3 is told when step 4 was sent
    saved = Store(tmp_path).checkpoints()[-1]
    assert saved.manifest()["about"]["place"]["position"] == 5
    expected, whole = small.training_loop(training=jl.TrainingEpochs(small.samples(4 * BATCHES), 4)).fit(
        small.model(), 2
    )
    after, rest = training_loop(tmp_path).fit(small.model(), 2, resume_from=tmp_path)
    small.assert_trees_equal(after, expected)
    assert (rest.stopped, rest.batches["loss"].tolist()) == ("completed", whole.batches["loss"].tolist())


_ON_DEVICES = """
import os, signal, tempfile
import jax
import jaxloop as jl
from tests import small

@jl.on_host(jl.Event.EPOCH_START, jl.Event.TRAINING_END)
def killed(loop, event):
    if (int(loop.epoch_index), event) == (1, jl.Event[EVENT]):
        os.kill(os.getpid(), signal.SIGTERM)

for on in (jl.data_parallel(), jax.devices()[1]):
    with tempfile.TemporaryDirectory() as folder:
        loop = small.training_loop(callbacks=[jl.callbacks.Checkpoint(folder)])
        _, history = loop.fit(small.model(), 2, callbacks=[killed], on=on)
        assert history.stopped == "preempted"
        after, _ = loop.fit(small.model(), 2, on=on, resume_from=folder)
    small.assert_trees_equal(after, small.training_loop().fit(small.model(), 2, on=on)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("event", ["EPOCH_START", "TRAINING_END"])
def test_sigterm_between_phases_saves_wherever_the_run_lives(event) -> None:
    run_on_devices(_ON_DEVICES.replace("EVENT", repr(event)), 2)


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT has Python's handler, also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_saves_too(tmp_path) -> None:
    @jl.on_host(Event.BATCH_END)
    def interrupted(loop, event):
        if int(loop.step) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training_loop(tmp_path, callbacks=[interrupted]).fit(small.model(), 2)
    assert places(tmp_path) == ["epoch 1 of 2, training batch 5 of 6"]


@pytest.mark.parametrize("steps", [1, 3])
def test_what_an_observer_has_asked_for_is_saved_with_the_run(tmp_path, steps) -> None:
    """It cancels validation from within training: its request is in no leaf of the loop before training ends."""

    def asking() -> Any:
        @jl.on_host(Event.BATCH_END)
        def ask(loop, event):
            if int(loop.step) == 1:
                loop.cancel(Scope.VALIDATION)

        return ask

    def run(callbacks: Any, **options: Any) -> tuple[jl.Loop, jl.History]:
        data = jl.TrainingEpochs(small.samples(4 * BATCHES), 4)
        made = small.training_loop(training=data, callbacks=callbacks, steps_per_dispatch=steps)
        return made.fit(small.model(), 1, **options)

    expected, _ = run([asking()])
    run([asking(), jl.callbacks.Checkpoint(tmp_path, every=1, keep=99)])
    for saved in Store(tmp_path).checkpoints():
        if saved.manifest()["about"]["place"]["moment"] == "training":
            _only(tmp_path, saved.ordinal)
            loop, _ = run([asking()], resume_from=tmp_path / "only")
            small.assert_trees_equal(loop, expected)


def _only(directory: Path, ordinal: int) -> None:
    """A copy of the folder in which `ordinal` is the newest."""
    import shutil

    shutil.rmtree(directory / "only", ignore_errors=True)
    shutil.copytree(directory, directory / "only", ignore=shutil.ignore_patterns("only"))
    for saved in Store(directory / "only").checkpoints():
        if saved.ordinal > ordinal:
            shutil.rmtree(saved.path)
