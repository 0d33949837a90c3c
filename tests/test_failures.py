"""What goes wrong: refused before any compile where it can be, and told with type, place and loop where it cannot."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import event_files, small
from tests.compiling import counted_compiles, steps_in

IMAGES, LABELS = np.zeros((4, 4), np.float32), np.zeros(4, np.int32)


class Broken:
    """Batches that raise in place of the one `at`."""

    def __init__(self, batches: Any, error: BaseException, *, at: int = 1):
        self.batches = batches
        self.error = error
        self.at = at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(self.batches):
            if index == self.at:
                raise self.error
            yield batch


def failing(how: str, error: BaseException) -> dict[str, Any]:
    """Arguments of a training loop whose second epoch raises `error` in or at its second batch."""
    if how == "data":
        epochs = jl.TrainingEpochs(small.samples(12), 4)
        return {"training": [epochs[0], Broken(epochs[1], error)]}

    @jl.on_host(Event.BATCH_END, reads="stats" if how == "observer" else "step")
    def raises(loop, event):
        if loop.phase is jl.Phase.TRAINING and (int(loop.epoch_index), int(loop.batch_index)) == (1, 1):
            raise error

    return {"callbacks": [raises]}


def loggers(folder: Path) -> list[Any]:
    return [jl.callbacks.CSVLogger(folder / "log.csv"), jl.callbacks.TensorBoardLogger(folder / "stats")]


def whole_rows(folder: Path) -> list[int]:
    """The training steps in the logs, once the CSV file's lines are whole and TensorBoard reads the same rows."""
    text = (folder / "log.csv").read_text(encoding="utf-8")
    assert text.endswith("\n")
    header, *rows = [line.split(",") for line in text.splitlines()]
    assert all(len(row) == len(header) for row in rows)
    table = [dict(zip(header, row, strict=True)) for row in rows if "training" in row]
    found = event_files.scalars(event_files.only_run(folder / "stats") / "train")
    for name in ("loss", "accuracy", "learning_rate"):
        expected = {int(row["step"]): float(np.float32(row[name])) for row in table}
        assert found.get(f"batch/{name}", {}) == expected
    return [int(row["step"]) for row in table]


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 0), (1, 1), (2, 2)])
def test_an_exception_from_the_data_at_any_batch_leaves_the_rows_before_it(
    epoch: int, batch: int, steps_per_dispatch: int, tmp_path: Path
) -> None:
    class Mine(Exception):
        pass

    training: list[Any] = list(jl.TrainingEpochs(small.samples(12), 4)[:3])
    training[epoch] = Broken(training[epoch], Mine(), at=batch)
    training_loop = small.training_loop(
        training=training, validation=None, callbacks=loggers(tmp_path), steps_per_dispatch=steps_per_dispatch
    )
    with pytest.raises(Mine) as caught:
        training_loop.fit(small.model(), 3)
    assert f"in epoch {epoch + 1}" in "\n".join(caught.value.__notes__)
    sent = batch - batch % steps_per_dispatch  # what was gathered for a dispatch that never came is lost
    assert whole_rows(tmp_path) == list(range(1, 3 * epoch + sent + 1))


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
def test_an_exception_behind_the_last_batch_leaves_the_rows_of_all(steps_per_dispatch: int, tmp_path: Path) -> None:
    class Ending(Broken):
        def __iter__(self) -> Iterator[Any]:
            yield from self.batches
            raise self.error

    epochs = jl.TrainingEpochs(small.samples(12), 4)
    training = [epochs[0], Ending(epochs[1], KeyError("mine"))]
    changes: dict[str, Any] = {"validation": None, "steps_per_dispatch": steps_per_dispatch}
    with pytest.raises(KeyError, match="mine") as caught:
        small.training_loop(training=training, callbacks=loggers(tmp_path), **changes).fit(small.model(), 2)
    assert caught.value.__notes__ == [
        "jaxloop: while it read training, after all 3 batches",
        "jaxloop: error.loop is the loop in epoch 2 (counted from 1), after 3 training batches",
    ]
    assert whole_rows(tmp_path) == [1, 2, 3, 4, 5, 6]
    expected, _ = small.training_loop(training=list(epochs[:2]), **changes).fit(small.model(), 2)
    small.assert_trees_equal(caught.value.loop.model, expected.model)  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_exception_from_the_very_first_batch_comes_before_any_step_is_compiled(where: str) -> None:
    batches = Broken(jl.in_batches(small.samples(12), 4), KeyError("mine"), at=0)
    data = {where: [batches] if where == "training" else batches}
    with counted_compiles() as counts, pytest.raises(KeyError, match="mine") as caught:
        small.training_loop(**data).fit(small.model(), 1)
    assert steps_in(counts) == {}
    assert f"while it read {where}, batch 1 of 3" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
