"""What can be set takes effect, and what would take none is refused."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from tests import small

OBJECTS = {
    "CSVLogger": jl.callbacks.CSVLogger,
    "ImageSaver": jl.callbacks.ImageSaver,
    "Profiler": jl.callbacks.Profiler,
    "ProgressBar": jl.callbacks.ProgressBar,
    "TensorBoardLogger": jl.callbacks.TensorBoardLogger,
    "Watchdog": lambda: jl.callbacks.Watchdog(60),
    "Accuracy": jl.metrics.Accuracy,
    "Batches": lambda: jl.in_batches(small.samples(8), 4),
    "History": lambda: jl.History({}, {}, "completed"),
    "Loop": lambda: small.training_loop().start(small.model(), epochs=1),
    "Model": small.model,
    "Plan": lambda: jl.Plan(1, 1),
    "TrainingEpochs": lambda: jl.TrainingEpochs(small.samples(8), 4),
    "TrainingLoop": small.training_loop,
}


@pytest.mark.parametrize("name", ["training", "validation", "progress", "callbacks", "optimizer", "report", "_setup"])
def test_a_training_loop_cannot_be_changed_and_says_what_to_write(name: str) -> None:
    training_loop = small.training_loop()
    before = training_loop.training, training_loop.validation, training_loop.progress
    with pytest.raises(
        AttributeError, match=rf"TrainingLoop: `{name}` cannot be set .*Make another, as TrainingLoop\("
    ):
        setattr(training_loop, name, None)
    with pytest.raises(AttributeError, match=rf"TrainingLoop: `{name}` cannot be deleted"):
        delattr(training_loop, name)
    assert (training_loop.training, training_loop.validation, training_loop.progress) == before


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_a_name_that_means_nothing_cannot_be_set(make: Any) -> None:
    with pytest.raises((AttributeError, TypeError)):
        make().strange = 1


def test_attributes_of_callbacks_that_are_set_count_from_the_next_fit_on(tmp_path: Path) -> None:
    logger, bar = jl.callbacks.CSVLogger(tmp_path / "one.csv"), jl.callbacks.ProgressBar(io.StringIO())
    board = jl.callbacks.TensorBoardLogger(tmp_path / "one")
    shown = io.StringIO()
    logger.path, bar.file, board.root = tmp_path / "two.csv", shown, tmp_path / "two"
    board.weight_histograms = 1
    assert board.host_declaration.reads_at(jl.Event.EPOCH_END) == "loop"
    small.training_loop(callbacks=[logger, bar, board], validation=None).fit(small.model(), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two", "two.csv"]
    assert "loss" in shown.getvalue()
    (events,) = (tmp_path / "two").glob("*/train/*")
    assert b"weights/" in events.read_bytes()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_callback_with_attributes_of_its_own_can_be_copied(copied: Any, tmp_path: Path) -> None:
    assert copied(jl.callbacks.CSVLogger(tmp_path / "log.csv")).path == tmp_path / "log.csv"
