"""Metrics bound to shapes: found out from the first batch in every way to run, and shared between fits."""

import gc
import weakref
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import confusion_matrix, matthews_corrcoef

import jaxloop as jl
from jaxloop import Event
from jaxloop.engine import rehearsal
from jaxloop.engine.abstract import AbstractFit
from jaxloop.metrics import add_to_mean, empty_mean, mean_of
from tests import small
from tests.compiling import counted_compiles

NAMES = ["matthews_correlation_coefficient", "confusion_matrix", "macro_f1"]
INPUTS, LABELS = small.samples(50, seed=3)
BATCHES = jl.in_batches((INPUTS, LABELS), 8)


@dataclass(frozen=True)
class MeanPerClass:
    """A metric of one's own: the least mean logit of all classes. Its accumulator has a place for each of them."""

    classes: int | None = None
    name: str = "least"

    def bind(self, output: Any, target: Any) -> "MeanPerClass":
        assert isinstance(output, jax.ShapeDtypeStruct)
        assert target.dtype == np.int32
        return replace(self, classes=output.shape[-1])

    def init(self) -> Any:
        assert self.classes is not None
        return jax.tree.map(lambda leaf: np.full(self.classes, leaf), empty_mean())

    def update(self, state: Any, *, output: Any, target: Any, loss: Any, weight: Any) -> Any:
        weight = jnp.ones(len(output)) if weight is None else weight
        return jax.vmap(add_to_mean, in_axes=(0, 1, None))(state, output, weight)

    def compute(self, state: Any) -> Any:
        return jnp.min(mean_of(state))


def predictions(loop: Any) -> np.ndarray:
    return np.asarray(loop.model(INPUTS)).argmax(axis=1)


@pytest.mark.parametrize("steps", [1, "auto"])
def test_the_number_of_classes_is_found_out(steps: Any) -> None:
    trainer = small.training_loop(metrics=[*NAMES, MeanPerClass()], validation=BATCHES, steps_per_dispatch=steps)
    loop, history = trainer.fit(small.model(), 2)
    predicted = predictions(loop)
    coefficient = matthews_corrcoef(LABELS, predicted)
    assert history.epochs["validation_matthews_correlation_coefficient"][-1] == pytest.approx(coefficient, abs=1e-6)
    least = np.asarray(loop.model(INPUTS)).mean(axis=0).min()
    assert history.epochs["validation_least"][-1] == pytest.approx(least, rel=1e-5)
    for given in (loop, loop.model):
        found = trainer.evaluate(given, BATCHES)
        assert found["matthews_correlation_coefficient"] == pytest.approx(coefficient, abs=1e-6)
        np.testing.assert_array_equal(found["confusion_matrix"], confusion_matrix(LABELS, predicted))


def test_a_matrix_is_in_no_row_log_or_history() -> None:
    seen: list[Any] = []
    note = jl.on_host(Event.BATCH_END, Event.FIT_END)(lambda loop, event: seen.extend(loop.stats))
    trainer = small.training_loop(metrics=NAMES, callbacks=[note])
    loop, history = trainer.fit(small.model(), 1)
    assert "macro_f1" in seen
    assert not [name for name in (*seen, *history.epochs, *history.batches, *loop.stats) if "confusion" in name]


def test_a_second_fit_compiles_and_traces_nothing_and_other_classes_are_found_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = small.training_loop(metrics=NAMES)
    traces: list[int] = []
    trace_fit = rehearsal.trace_fit
    monkeypatch.setattr(rehearsal, "trace_fit", lambda *arguments: traces.append(1) or trace_fit(*arguments))
    trainer.fit(small.model(), 1)
    assert len(traces) == 2  # one that finds out the shapes, and one that is kept
    with counted_compiles() as counts:
        loop, _ = trainer.fit(small.model(), 1)
    assert len(traces) == 2
    assert not counts
    loop, history = trainer.fit(small.model(classes=5), 1)
    inputs, labels = small.samples(8, seed=1)
    expected = matthews_corrcoef(labels, np.asarray(loop.model(inputs)).argmax(axis=1))
    assert history.epochs["validation_matthews_correlation_coefficient"][-1] == pytest.approx(expected, abs=1e-6)


def test_one_logit_and_two_are_told_apart() -> None:
    inputs, labels = small.samples(48, classes=2)
    trainer = small.training_loop(
        training=jl.TrainingEpochs((inputs, labels), 8),
        validation=jl.in_batches((inputs, labels), 10),
        metrics=NAMES,
        loss_fn=lambda output, target: jnp.mean(output**2, axis=-1),
    )
    for classes in (1, 2):
        loop, history = trainer.fit(small.model(classes=classes), 1)
        output = np.asarray(loop.model(inputs))
        predicted = output.argmax(axis=1) if classes == 2 else output[:, 0] > 0
        expected = matthews_corrcoef(labels, predicted)
        assert history.epochs["validation_matthews_correlation_coefficient"][-1] == pytest.approx(expected, abs=1e-6)


