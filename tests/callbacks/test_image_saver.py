"""Pictures of inputs and outputs, read back by Pillow."""

import json
import sys

import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import ImageSaver
from jaxloop.events import Plan
from tests import small
from tests.compiling import counted_compiles, steps_in

Image = pytest.importorskip("PIL.Image")


def dimmed(params, state, input, *, training, key):
    """A model whose output is its input times one number."""
    return input * params["share"].astype(input.dtype), state


def images(count=6, shape=(2, 3), dtype=np.float32):
    found = np.random.default_rng(0).uniform(0, 1, (count, *shape))
    return (255 * found).astype(dtype) if dtype == np.uint8 else found.astype(dtype)


def mean_error(output, target):
    return ((output - target) ** 2).reshape(len(output), -1).mean(axis=1)


def fit(saver, inputs, epochs=1, *, batch_size=2, model_or_loop=None, loss_fn=mean_error, **changes):
    """An autoencoder that halves its input and learns nothing."""
    training_loop = jl.TrainingLoop(
        jl.TrainingEpochs((inputs, inputs), batch_size=2),
        jl.in_batches((inputs, inputs), batch_size),
        optimizer=optax.sgd(0.0),
        loss_fn=loss_fn,
        callbacks=[saver],
        progress=False,
        **changes,
    )
    return training_loop.fit(model_or_loop or jl.Model(dimmed, {"share": np.float32(0.5)}, {}), epochs)


def read(path):
    return np.asarray(Image.open(path))


def scaled(values):
    return np.rint(255 * values.astype(np.float32)).astype(np.uint8)


def side_by_side(examples):
    return np.concatenate(list(examples), axis=1)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3)])
def test_inputs_stand_above_outputs_from_the_first_batch(shape, tmp_path):
    inputs = images(shape=shape)
    fit(ImageSaver(tmp_path), inputs, batch_size=4)
    expected = np.concatenate([side_by_side(scaled(part)) for part in (inputs[:4], inputs[:4] * np.float32(0.5))])
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png"), expected.squeeze())


def test_flat_examples_are_given_a_shape(tmp_path):
    inputs = images(shape=(6,))
    fit(ImageSaver(tmp_path, image_shape=(2, 3), count=1), inputs)
    picture = read(tmp_path / "epoch_0001.png")
    np.testing.assert_array_equal(picture[:2], scaled(inputs[0].reshape(2, 3)))
    assert picture.shape == (4, 3)


@pytest.mark.filterwarnings("ignore:loss_fn. the gradient")
def test_bytes_are_shown_as_they_are(tmp_path):
    inputs = images(dtype=np.uint8)

    def apply(params, state, input, *, training, key):
        return input + (0 * params["share"]).astype("uint8"), state

    def loss_fn(output, target):
        return (output == target).mean(axis=(1, 2)).astype("float32")

    fit(ImageSaver(tmp_path), inputs, loss_fn=loss_fn, model_or_loop=jl.Model(apply, {"share": np.float32(1)}, {}))
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png"), np.concatenate([side_by_side(inputs[:2])] * 2))


def test_at_most_so_many_examples_are_shown(tmp_path):
    fit(ImageSaver(tmp_path, count=3), images(), batch_size=6)
    assert read(tmp_path / "epoch_0001.png").shape == (4, 9)


def test_what_fills_up_the_only_batch_is_left_out(tmp_path):
    inputs = images(count=4)
    weights = np.array([1, 1, 0, 1], np.float32)
    training_loop = jl.TrainingLoop(
        [[(inputs, inputs)]],
        [(inputs, inputs, weights)],
        optimizer=optax.sgd(0.0),
        loss_fn=mean_error,
        callbacks=[ImageSaver(tmp_path)],
        progress=False,
    )
    training_loop.fit(jl.Model(dimmed, {"share": np.float32(0.5)}, {}), 1)
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png")[:2], side_by_side(scaled(inputs[[0, 1, 3]])))


def test_a_scalar_loss_whose_batches_have_no_weights_will_do(tmp_path):
    fit(ImageSaver(tmp_path), images(), loss_fn=lambda output, target: ((output - target) ** 2).mean())
    assert read(tmp_path / "epoch_0001.png").shape == (4, 6)