@pytest.mark.parametrize("error", [KeyError("mine"), StopIteration("mine"), KeyboardInterrupt("mine")], ids=repr)
@pytest.mark.parametrize("how", ["data", "observer", "host"])
def test_an_exception_keeps_its_type_says_where_and_leaves_the_loop_and_whole_logs(
    how: str, error: BaseException, steps_per_dispatch: int, tmp_path: Path
) -> None:
    changes = failing(how, type(error)("mine"))
    changes["callbacks"] = [*loggers(tmp_path), *changes.get("callbacks", [])]
    training_loop = small.training_loop(**changes, steps_per_dispatch=steps_per_dispatch, validation=None)
    stopped_early = how == "data" and isinstance(error, StopIteration)  # Python makes it a RuntimeError
    with pytest.raises(RuntimeError if stopped_early else type(error)) as caught:
        training_loop.fit(small.model(), 3)

    notes = "\n".join(caught.value.__notes__)
    if isinstance(error, Exception):
        where = r"read training, batch \d of 3" if how == "data" else r"in callback '.*raises' at BATCH_END"
        assert re.search(where, notes)
    assert "in epoch 2" in notes
    loop = caught.value.loop  # type: ignore[attr-defined]
    assert 3 <= int(loop.step) <= 6
    assert np.isfinite(np.asarray(loop.model.params["kernel"])).all()
    steps = whole_rows(tmp_path)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= int(loop.step) - (0 if how == "data" else steps_per_dispatch)
    if how != "data":
        again, _ = training_loop.fit(loop, 1)
        assert int(again.step) == int(loop.step) + 3


@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.name)
@pytest.mark.parametrize("kind", ["compiled", "host"])
def test_an_exception_at_any_event_names_the_callback_and_closes_the_logs(
    kind: str, event: Event, tmp_path: Path
) -> None:
    class Mine(Exception):
        pass

    def compiled(loop, at):
        if at is event:
            raise Mine
        return loop

    @jl.on_host(event, reads="step")
    def host(loop, at):
        raise Mine

    callbacks = [*loggers(tmp_path), compiled if kind == "compiled" else host]
    with counted_compiles() as counts, pytest.raises(Mine) as caught:
        small.training_loop(callbacks=callbacks).fit(small.model(), 2)
    assert f"'{kind}' at {event.name}" in "\n".join(caught.value.__notes__).replace(
        caught.value.__notes__[0].split("'")[1], kind
    )
    if kind == "compiled":
        assert steps_in(counts) == {}
    if kind == "compiled" or event is Event.FIT_START:
        assert list(tmp_path.iterdir()) == []  # found out by tracing, or before loggers began, which come last there
    else:
        (tmp_path / "moved").mkdir()
        for path in ("log.csv", "stats"):
            (tmp_path / path).rename(tmp_path / "moved" / path)
        steps = whole_rows(tmp_path / "moved")
        assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": []}, "training: it has no epoch 1"),
        ({"training": [[]]}, "training: there is no batch"),
        ({"training": [(IMAGES, LABELS)]}, r"its first element is a batch.*repeat.*TrainingEpochs\(samples"),
        ({"training": [iter([])]}, r"an epoch must be a sized iterable.*batch_count"),
        ({"training": [[IMAGES]]}, r"training: a batch must be \(input, target\).*got ndarray"),
        ({"training": [[(np.full((4, 4), np.nan, np.float32), LABELS)]]}, r"input is NaN at \(0, 0\)"),
        ({"training": [[(IMAGES, np.array([0, 1, 3, 0]))]]}, r"target is 3 at \(2,\).*from 0 to 2"),
        ({"training": [[(IMAGES, np.array([0, -1, 1, 0]))]]}, r"target is -1 at \(1,\)"),
        ({"training": [[(IMAGES, np.array([0, 2**40, 1, 0]))]]}, r"1099511627776.*fit int32"),
        ({"validation": [(IMAGES, np.array([0, 5, 1, 0]))]}, r"validation: .*target is 5"),
        (
            {"loss_fn": lambda output, target: output.mean(axis=0)},
            r"loss_fn: its shape must be .*4 examples, got \[3\]",
        ),
    ],
)
def test_bad_data_is_refused_before_any_step_is_compiled(changes: dict[str, Any], message: str) -> None:
    with counted_compiles() as counts, pytest.raises((TypeError, ValueError), match=message):
        small.training_loop(**changes).fit(small.model(), 1)
    assert steps_in(counts) == {}


