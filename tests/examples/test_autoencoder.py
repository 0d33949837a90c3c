"""The autoencoder example: its layers, what it prints and logs, and the images it saves."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from PIL import Image

from examples.models.autoencoder import Autoencoder

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def short_run(run_example, mnist_dir, tmp_path_factory):
    """What two epochs of five batches printed, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("autoencoder")
    flags = [f"--data-dir={mnist_dir}", "--epochs=2", "--limit-batches=5"]
    return run_example("autoencoder.py", *flags, folder=folder), folder


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 28, 28, 1), np.float32)


def test_the_last_line_is_the_loss_of_the_last_row(short_run):
    printed, folder = short_run
    last = pd.read_csv(folder / "run/autoencoder/log.csv").iloc[-1]
    assert last["phase"] == "validation"
    assert printed.splitlines()[-1] == f"Test mean squared error: {last['loss']:.4f}"


def test_each_epoch_leaves_ten_images_above_what_became_of_them(short_run, mnist_dir):
    _, folder = short_run
    pictures = sorted((folder / "run/autoencoder").glob("*.png"))
    assert [picture.name for picture in pictures] == ["epoch_0001.png", "epoch_0002.png"]
    first, second = (np.asarray(Image.open(picture)) for picture in pictures)
    assert first.shape == (2 * 28, 10 * 28)
    assert (first[:28] == second[:28]).all()
    assert (first[28:] != second[28:]).any()


def test_three_steps_in_a_dispatch_log_and_draw_what_single_steps_do(same_curve, mnist_dir, tmp_path):
    rows = same_curve("autoencoder.py", f"--data-dir={mnist_dir}", "--images=.")
    assert rows["phase"].tolist() == (["training"] * 5 + ["validation"] * 5) * 2
    single, fused = (sorted((tmp_path / f"steps_{steps}").glob("*.png")) for steps in (1, 3))
    assert [picture.name for picture in single] == ["epoch_0001.png", "epoch_0002.png"]
    assert [picture.read_bytes() for picture in fused] == [picture.read_bytes() for picture in single]


@pytest.mark.slow
def test_after_three_epochs_three_numbers_keep_more_than_five_principal_components(run_example, mnist_dir, tmp_path):
    """Those of the training images leave 0.0445 of the test images, by scikit-learn's `PCA(5)`."""
    printed = run_example("autoencoder.py", f"--data-dir={mnist_dir}", "--epochs=3", folder=tmp_path)
    assert float(printed.splitlines()[-1].removeprefix("Test mean squared error: ")) < 0.0445


def test_its_layers_narrow_784_pixels_to_three_numbers_and_widen_them_again():
    model = Autoencoder(rngs=nnx.Rngs(0))
    shapes = [layer.kernel[...].shape for layer in (*model.encoder.layers, *model.decoder.layers)]
    assert shapes == [(784, 128), (128, 64), (64, 12), (12, 3), (3, 12), (12, 64), (64, 128), (128, 784)]


def test_its_output_is_that_of_the_layers_by_hand(images):
    model = Autoencoder(rngs=nnx.Rngs(0))
    x = images.reshape(2, 784)
    for index, layer in enumerate((*model.encoder.layers, *model.decoder.layers)):
        x = x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
        x = x if index in (3, 7) else np.maximum(x, 0)
    expected = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(model(images).reshape(2, 784), expected, rtol=1e-4)


def test_images_decoded_from_their_codes_are_the_output(images):
    model = Autoencoder(rngs=nnx.Rngs(0))
    codes = model.encode(jnp.asarray(images))
    assert codes.shape == (2, 3)
    np.testing.assert_array_equal(model.decode(codes), model(jnp.asarray(images)))
