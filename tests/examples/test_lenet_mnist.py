"""The LeNet example: what it prints and logs, and the accuracy that the original sample reaches."""

import jax.numpy as jnp
import pandas as pd
import pytest
from flax import nnx

from examples.models.lenet import LeNet

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def full_run(run_example, mnist_dir, tmp_path_factory):
    """What all twelve epochs printed, and their CSV."""
    folder = tmp_path_factory.mktemp("lenet")
    printed = run_example("lenet_mnist.py", f"--data-dir={mnist_dir}", folder=folder)
    return printed, pd.read_csv(folder / "run/lenet_mnist/log.csv")


@pytest.mark.slow
def test_twelve_epochs_reach_98_7_percent_on_the_test_images(full_run):
    _, rows = full_run
    assert rows["accuracy"].iloc[-1] >= 0.987


@pytest.mark.slow
def test_twelve_epochs_leave_24_rows_one_at_the_end_of_each_phase(full_run):
    _, rows = full_run
    assert len(rows) == 24
    assert rows["phase"].tolist() == ["training", "validation"] * 12
    assert rows["batch"].tolist() == [468, 79] * 12
    assert rows["epoch"].tolist() == [epoch for epoch in range(1, 13) for _ in range(2)]


@pytest.mark.slow
def test_the_last_line_is_the_accuracy_of_the_last_row(full_run):
    printed, rows = full_run
    assert printed.splitlines()[-1] == f"Test accuracy: {rows['accuracy'].iloc[-1]:.2%}"


def test_pandas_reads_its_csv_as_numbers(run_example, mnist_dir, tmp_path):
    run_example("lenet_mnist.py", f"--data-dir={mnist_dir}", "--epochs=2", "--limit-batches=2", folder=tmp_path)
    rows = pd.read_csv(tmp_path / "run/lenet_mnist/log.csv")
    kinds = {name: rows[name].dtype.kind for name in rows if name != "phase"}
    whole = dict.fromkeys(["epoch", "batch", "step"], "i")
    assert kinds == whole | dict.fromkeys(["loss", "accuracy", "learning_rate"], "f")
    assert rows["step"].tolist() == [2, 2, 4, 4]


@pytest.mark.slow
def test_reporting_each_batch_gives_one_epoch_468_and_79_rows(run_example, mnist_dir, tmp_path):
    flags = [f"--data-dir={mnist_dir}", "--epochs=1", "--report=batch"]
    run_example("lenet_mnist.py", *flags, folder=tmp_path)
    rows = pd.read_csv(tmp_path / "run/lenet_mnist/log.csv")
    assert rows["phase"].tolist() == ["training"] * 468 + ["validation"] * 79
    assert rows["batch"].tolist() == [*range(1, 469), *range(1, 80)]


@pytest.mark.exhaustive  # that of the digits is run more often
def test_ended_by_sigterm_it_goes_on_when_the_same_command_runs_again(goes_on, mnist_dir):
    flags = [f"--data-dir={mnist_dir}", "--epochs=12", "--limit-batches=40", "--report=batch"]
    printed = goes_on("lenet_mnist.py", *flags, after="Epoch  2/")
    assert "Goes on from checkpoint " in printed
    assert "Epoch 12/12" in printed


def test_a_data_directory_without_mnist_is_an_error_that_says_what_it_must_hold(run_example, tmp_path):
    complaint = run_example("lenet_mnist.py", f"--data-dir={tmp_path}", folder=tmp_path, fails=True)
    assert "must have a folder 'mnist' with train-images-idx3-ubyte.gz" in complaint


def test_lenet_has_the_layers_of_the_original():
    model = LeNet(rngs=nnx.Rngs(0))
    sizes = [5 * 5 * 1 * 6 + 6, 5 * 5 * 6 * 16 + 16, 400 * 120 + 120, 120 * 84 + 84, 84 * 10 + 10]
    layers = [model.convolution1, model.convolution2, model.dense1, model.dense2, model.dense3]
    assert [layer.kernel[...].size + layer.bias[...].size for layer in layers] == sizes
    assert model(jnp.zeros((3, 28, 28, 1))).shape == (3, 10)
