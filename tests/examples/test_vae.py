"""The variational autoencoder: its losses by hand, its step, and what the example leaves behind."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from PIL import Image

import jaxloop as jl
from examples.models.vae import VAE, divergence, reconstruction_loss

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def short_run(run_example, mnist_dir, tmp_path_factory):
    """What two epochs of five batches printed, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("vae")
    flags = [f"--data-dir={mnist_dir}", "--epochs=2", "--limit-batches=5"]
    return run_example("vae.py", *flags, folder=folder), folder


@pytest.fixture
def variational_step(monkeypatch):
    """The step of the script, which is imported as if it ran; afterwards its modules are forgotten."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    yield importlib.import_module("vae").variational_step
    for name in list(sys.modules):
        if name.split(".")[0] in ("vae", "command_line", "datasets", "models", "pictures"):
            del sys.modules[name]


@pytest.fixture
def images():
    return np.random.default_rng(0).random((4, 28, 28, 1), np.float32)


@pytest.fixture
def training_loop(variational_step, images):
    return jl.TrainingLoop(
        [[(images, images)]], [(images, images)], optimizer=optax.sgd(1e-3), differentiable_step=variational_step
    )


def test_the_last_line_has_the_losses_of_the_last_row(short_run):
    printed, folder = short_run
    last = pd.read_csv(folder / "run/vae/log.csv").iloc[-1]
    assert last["phase"] == "validation"
    assert printed.splitlines()[-1] == (
        f"Test loss: {last['loss']:.1f} nats an image "
        f"({last['reconstruction']:.1f} reconstruction, {last['divergence']:.1f} divergence)"
    )


def test_both_losses_have_a_column_and_their_sum_is_the_loss(short_run):
    _, folder = short_run
    rows = pd.read_csv(folder / "run/vae/log.csv")
    assert len(rows) == 2 * (5 + 5)
    assert (rows[["reconstruction", "divergence"]] > 0).all(axis=None)
    np.testing.assert_allclose(rows["reconstruction"] + rows["divergence"], rows["loss"], rtol=1e-5)


def test_a_hundred_digits_are_drawn_ten_in_a_row(short_run):
    _, folder = short_run
    assert np.asarray(Image.open(folder / "run/vae/samples.png")).shape == (280, 280)


def test_three_steps_in_a_dispatch_log_and_draw_what_single_steps_do(same_curve, mnist_dir, tmp_path):
    rows = same_curve("vae.py", f"--data-dir={mnist_dir}", "--samples=here.png")
    assert rows["phase"].tolist() == (["training"] * 5 + ["validation"] * 5) * 2
    single, fused = (tmp_path / f"steps_{steps}/here.png" for steps in (1, 3))
    assert fused.read_bytes() == single.read_bytes()


@pytest.mark.slow
def test_two_epochs_bring_the_loss_below_110_nats(run_example, mnist_dir, tmp_path):
    printed = run_example("vae.py", f"--data-dir={mnist_dir}", "--epochs=2", folder=tmp_path)
    assert float(printed.splitlines()[-1].removeprefix("Test loss: ").split()[0]) < 110


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [(0.0, 1.0, 0.0), (2.0, 1.0, 2.0), (0.0, np.e, 0.3591409), (1.0, 4.0, 1.3068528)],
)
def test_the_divergence_of_one_number_is_that_of_the_closed_form(mean, variance, expected):
    output = (jnp.zeros((1, 28, 28, 1)), jnp.full((1, 1), mean), jnp.full((1, 1), np.log(variance)))
    np.testing.assert_allclose(divergence(output, jnp.zeros((1, 28, 28, 1))), [expected], atol=1e-6)


def test_the_divergence_is_the_mean_of_what_log_densities_differ_by_in_samples():
    mean, deviation = np.array([0.5, -1.0]), np.array([0.8, 1.5])
    noise = np.random.default_rng(0).standard_normal((400_000, 2))
    codes = mean + deviation * noise
    difference = (codes**2 - noise**2).sum(-1) / 2 - np.log(deviation).sum()  # log q(code) - log p(code)
    output = (jnp.zeros(()), jnp.asarray(mean)[None], jnp.asarray(2 * np.log(deviation))[None])
    np.testing.assert_allclose(divergence(output, jnp.zeros(())), [difference.mean()], rtol=0.01)


def test_where_every_pixel_is_a_toss_up_the_reconstruction_costs_784_bits():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 28, 28, 1)), jnp.float32)
    output = (jnp.zeros_like(images), jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    np.testing.assert_allclose(reconstruction_loss(output, images), [784 * np.log(2)] * 2, rtol=1e-6)


def test_the_reconstruction_is_the_cross_entropy_of_each_image(images):
    logits = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(images * np.log(shares) + (1 - images) * np.log(1 - shares)).sum((1, 2, 3))
    np.testing.assert_allclose(reconstruction_loss((logits, logits, logits), images), expected, rtol=1e-5)


def test_noise_moves_a_code_by_its_standard_deviation(images):
    model = VAE(code_size=5, hidden_size=16, rngs=nnx.Rngs(0))
    noise = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    logits, mean, log_variance = model((images, noise))
    expected = model.decode(mean + noise * np.sqrt(np.exp(log_variance)))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.shape == images.shape


def test_training_draws_its_noise_from_the_key_of_the_step(training_loop, images):
    model = VAE(rngs=nnx.Rngs(0))
    loop = training_loop.begin_epoch(training_loop.start(model, epochs=1))
    output = model((images, jax.random.normal(loop.step_key("noise"), (4, 20))))
    expected = (reconstruction_loss(output, images) + divergence(output, images)).mean()
    np.testing.assert_allclose(training_loop.train_step(loop, (images, images)).stats["loss"], expected, rtol=1e-5)


def test_in_evaluation_the_code_is_the_mean(training_loop, images):
    model = VAE(rngs=nnx.Rngs(0))
    output = model((images, np.zeros((4, 20), np.float32)))
    expected = (reconstruction_loss(output, images) + divergence(output, images)).mean()
    np.testing.assert_allclose(training_loop.evaluate(model, [(images, images)])["loss"], expected, rtol=1e-5)
