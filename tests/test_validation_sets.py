"""Tests of validation on several named sets, and of validation before the first epoch."""

import csv
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.events import TRAINING, VALIDATION, Split
from tests import event_files, small
from tests.devices import run_on_devices

IN, OUT = small.samples(10, seed=1), small.samples(7, seed=2)
WEIGHT = np.array([1, 0, 2, 1, 0, 3, 1], np.float32)
SETS = {"in_domain": jl.in_batches(IN, 4), "out_of_domain": jl.in_batches((*OUT, WEIGHT), 2)}


def fitted(epochs: int = 2, **changes: Any) -> tuple[jl.TrainingLoop, jl.Loop, jl.History]:
    training_loop = small.training_loop(**{"validation": SETS} | changes)
    return training_loop, *training_loop.fit(small.model(), epochs)


def alone(name: str, epochs: int = 2, **changes: Any) -> jl.History:
    """What is measured over one set by itself."""
    return fitted(epochs, validation=SETS[name], **changes)[2]


@pytest.mark.parametrize("steps_per_dispatch", [1, 2, "auto"])
def test_each_set_has_the_statistics_that_it_has_by_itself(steps_per_dispatch: Any) -> None:
    training_loop, loop, history = fitted(steps_per_dispatch=steps_per_dispatch)
    for name, batches in SETS.items():
        expected = alone(name, steps_per_dispatch=steps_per_dispatch)
        for metric in ("loss", "accuracy"):
            np.testing.assert_array_equal(
                history.epochs[f"{name}_{metric}"], expected.epochs[f"validation_{metric}"], err_msg=name
            )
        evaluated = training_loop.evaluate(loop, batches)
        assert evaluated["loss"] == pytest.approx(history.epochs[f"{name}_loss"][-1], rel=1e-6)
    np.testing.assert_array_equal(history.epochs["loss"], alone("in_domain").epochs["loss"])
    assert not any(name.startswith("validation") for name in history.epochs)
    assert "in_domain_loss" not in history.batches


def test_a_set_is_arrays_or_batches_and_may_be_the_only_one() -> None:
    _, _, history = fitted(validation={"test": IN})
    np.testing.assert_array_equal(history.epochs["test_loss"], fitted(validation=IN)[2].epochs["validation_loss"])


def test_logs_name_the_sets(tmp_path: Path) -> None:
    console = io.StringIO()
    callbacks = [
        jl.callbacks.CSVLogger(tmp_path / "log.csv"),
        jl.callbacks.TensorBoardLogger(tmp_path / "tb"),
        jl.callbacks.ProgressBar(console),
    ]
    _, _, history = fitted(callbacks=callbacks)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["phase"] for row in rows[:10]] == ["training"] * 3 + ["in_domain"] * 3 + ["out_of_domain"] * 4
    assert float(rows[5]["loss"]) == pytest.approx(history.epochs["in_domain_loss"][0])
    assert float(rows[9]["loss"]) == pytest.approx(history.epochs["out_of_domain_loss"][0])
    assert list(rows[0]) == ["epoch", "batch", "loss", "accuracy", "phase", "step", "learning_rate"]
    (run,) = (tmp_path / "tb").iterdir()
    assert sorted(folder.name for folder in run.iterdir()) == ["in_domain", "out_of_domain", "train"]
    assert "in_domain_loss 1.3" in console.getvalue()
    assert "out_of_domain_accuracy" in console.getvalue()
    assert history.validation_sets == ("in_domain", "out_of_domain")


def test_a_set_may_be_called_train_as_tensorboard_calls_training(tmp_path: Path) -> None:
    _, _, history = fitted(1, validation={"train": IN}, callbacks=[jl.callbacks.TensorBoardLogger(tmp_path)])
    run = event_files.only_run(tmp_path)
    for folder, column in (("train", "loss"), ("train-set", "train_loss")):
        assert event_files.scalars(run / folder)["epoch/loss"] == {1: np.float32(history.epochs[column][0])}


def test_each_program_compiles_once() -> None:
    training_loop, loop, history = fitted()
    assert sorted(history.compile_seconds) == ["in_domain_step", "out_of_domain_step", "training_step"]
    assert training_loop.fit(loop, 1)[1].compile_seconds == {}
    compiled = training_loop.compile(small.model())
    assert list(compiled.validation_sets) == ["in_domain", "out_of_domain"]
    assert compiled.validation is compiled.validation_sets["in_domain"]