def test_tokens_are_measured_by_name_and_masked() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(30, 7, 4)).astype(np.float32)
    labels, weight = random.integers(0, 3, (30, 7)), (random.uniform(size=(30, 7)) < 0.7).astype(np.float32)
    trainer = small.training_loop(metrics=NAMES, steps_per_dispatch=3)
    found = trainer.evaluate(small.model(), jl.in_batches((inputs, np.where(weight > 0, labels, -100), weight), 8))
    predicted = np.asarray(small.model()(inputs)).argmax(axis=-1)
    counts = weight > 0
    np.testing.assert_array_equal(found["confusion_matrix"], confusion_matrix(labels[counts], predicted[counts]))


def test_steps_by_hand_know_the_classes_of_the_run_that_they_go_on_with() -> None:
    trainer = small.training_loop(metrics=NAMES)
    loop = trainer.begin_epoch(trainer.start(small.model(), epochs=1))
    predicted, labels = [], []
    for batch in jl.TrainingEpochs(small.samples(12), batch_size=4)[0]:
        predicted.extend(np.asarray(loop.model(batch[0])).argmax(axis=1))
        labels.extend(batch[1])
        loop = trainer.train_step(loop, batch)
    expected = matthews_corrcoef(labels, predicted)
    assert float(loop.stats["matthews_correlation_coefficient"]) == pytest.approx(expected, abs=1e-6)
    loop, rows = trainer.run_steps(trainer.begin_epoch(trainer.end_epoch(loop)), jax.tree.map(lambda x: x[None], batch))
    assert np.isfinite(rows["macro_f1"]).all()
    other = small.training_loop(metrics=NAMES)
    with pytest.raises(ValueError, match=r"its metrics must know the shapes.*Begin with training_loop.start"):
        other.train_step(small.training_loop().start(small.model(), epochs=1), batch)


def test_predictions_and_plans_need_no_shapes() -> None:
    trainer = small.training_loop(metrics=NAMES)
    assert trainer.predict(small.model(), INPUTS).shape == (50, 3)
    assert "a step" in str(trainer.compile(small.model()))
    abstract = AbstractFit(trainer.setup, small.model(), jl.Placement(jl.default_device())).session()
    assert abstract.loop.metrics["confusion_matrix"]["weight"].shape == (3, 4)


def test_callbacks_that_act_in_the_first_trace_act_as_ever() -> None:
    def record(loop: jl.Loop, event: Event) -> jl.Loop:
        loop = loop.remember("sum", jnp.float32(0)) if event is Event.FIT_START else loop
        if event is Event.BATCH_END and loop.phase is jl.Phase.TRAINING:
            loop = loop.record("count", jnp.int32(loop.step))
            total = loop.callback_state["sum"] + loop.stats["macro_f1"]
            loop = loop.replace(callback_state=loop.callback_state | {"sum": total})
        return loop

    stop = jl.callbacks.early_stopping("validation_macro_f1", mode="max", patience=3)
    loop, history = small.training_loop(metrics=NAMES, callbacks=[record, stop]).fit(small.model(), 2)
    assert history.batches["count"].tolist() == [0, 1, 2, 3, 4, 5]
    expected = sum(history.batches["macro_f1"])
    assert float(loop.callback_state["sum"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_callbacks_of_one_fit_are_let_go() -> None:
    trainer = small.training_loop(metrics=NAMES)

    def alone(loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.record("two", 2.0) if event is Event.BATCH_END else loop

    gone = weakref.ref(alone)
    trainer.fit(small.model(), 1, callbacks=[alone])
    trainer.fit(small.model(), 1, callbacks=[lambda loop, event: loop])
    del alone
    gc.collect()
    assert gone() is None


@pytest.mark.slow
def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(tmp_path: Any) -> None:
    def fit(folder: Any, epochs: int, resume: bool = False, cut: bool = False) -> Any:
        def end(loop: jl.Loop, event: Event) -> None:
            if cut and event is Event.EPOCH_END and int(loop.epoch_index) == 0:
                raise KeyboardInterrupt

        callbacks = [jl.callbacks.Checkpoint(folder, every=2), jl.on_host(Event.EPOCH_END)(end)]
        trainer = small.training_loop(metrics=NAMES, callbacks=callbacks, optimizer=optax.sgd(0.1))
        return trainer.fit(small.model(), epochs, resume_from=folder if resume else None)

    whole, history = fit(tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", 2, cut=True)
    loop, again = fit(tmp_path / "cut", 2, resume=True)
    np.testing.assert_array_equal(loop.model.params["kernel"], whole.model.params["kernel"])
    for name in ("macro_f1", "matthews_correlation_coefficient"):
        np.testing.assert_array_equal(again.batches[name], history.batches[name])
