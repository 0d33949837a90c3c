"""Histograms, images and hyperparameters as summaries, read back by TensorBoard."""

import io

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.files.event_file import EventFile
from jaxloop.files.summaries import histograms, images, plain_hyperparameters, scalars, session_end, session_start
from tests import event_files


@pytest.fixture
def read_back(tmp_path):
    """Writes a summary at step 7 and gives the accumulator that read it."""

    def read(summary):
        file = EventFile(tmp_path)
        file.add(summary, 7)
        file.close()
        return event_files.read(tmp_path)

    return read


def test_scalars_are_read_back_with_their_tags(read_back):
    found = read_back(scalars({"epoch/loss": np.float32(0.1), "epoch/rate": jnp.float32(3), "bad": np.nan}))
    assert found.Tags()["scalars"] == ["epoch/loss", "epoch/rate", "bad"]
    assert found.Scalars("epoch/loss")[0].value == np.float32(0.1)
    assert found.Scalars("epoch/rate")[0].step == 7


def test_each_array_of_a_tree_has_a_histogram_under_its_path(read_back):
    values = np.random.default_rng(0).normal(size=(40, 25)).astype(np.float32)
    found = read_back(histograms("weights", {"dense": [{"kernel": values, "bias": jnp.zeros(3)}]}))
    assert found.Tags()["histograms"] == ["weights/dense/0/bias", "weights/dense/0/kernel"]
    (event,) = found.Histograms("weights/dense/0/kernel")
    histogram = event.histogram_value
    assert event.step == 7
    assert (histogram.num, histogram.min, histogram.max) == (1000, values.min(), values.max())
    assert histogram.sum == pytest.approx(values.sum(dtype=np.float64))
    expected, edges = np.histogram(values.astype(np.float64), 64)
    assert [count for count in histogram.bucket if count] == [count for count in expected if count]
    assert set(histogram.bucket_limit) <= set(edges)


def test_what_is_not_finite_is_left_out_of_a_histogram(read_back):
    found = read_back(histograms("w", {"some": np.array([1.0, np.nan, np.inf, 3.0]), "none": np.full(2, np.nan)}))
    assert found.Tags()["histograms"] == ["w/some"]
    assert found.Histograms("w/some")[0].histogram_value.num == 2


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(4),
        np.array([1.0, 1.0 + 2**-52]),
        np.array([1e300, -1e300, 1.0]),
        np.array([0.0, 1e-45], np.float32),
        np.ones(2, jnp.bfloat16),
        np.array(3),
    ],
    ids=str,
)
def test_a_histogram_of_a_narrow_or_wide_range_is_made(values):
    (value,) = histograms("w", {"x": values}).value
    assert value.histo.num >= 1


def test_an_array_without_elements_has_no_histogram():
    assert len(histograms("w", {"x": np.zeros((0, 3))}).value) == 0


@pytest.mark.parametrize(("shape", "colorspace"), [((2, 3), 1), ((2, 3, 3), 3)])
def test_an_image_is_read_back_with_its_pixels(shape, colorspace, read_back):
    image_module = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    summary = images({"reconstruction": picture})
    assert summary.value[0].image.colorspace == colorspace
    (event,) = read_back(summary).Images("reconstruction")
    assert (event.step, event.height, event.width) == (7, 2, 3)
    read = np.asarray(image_module.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(read, picture)


def test_what_is_no_image_is_refused_by_its_tag():
    with pytest.raises(ValueError, match=r"TensorBoardLogger: image 'flat': the shape of an image must be"):
        images({"flat": np.zeros(784)})


def test_hyperparameters_become_python_values():
    given = {"rate": np.float32(0.5), "layers": np.int64(3), "nesterov": np.bool_(True), "name": "adam", "epochs": 2}
    plain = plain_hyperparameters(given)
    assert plain == {"rate": 0.5, "layers": 3.0, "nesterov": True, "name": "adam", "epochs": 2.0}
    assert [type(value) for value in plain.values()] == [float, float, bool, str, float]


@pytest.mark.parametrize("given", [{"clip": None}, {"shape": (2, 3)}, {1: 2.0}, {"x": 1j}])
def test_a_hyperparameter_of_another_kind_is_refused_with_the_fix(given):
    with pytest.raises(TypeError, match=r"`hyperparameters` must give a number, bool or string .* as a string"):
        plain_hyperparameters(given)


def test_tensorboard_reads_hyperparameters_and_where_their_metrics_are(read_back):
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    summary = session_start({"rate": 0.5, "fast": True, "name": "sgd"}, [("train", "epoch/loss")])
    plugin = read_back(summary).summary_metadata
    start = metadata.parse_session_start_info_plugin_data(_content(plugin["_hparams_/session_start_info"]))
    assert start.hparams["rate"].number_value == 0.5
    assert start.hparams["fast"].bool_value is True
    assert start.hparams["name"].string_value == "sgd"
    experiment = metadata.parse_experiment_plugin_data(_content(plugin["_hparams_/experiment"]))
    assert sorted(info.name for info in experiment.hparam_infos) == ["fast", "name", "rate"]
    (metric,) = experiment.metric_infos
    assert (metric.name.group, metric.name.tag) == ("train", "epoch/loss")


@pytest.mark.parametrize(("completed", "status"), [(True, "STATUS_SUCCESS"), (False, "STATUS_FAILURE")])
def test_tensorboard_reads_how_a_run_ended(completed, status, read_back):
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    api = pytest.importorskip("tensorboard.plugins.hparams.api_pb2")
    plugin = read_back(session_end(completed)).summary_metadata
    end = metadata.parse_session_end_info_plugin_data(_content(plugin["_hparams_/session_end_info"]))
    assert api.Status.Name(end.status) == status


def _content(metadata):
    return metadata.plugin_data.content