def test_every_so_many_epochs_of_the_loops_life_have_a_file(tmp_path):
    saver = ImageSaver(tmp_path, every_n_epochs=2)
    loop, _ = fit(saver, images(), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0002.png"]
    fit(saver, images(), 1, model_or_loop=loop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0002.png", "epoch_0004.png"]


def test_each_of_several_sets_has_files_of_its_own(tmp_path):
    sets = {"clean": images(), "dark": images() / 2}
    training_loop = jl.TrainingLoop(
        jl.TrainingEpochs((images(), images()), batch_size=2),
        {name: (inputs, inputs) for name, inputs in sets.items()},
        optimizer=optax.sgd(0.0),
        loss_fn=mean_error,
        callbacks=[ImageSaver(tmp_path)],
        progress=False,
    )
    training_loop.fit(jl.Model(dimmed, {"share": np.float32(0.5)}, {}), 1)
    assert len(list(tmp_path.iterdir())) == 2
    for name, inputs in sets.items():
        np.testing.assert_array_equal(read(tmp_path / f"epoch_0001_{name}.png")[:2], side_by_side(scaled(inputs)))


def test_training_stays_fused(tmp_path):
    _, history = fit(ImageSaver(tmp_path), images(), steps_per_dispatch=3)
    training = {name for name in history.compile_seconds if name.startswith("training_step")}
    assert training == {"training_step x3"}


def test_a_shape_that_makes_no_picture_is_refused_with_the_fix(tmp_path):
    with pytest.raises(ValueError, match=r"ImageSaver: input: the shape of an image must be .*got \[784\]"):
        fit(ImageSaver(tmp_path), images(shape=(784,)))
    with pytest.raises(ValueError, match=r"model's input has shape \[6\], which does not .*\[5, 5\]"):
        fit(ImageSaver(tmp_path, image_shape=(5, 5)), images(shape=(6,)))


def test_an_output_unlike_the_input_is_refused(tmp_path):
    training_loop = small.training_loop(callbacks=[ImageSaver(tmp_path, image_shape=(2, 2))])
    with pytest.raises(ValueError, match=r"model's output has shape \[3\], which does not make an image of shape"):
        training_loop.fit(small.model(), 1)


def test_a_file_that_cannot_be_written_warns_once_and_training_goes_on(tmp_path):
    for epoch in (1, 2):
        (tmp_path / f"epoch_000{epoch}.png").mkdir()
    with pytest.warns(RuntimeWarning, match=r"ImageSaver: '.*epoch_0001.png' cannot be written") as warned:
        _, history = fit(ImageSaver(tmp_path), images(), 3)
    assert len(warned) == 1
    assert history.stopped == "completed"
    assert not (tmp_path / "epoch_0003.png").exists()


def test_a_directory_that_cannot_be_made_is_refused_before_any_step_is_compiled(tmp_path):
    (tmp_path / "file").write_text("mine")
    with counted_compiles() as counts, pytest.raises(OSError, match=r"ImageSaver: the folder '.*file/deep' cannot be"):
        fit(ImageSaver(tmp_path / "file" / "deep"), images())
    assert steps_in(counts) == {}


def test_where_pillow_is_missing_it_is_told_before_any_step_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with counted_compiles() as counts, pytest.raises(ModuleNotFoundError, match=r"^ImageSaver: it needs Pillow"):
        fit(ImageSaver(tmp_path), images())
    assert steps_in(counts) == {}


@pytest.mark.parametrize("name", ["count", "every_n_epochs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"ImageSaver: `{name}` must be a whole number of at least 1, got"):
        ImageSaver(**{name: value})


@pytest.mark.parametrize("shape", [(784,), (28, 28, 2), (0, 3)])
def test_an_image_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match=r"ImageSaver: `image_shape`: the shape of an image must be"):
        ImageSaver(image_shape=shape)


def test_making_a_saver_touches_no_file(tmp_path):
    ImageSaver(tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


def test_the_repr_of_a_saver_shows_its_directory():
    assert repr(ImageSaver("run/here")) == "ImageSaver('run/here')"


def test_a_run_that_is_resumed_makes_the_directory_again(tmp_path, view):
    saver = ImageSaver(tmp_path / "images").bind(Plan(1, 1))
    state = saver.state()
    saver.resume(view(), json.loads(json.dumps(state)))
    assert (tmp_path / "images").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        NotADirectoryError, match=r"ImageSaver: the folder '.*file/images' cannot be made.*Give another"
    ):
        ImageSaver(tmp_path / "file" / "images").bind(Plan(1, 1)).resume(view(), state)
