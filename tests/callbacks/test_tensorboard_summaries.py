"""What the TensorBoard log holds beside scalars: histograms, images and hyperparameters."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks import TensorBoardLogger
from jaxloop.events import Event, Plan
from tests import event_files, small


def float32s(values):
    return np.array(values, np.float32).tolist()


def test_weights_have_histograms_after_every_so_many_epochs_and_steps_stay_fused(tmp_path):
    logger = TensorBoardLogger(tmp_path, weight_histograms=2)
    loop, history = small.training_loop(callbacks=[logger], steps_per_dispatch=3).fit(small.model(), 4)
    assert "training_step x3" in history.compile_seconds
    found = event_files.read(event_files.only_run(tmp_path) / "train")
    assert found.Tags()["histograms"] == ["weights/bias", "weights/kernel"]
    assert [event.step for event in found.Histograms("weights/kernel")] == [2, 4]
    last = found.Histograms("weights/kernel")[-1].histogram_value
    assert last.sum == pytest.approx(np.asarray(loop.model.params["kernel"], np.float64).sum())
    assert len(event_files.scalars(event_files.only_run(tmp_path) / "train")["batch/loss"]) == 12


def test_gradients_have_histograms_at_every_so_many_steps_and_every_row_is_there(tmp_path):
    sums = {}

    @jl.on_host(Event.UPDATE_START, reads="step")
    def note(loop, event):
        sums[int(loop.step)] = np.asarray(loop.gradient["kernel"], np.float64).sum()

    logger = TensorBoardLogger(tmp_path, gradient_histograms=2)
    training_loop = small.training_loop(callbacks=[note, logger], steps_per_dispatch=3)
    _, history = training_loop.fit(small.model(), 2)
    found = event_files.read(event_files.only_run(tmp_path) / "train")
    read = {event.step: event.histogram_value.sum for event in found.Histograms("gradients/kernel")}
    assert read == pytest.approx({step + 1: sums[step] for step in (0, 2, 4)})
    scalars = event_files.scalars(event_files.only_run(tmp_path) / "train")
    assert scalars["batch/loss"] == dict(enumerate(history.batches["loss"].tolist(), start=1))


def test_looking_at_weights_and_gradients_changes_nothing_in_the_training(tmp_path):
    plain, _ = small.training_loop().fit(small.model(), 2)
    logger = TensorBoardLogger(tmp_path, weight_histograms=1, gradient_histograms=1)
    peekable, _ = small.training_loop(callbacks=[logger]).fit(small.model(), 2)
    small.assert_trees_equal(plain.model.params, peekable.model.params)


def test_images_are_made_of_the_loop_after_each_epoch(tmp_path):
    pytest.importorskip("PIL")

    def images(loop):
        return {"kernel": jnp.ones((2, 3))} if int(loop.epoch_index) == 1 else {}

    logger = TensorBoardLogger(tmp_path, images=images)
    small.training_loop(callbacks=[logger], steps_per_dispatch=3).fit(small.model(), 3)
    (event,) = event_files.read(event_files.only_run(tmp_path) / "train").Images("kernel")
    assert (event.step, event.height, event.width) == (2, 2, 3)


def test_where_pillow_is_missing_images_are_refused_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    TensorBoardLogger("unused").bind(Plan(1, 1))
    with pytest.raises(ModuleNotFoundError, match=r"^TensorBoardLogger: `images`: it needs Pillow"):
        TensorBoardLogger("unused", images=lambda loop: {}).bind(Plan(1, 1))


def test_hyperparameters_stand_beside_the_last_metrics_of_both_phases(tmp_path):
    logger = TensorBoardLogger(tmp_path, hyperparameters={"rate": 0.1, "name": "sgd"})
    _, history = small.training_loop(callbacks=[logger]).fit(small.model(), 2)
    run = event_files.only_run(tmp_path)
    experiment, start, end = hyperparameter_data(run)
    assert (start.hparams["rate"].number_value, start.hparams["name"].string_value) == (0.1, "sgd")
    assert end.status == 1  # api.proto: STATUS_SUCCESS
    metrics = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
    last = [list(event_files.scalars(run / folder)[tag].values())[-1] for folder, tag in metrics]
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    assert last == float32s([history.epochs[name][-1] for name in names])


def test_a_fit_that_fails_is_marked_as_failed(tmp_path):
    @jl.on_host(Event.EPOCH_START)
    def fail(loop, event):
        raise RuntimeError("out of luck")

    logger = TensorBoardLogger(tmp_path, hyperparameters={"rate": 0.1})
    with pytest.raises(RuntimeError, match="out of luck"):
        small.training_loop(callbacks=[logger, fail]).fit(small.model(), 2)
    *_, end = hyperparameter_data(event_files.only_run(tmp_path))
    assert end.status == 2  # api.proto: STATUS_FAILURE


def hyperparameter_data(run):
    """What the HPARAMS view has of a run: experiment, start and end."""
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    parts = ("experiment", "session_start_info", "session_end_info")
    found = event_files.read(run).summary_metadata
    contents = [found[f"_hparams_/{part}"].plugin_data.content for part in parts]
    return [
        getattr(metadata, f"parse_{part}_plugin_data")(content) for part, content in zip(parts, contents, strict=True)
    ]