@pytest.mark.parametrize("verb", ["record", "remember"])
def test_two_callbacks_that_write_one_name_are_told(verb: str) -> None:
    def first(loop, event):
        if verb == "record":
            return loop.record("mine", 1.0) if event is Event.UPDATE_START else loop
        loop = loop.remember("mine", 0)
        return loop.replace(callback_state={"mine": loop.callback_state["mine"] + 1})

    def second(loop, event):
        return first(loop, event)

    with pytest.raises(ValueError, match=rf"'.*first' and '.*second' both {verb} 'mine'"):
        small.training_loop(callbacks=[first, second]).fit(small.model(), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: jl.callbacks.CSVLogger(folder / "log.csv"), r"CSVLogger: the folder of .*cannot be made"),
        (jl.callbacks.TensorBoardLogger, r"TensorBoardLogger: no folder can be made below .*file"),
    ],
    ids=["csv", "tensorboard"],
)
def test_a_log_below_a_file_is_refused_before_any_step_is_compiled(make: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    logger = make(tmp_path / "file")
    with counted_compiles() as counts, pytest.raises(OSError, match=message):
        small.training_loop(callbacks=[logger]).fit(small.model(), 1)
    assert steps_in(counts) == {}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
def test_a_generator_that_is_spent_after_the_first_epoch_is_told(steps_per_dispatch: int) -> None:
    class Spent:
        def __init__(self) -> None:
            self.batches = iter(list(jl.TrainingEpochs(small.samples(12), 4)[0]))

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Any]:
            return self.batches

    training = [Spent()] * 2
    with pytest.raises(ValueError, match=r"training: it ended after \d of the 3 batches.*spent after one pass"):
        small.training_loop(training=training, validation=None, steps_per_dispatch=steps_per_dispatch).fit(
            small.model(), 2
        )


class Unclosed:
    """A host callback whose `close` raises."""

    host_declaration = jl.callbacks.CSVLogger.host_declaration  # type: ignore[attr-defined]

    def __init__(self, error: BaseException):
        self.error = error

    def __call__(self, loop: Any, event: Event) -> None:
        pass

    def rows(self, columns: Any) -> None:
        pass

    def close(self) -> None:
        raise self.error


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_callback_that_cannot_be_closed_neither_hides_an_error_nor_loses_a_trained_loop(
    steps_per_dispatch: int, tmp_path: Path
) -> None:
    broken = jl.on_host(Event.FIT_END)(lambda loop, event: {}["mine"])
    callbacks: list[Any] = [Unclosed(OSError("no network")), *loggers(tmp_path)]
    changes: dict[str, Any] = {"validation": None, "steps_per_dispatch": steps_per_dispatch}
    with pytest.raises(KeyError, match="mine") as caught:
        small.training_loop(callbacks=[*callbacks, broken], **changes).fit(small.model(), 1)
    assert any("'Unclosed' could not be closed either, OSError" in note for note in caught.value.__notes__)
    assert whole_rows(tmp_path) == [1, 2, 3]

    training_loop = small.training_loop(callbacks=callbacks[:1], **changes)
    with pytest.warns(RuntimeWarning, match=r"'Unclosed' could not be closed, OSError\('no network'\)"):
        loop, history = training_loop.fit(small.model(), 1)
    assert (int(loop.step), history.stopped) == (3, "completed")
    with pytest.raises(RuntimeWarning) as told:  # where warnings are errors
        training_loop.fit(small.model(), 1)
    small.assert_trees_equal(told.value.loop.model, loop.model)  # type: ignore[attr-defined]

    training_loop = small.training_loop(callbacks=[Unclosed(KeyboardInterrupt())], **changes)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        training_loop.fit(small.model(), 1)
    small.assert_trees_equal(interrupted.value.loop.model, loop.model)  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_what_an_observer_raises_names_its_row_and_the_loop_says_how_far_it_is(steps_per_dispatch: int) -> None:
    @jl.on_host(Event.BATCH_END)
    def raises(loop, event):
        if int(loop.batch_index) == 1:
            raise KeyError("mine")

    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(36), 4),
        validation=None,
        callbacks=[raises],
        steps_per_dispatch=steps_per_dispatch,
    )
    with pytest.raises(KeyError) as caught:
        training_loop.fit(small.model(), 1)
    taken = int(caught.value.loop.batch_index)  # type: ignore[attr-defined]
    assert taken == {1: 3, 3: 6}[steps_per_dispatch]
    callback, loop = caught.value.__notes__
    assert callback.endswith("raises' at BATCH_END, training batch 2 of epoch 1 (counted from 1)")
    assert loop == f"jaxloop: error.loop is the loop in epoch 1 (counted from 1), after {taken} training batches"