def test_callbacks_know_the_set() -> None:
    traced: list[Any] = []
    seen: list[Any] = []

    def compiled(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is jl.Event.INFERENCE_PREDICTION_END:
            traced.append(loop.validation_set)
        return loop

    @jl.on_host(jl.Event.VALIDATION_START, jl.Event.VALIDATION_END, jl.Event.BATCH_END)
    def host(loop: Any, event: jl.Event) -> None:
        seen.append((event.name.partition("_")[2], loop.validation_set, loop.split))

    _, loop, _ = fitted(1, callbacks=[compiled, host])
    assert set(traced) == {"in_domain", "out_of_domain"}
    first, second = Split.named("in_domain"), Split.named("out_of_domain")
    rows = [[("END", split.validation_set, split)] * count for split, count in ((first, 3), (second, 4))]
    between = [
        [("START", split.name, split), *of_split, ("END", split.name, split)]
        for split, of_split in zip((first, second), rows, strict=True)
    ]
    assert seen == [("END", None, TRAINING)] * 3 + between[0] + between[1]
    assert (loop.phase, loop.validation_set, loop.split) == (None, None, None)


def test_randomness_differs_from_set_to_set() -> None:
    loop = small.training_loop().start(small.model(), epochs=1).replace(phase=jl.Phase.VALIDATION)
    keys = [loop.replace(validation_set=name).step_key("noise") for name in (None, "in_domain", "out_of_domain")]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 3
    assert loop.split == VALIDATION


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (jl.Event.TRAINING_END, [False, False]),  # before validation: all of it
        (jl.Event.VALIDATION_START, [False, False]),  # in each of the sets
        (jl.Event.EPOCH_END, [True, True]),
    ],
)
def test_validation_is_cancelled_for_all_sets_or_within_one(event: jl.Event, expected: list[bool]) -> None:
    callback = small.at(event, lambda loop: loop.cancel(jl.Scope.VALIDATION))
    _, _, history = fitted(1, callbacks=[callback])
    measured = [bool(np.isfinite(history.epochs[f"{name}_loss"][0])) for name in SETS]
    assert measured == expected


