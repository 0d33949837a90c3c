"""The steps of a phase over the wire: how many at once, from what, and what happens where shapes change."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.engine.dispatch import prepared
from jaxloop.engine.interrupts import Interrupts
from tests import small
from tests.compiling import counted_compiles, steps_in


def fitted(epochs: int = 2, **changes: Any) -> tuple[jl.Loop, jl.History]:
    return small.training_loop(**changes).fit(small.model(), epochs)


@pytest.mark.parametrize("steps", [2, 3, "auto"])
def test_fused_steps_give_bit_for_bit_what_single_steps_give(steps: Any) -> None:
    data = jl.TrainingEpochs(small.samples(4 * 8), 4)
    single, single_history = fitted(training=data, steps_per_dispatch=1)
    fused, fused_history = fitted(training=data, steps_per_dispatch=steps)
    small.assert_trees_equal(single, fused)
    for name, column in single_history.batches.items():
        np.testing.assert_array_equal(column, fused_history.batches[name])


# --- samples on the device, and maps in the program


@pytest.mark.parametrize("steps", [1, 3])
def test_resident_samples_train_as_those_on_the_host_do(steps: int) -> None:
    samples = small.samples(4 * 7)
    host, host_history = fitted(training=jl.TrainingEpochs(samples, 4), steps_per_dispatch=steps)
    device, device_history = fitted(training=jl.TrainingEpochs(samples, 4, resident=True), steps_per_dispatch=steps)
    small.assert_trees_equal(host, device)
    np.testing.assert_array_equal(host_history.batches["loss"], device_history.batches["loss"])


PASSED_ON: dict[str, Callable[[jl.TrainingEpochs], Any]] = {
    "as they are": lambda epochs: epochs,
    "mapped in the program": lambda epochs: epochs.map(lambda batch: (batch[0] * 2, batch[1]), compiled=True),
    "by a loader": lambda epochs: [list(epoch) for epoch in epochs[:2]],
}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("passed_on", PASSED_ON)
def test_a_small_batch_that_goes_alone_does_so_in_one_array_and_trains_as_in_several(
    monkeypatch: Any, passed_on: str, steps: int
) -> None:
    def fit() -> tuple[Any, set[int]]:
        data = PASSED_ON[passed_on](jl.TrainingEpochs(small.samples(4 * 7), 4))
        training_loop = small.training_loop(training=data, steps_per_dispatch=steps)
        feed = small.steps_of(training_loop)[0].feed
        arrays = [len(jax.tree.leaves(batch)) for chunk, batch in feed.chunks(steps) if chunk.steps == 1]
        loop, history = training_loop.fit(small.model(), 2)
        return (loop, dict(history.batches)), set(arrays)

    packed, one = fit()
    monkeypatch.setattr("jaxloop.feeding.contract.packing_of", lambda batches: None)
    several, two = fit()
    assert (one, two) == ({1}, {2})
    small.assert_trees_equal(packed, several)


def test_resident_samples_go_to_the_device_once() -> None:
    training_loop = small.training_loop(training=jl.TrainingEpochs(small.samples(12), 4, resident=True))
    loop, _ = training_loop.fit(small.model(), 1)
    kept = [copies for _, copies in training_loop.setup.residents._copies.values()]
    training_loop.fit(loop, 2)
    again = [copies for _, copies in training_loop.setup.residents._copies.values()]
    assert len(kept) == len(again) == 1
    assert kept[0][0] is again[0][0]


def test_with_resident_samples_nothing_but_indices_and_the_wire_goes_to_the_device() -> None:
    data = jl.TrainingEpochs(small.samples(4 * 6), 4, resident=True)
    training_loop = small.training_loop(training=data, validation=None, steps_per_dispatch=2)
    training_loop.fit(small.model(), 1)
    feeds: list[Any] = []
    from jaxloop.feeding.feed import Feed

    chunks = Feed.chunks

    def noted(self, steps, start=0):
        for chunk, batch in chunks(self, steps, start):
            feeds.append(batch)
            yield chunk, batch

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Feed, "chunks", noted)
        training_loop.fit(small.model(), 1)
    assert [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) for batch in feeds] == [
        (((2, 4), np.dtype(np.int32)), None, None)
    ] * 3


def scaled(batch: Any) -> Any:
    return jnp.asarray(batch[0], jnp.float32) / 256, batch[1]  # exact, however it is computed


def bytes_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = small.samples(count)
    return (np.clip(images, -1, 1) * 100 + 120).astype(np.uint8), labels


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_compiled_map_runs_in_the_program_and_bytes_travel(steps: int, resident: bool) -> None:
    images, labels = bytes_of(4 * 6)
    epochs = jl.TrainingEpochs((images, labels), 4, resident=resident).map(scaled, compiled=True)
    validation = jl.in_batches(bytes_of(7), 4)
    mapped, history = fitted(
        training=epochs, validation=validation.map(scaled, compiled=True), steps_per_dispatch=steps
    )
    plain, expected = fitted(
        training=jl.TrainingEpochs((images / np.float32(256), labels), 4),
        validation=jl.in_batches((bytes_of(7)[0] / np.float32(256), bytes_of(7)[1]), 4),
        steps_per_dispatch=steps,
    )
    np.testing.assert_allclose(mapped.model.params["kernel"], plain.model.params["kernel"], rtol=1e-6)
    np.testing.assert_allclose(history.epochs["validation_loss"], expected.epochs["validation_loss"], rtol=1e-6)
    np.testing.assert_array_equal(history.epochs["validation_accuracy"], expected.epochs["validation_accuracy"])


def test_a_compiled_map_serves_where_the_step_is_cut_too() -> None:
    @jl.on_host(jl.Event.UPDATE_START, reads="step")
    def look(loop, event):
        assert loop.input.dtype == np.float32

    epochs = jl.TrainingEpochs(bytes_of(12), 4, resident=True).map(scaled, compiled=True)
    validation = jl.in_batches(bytes_of(8), 4).map(scaled, compiled=True)
    cut, _ = fitted(training=epochs, validation=validation, callbacks=[look])
    whole, _ = fitted(training=epochs, validation=validation)
    small.assert_trees_equal(cut.model.params, whole.model.params)


def test_a_label_outside_of_the_classes_is_seen_behind_a_compiled_map() -> None:
    images, labels = bytes_of(12)
    wild = np.where(np.arange(12) == 3, 9, labels)
    epochs = [jl.in_batches((images, wild), 4).map(scaled, compiled=True)]
    with counted_compiles() as counts, pytest.raises(ValueError, match=r"target is 9 at \(3,\)"):
        fitted(1, training=epochs)
    assert steps_in(counts) == {}


# --- what would compile again


def changing(batches: int = 4, at: int = 2) -> list[list[Any]]:
    """One epoch of batches of 4, of which one has 3 examples."""
    images, labels = small.samples(4)
    return [[(images[:3], labels[:3]) if index == at else (images, labels) for index in range(batches)]]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_batch_of_another_shape_in_mid_epoch_raises_with_its_leaf_and_its_number(steps: int) -> None:
    with pytest.raises(ValueError, match=r"input was float32\[4, 4\] there, now it is float32\[3, 4\]") as caught:
        fitted(1, training=changing(), validation=None, steps_per_dispatch=steps)
    assert "while it read training, batch 3 of 4" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("steps", [1, 2, "auto"])
@pytest.mark.filterwarnings("default:training. every batch must be like the first")
def test_a_warning_lets_it_compile_again_and_train_exactly(steps: Any) -> None:
    with counted_compiles() as counts, pytest.warns(UserWarning, match=r"float32\[3, 4\]. A program is compiled"):
        loop, _ = fitted(1, training=changing(), validation=None, steps_per_dispatch=steps, on_recompile="warn")
    assert int(loop.step) == 4
    assert sum(steps_in(counts).values()) == (3 if steps == 2 else 2)


def test_a_loop_that_grows_between_epochs_raises_with_the_leaf() -> None:
    @jl.on_host(jl.Event.EPOCH_END, reads="loop")
    def grow(loop, event):
        memory = {"seen": np.zeros(3 + int(loop.epoch_index), np.float32)}
        return loop.replace(callback_state=memory)

    with pytest.raises(ValueError, match=r"training step would compile again.*\['seen'\] has become float32\[4\]"):
        fitted(3, callbacks=[jl.on_host(jl.Event.FIT_START, reads="loop")(lambda loop, event: grow(loop, event)), grow])


# --- where the time goes


def test_the_time_of_a_fit_is_put_down_to_what_it_went_into() -> None:
    @jl.on_host(jl.Event.EPOCH_END, jl.Event.BATCH_END)
    def mine(loop, event):
        pass

    _, history = fitted(callbacks=[mine])
    assert set(history.timing) >= {"setup", "compile", "data", "dispatch", "device", "events", "callback History"}
    assert any(name.startswith("callback ") and name.endswith("mine") for name in history.timing)
    assert all(seconds >= 0 for seconds in history.timing.values())


# --- what the device is kept waiting by


class Reads:
    """Counts what waits for the device: reading an array in NumPy, and everything else that looks into one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rows = self.others = 0
        asarray = np.asarray
        kind = type(jnp.zeros(()))

        def counted_rows(array, *arguments, **options):
            self.rows += isinstance(array, jax.Array)
            return asarray(array, *arguments, **options)

        def counted_other(function):
            def call(*arguments, **options):
                self.others += 1
                return function(*arguments, **options)

            return call

        monkeypatch.setattr(np, "asarray", counted_rows)
        for name in ("device_get", "block_until_ready", "device_put"):
            monkeypatch.setattr(jax, name, counted_other(getattr(jax, name)))
        for name in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "block_until_ready"):
            monkeypatch.setattr(kind, name, counted_other(getattr(kind, name)))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_dispatch_more_is_one_read_of_rows_more_and_nothing_else_waits(
    steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def reads_of(dispatches: int) -> tuple[int, int]:
        data = jl.TrainingEpochs(small.samples(4 * steps * dispatches), 4)
        callbacks = [jl.callbacks.CSVLogger(tmp_path / "log.csv"), jl.callbacks.TensorBoardLogger(tmp_path / "stats")]
        training_loop = small.training_loop(
            training=data, validation=None, steps_per_dispatch=steps, callbacks=callbacks
        )
        training_loop.fit(small.model(), 1)
        with monkeypatch.context() as patched:
            reads = Reads(patched)
            training_loop.fit(small.model(), 1)
        return reads.rows, reads.others

    few, many = reads_of(5), reads_of(12)
    assert many[0] - few[0] == 7
    assert many[1] == few[1]


def test_between_dispatches_nothing_goes_to_the_device_unasked() -> None:
    """With resident data and indices that are sent as on an accelerator, guarded from the second dispatch on."""
    from jaxloop.feeding.feed import Feed

    chunks = Feed.chunks

    def sent(self, steps, start=0):
        return ((chunk, jax.device_put(batch, self.placement.device)) for chunk, batch in chunks(self, steps, start))

    @jl.on_host(jl.Event.BATCH_END, jl.Event.TRAINING_END)
    class Guard:
        def __call__(self, loop, event):
            jax.config.update("jax_transfer_guard_host_to_device", "allow")

        def rows(self, columns):
            jax.config.update("jax_transfer_guard_host_to_device", "disallow")

    data = jl.TrainingEpochs(small.samples(4 * 24), 4, resident=True)
    training_loop = small.training_loop(training=data, validation=None, steps_per_dispatch=4, callbacks=[Guard()])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Feed, "chunks", sent)
        loop, _ = training_loop.fit(small.model(), 2)
    assert int(loop.step) == 48


def test_nothing_more_is_compiled_once_a_signal_waits() -> None:
    """The first boundary comes after all announced programs: several long compiles must not keep a run from saving."""
    interrupts, compiled = Interrupts(), []

    def compile_one(chunk, *arguments, **options):
        compiled.append(chunk.steps)
        interrupts.pending = len(compiled) == 2

    steps = SimpleNamespace(
        fusing=lambda wire: SimpleNamespace(steps=4),
        cost=lambda wire, fused: None,
        announced=lambda fused: [SimpleNamespace(steps=steps, abstract=None) for steps in (4, 3, 2, 1)],
        compiled=compile_one,
    )
    assert prepared(cast(Any, steps), cast(Any, None), lambda *_: None, interrupts) == 4
    assert compiled == [4, 3]