def test_what_is_cancelled_within_a_set_leaves_the_others() -> None:
    def callback(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        first = event is jl.Event.VALIDATION_START and loop.validation_set == "in_domain"
        return loop.cancel(jl.Scope.VALIDATION) if first else loop

    _, _, history = fitted(1, callbacks=[callback])
    assert np.isnan(history.epochs["in_domain_loss"][0])
    assert history.epochs["out_of_domain_loss"][0] == alone("out_of_domain", 1).epochs["validation_loss"][0]


def test_an_epoch_that_is_cancelled_in_a_set_ends_there() -> None:
    callback = small.at(jl.Event.VALIDATION_END, lambda loop: loop.cancel(jl.Scope.FIT))
    _, loop, history = fitted(3, callbacks=[callback])
    assert history.stopped == "cancelled"
    assert int(loop.epoch_index) == 1
    assert np.isnan(history.epochs["out_of_domain_loss"][0])


def test_a_statistic_of_a_set_is_monitored() -> None:
    stopping = jl.callbacks.early_stopping("out_of_domain_loss", patience=1, min_delta=100.0)
    _, _, history = fitted(5, callbacks=[stopping])
    assert history.stopped == "cancelled"
    with pytest.raises(ValueError, match="in_domain_loss"):
        fitted(1, callbacks=[jl.callbacks.early_stopping()])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "there is no set in it"),
        ({"in domain": IN}, "must be a word of letters, digits and _"),
        ({"training": IN}, "must be a word of letters, digits and _, and not 'training'"),
        ({3: IN}, "must be a word"),
        ({"top5": IN}, "two statistics would be called 'top5_accuracy'"),
        ({"a": IN, "b": [IN[0], IN[1]]}, r"^validation\['b'\]: expected batches, got a list of arrays"),
        ({"a": IN, "b": []}, r"^validation\['b'\]: there is no batch"),
    ],
)
def test_sets_that_cannot_be_are_refused(sets: dict[Any, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fitted(validation=sets, metrics=["accuracy", "top5_accuracy"])


def test_a_step_of_ones_own_names_its_set() -> None:
    training_loop = small.training_loop(validation=SETS)
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    for name, batches in SETS.items():
        for batch in batches:
            loop = training_loop.eval_step(loop, batch, name)
        assert loop.validation_set == name
        assert int(loop.batch_count) == len(batches)
    loop = training_loop.end_epoch(loop)
    for name, batches in SETS.items():
        expected = training_loop.evaluate(small.model(), batches)["loss"]
        assert float(loop.stats[f"{name}_loss"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="validation_set: say which, of 'in_domain', 'out_of_domain'; none was named"):
        training_loop.eval_step(loop, batch)
    with pytest.raises(ValueError, match="got 'test'"):
        training_loop.eval_step(loop, batch, "test")


@pytest.mark.parametrize("changes", [{}, {"validation": IN}], ids=["sets", "one"])
def test_what_comes_before_the_first_epoch_is_validation_of_the_model_as_given(changes: dict[str, Any]) -> None:
    training_loop, loop, history = fitted(2, validate_at_start=True, **changes)
    _, expected, without = fitted(2, **changes)
    small.assert_trees_equal(loop.model.params, expected.model.params)
    assert history.epochs["epoch"].tolist() == [0, 1, 2]
    for name, column in without.epochs.items():
        if name not in ("seconds", "examples_per_second"):
            np.testing.assert_array_equal(history.epochs[name][1:], column, err_msg=name)
    sets = changes or SETS
    for name, batches in sets.items():
        expected_loss = training_loop.evaluate(small.model(), batches)["loss"]
        assert history.epochs[f"{name}_loss"][0] == pytest.approx(expected_loss, rel=1e-6)
    assert np.isnan(history.epochs["loss"][0])
    assert repr(history).startswith("History(completed after 2 epochs")
    assert repr(without).startswith("History(completed after 2 epochs")


def test_an_epoch_whose_training_was_cancelled_is_not_taken_for_validation_at_the_start() -> None:
    @jl.on_host(jl.Event.TRAINING_START)
    def skip(loop: Any, event: jl.Event) -> None:
        loop.cancel(jl.Scope.TRAINING)

    for at_start in (False, True):
        _, _, history = fitted(2, callbacks=[skip], validate_at_start=at_start)
        assert history.validated_at_start == at_start
        assert repr(history).startswith("History(completed after 2 epochs")
        assert "History(completed after 2 epochs" in history._repr_html_()


def test_a_fit_says_whether_it_validates_first() -> None:
    training_loop = small.training_loop(validate_at_start=True)
    loop, history = training_loop.fit(small.model(), 1, validate_at_start=False)
    assert history.epochs["epoch"].tolist() == [1]
    assert training_loop.fit(loop, 1)[1].epochs["epoch"].tolist() == [1, 2]
    assert small.training_loop().fit(loop, 1, validate_at_start=True)[1].epochs["epoch"].tolist() == [1, 2]


def test_a_model_that_training_makes_worse_is_brought_back() -> None:
    def worsened(loop: jl.Loop) -> jl.Loop:
        params = jax.tree.map(lambda leaf: leaf + 9 * np.arange(3, dtype=np.float32), loop.model.params)
        return loop.replace(model=loop.model.replace(params=params))

    worse = small.at(jl.Event.TRAINING_END, worsened)
    stopping = jl.callbacks.early_stopping(patience=1, restore_best=True)
    _, loop, history = fitted(5, validation=IN, callbacks=[worse, stopping], validate_at_start=True)
    assert len(history.epochs["epoch"]) == 2
    small.assert_trees_equal(loop.model.params, jax.tree.map(jax.numpy.asarray, small.model().params))


def test_nothing_to_validate_on_is_refused() -> None:
    with pytest.raises(ValueError, match="validate_at_start: there is nothing to validate on"):
        fitted(validation=None, validate_at_start=True)


SCRIPT = """
import numpy as np
import jaxloop as jl
from tests import small

sets = {"in_domain": small.samples(10, seed=1), "out_of_domain": jl.in_batches(small.samples(21, seed=2), 5)}
histories = []
for on in (jl.data_parallel(), "cpu:0"):
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(48), 16), validation=sets, validate_at_start=True
    )
    loop, history = training_loop.fit(small.model(), steps=5, on=on)
    histories.append(history)
for name in histories[0].epochs:
    if name not in ("seconds", "examples_per_second"):
        one, other = (history.epochs[name] for history in histories)
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
assert histories[0].epochs["epoch"].tolist() == [0, 1, 2]
"""


@pytest.mark.slow
def test_on_eight_devices_sets_and_budgets_are_those_of_one() -> None:
    run_on_devices(SCRIPT, 8)
