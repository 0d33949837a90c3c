"""The digits example, run as the README says."""

import sys

import numpy as np
import pandas as pd
import pytest

from examples.datasets.digits import load_digits

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def digits_run(run_example, tmp_path_factory):
    """What the example printed, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("digits")
    return run_example("digits.py", folder=folder), folder


def test_it_reaches_97_percent_on_samples_it_was_not_trained_on(digits_run):
    printed, _ = digits_run
    assert float(printed.splitlines()[-1].removeprefix("Validation accuracy: ").removesuffix("%")) >= 97


def test_its_csv_has_a_row_for_each_batch_of_both_phases(digits_run):
    _, folder = digits_run
    rows = pd.read_csv(folder / "run/digits/log.csv")
    assert rows["phase"].value_counts().to_dict() == {"training": 15 * 44, "validation": 15 * 12}


def test_the_accuracy_it_prints_is_the_last_of_its_csv(digits_run):
    printed, folder = digits_run
    last = pd.read_csv(folder / "run/digits/log.csv").iloc[-1]
    assert last["phase"] == "validation"
    assert printed.splitlines()[-1] == f"Validation accuracy: {last['accuracy']:.2%}"


def test_its_flags_set_epochs_batches_device_and_csv(run_example, tmp_path):
    flags = ["--epochs=2", "--batch-size=50", "--limit-batches=3", "--device=cpu:0", "--csv=here.csv", "--seed=1"]
    printed = run_example("digits.py", *flags, folder=tmp_path)
    rows = pd.read_csv(tmp_path / "here.csv")
    assert printed.startswith("Training on cpu:0")
    assert rows["epoch"].tolist() == [1] * 6 + [2] * 6
    assert rows["batch"].tolist() == [1, 2, 3] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["here.csv"]


def test_the_samples_held_out_are_a_fifth_and_none_is_trained_on():
    (training_images, training_labels), (validation_images, validation_labels) = load_digits()
    assert training_images.shape == (1437, 8, 8, 1)
    assert validation_images.shape == (360, 8, 8, 1)
    trained_on = {image.tobytes() for image in training_images}
    assert not any(image.tobytes() in trained_on for image in validation_images)
    assert np.bincount(np.concatenate([training_labels, validation_labels])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    ]  # fmt: skip


def test_the_pixels_are_scaled_to_one():
    (images, labels), _ = load_digits()
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert (images.min(), images.max()) == (0, 1)


def test_the_absence_of_scikit_learn_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        load_digits()


def test_three_steps_in_a_dispatch_log_bit_for_bit_what_single_steps_do(same_curve):
    rows = same_curve("digits.py")
    assert rows["phase"].tolist() == (["training"] * 5 + ["validation"] * 5) * 2


def test_asked_to_explain_it_tells_its_programs_and_trains_nothing(run_example, tmp_path):
    printed = run_example("digits.py", "--explain", folder=tmp_path)
    assert "training_step: " in printed
    assert "Validation accuracy" not in printed
    assert not list(tmp_path.iterdir())


def test_ended_by_sigterm_it_goes_on_when_the_same_command_runs_again(goes_on):
    printed = goes_on("digits.py", "--epochs=30", after="Epoch  3/")
    assert "Goes on from checkpoint " in printed
    assert "Epoch  3/" not in printed
    assert "Epoch 30/30" in printed


def test_its_help_tells_of_checkpoints(run_example, tmp_path):
    printed = run_example("digits.py", "--help", folder=tmp_path)
    assert "--checkpoint-dir CHECKPOINT_DIR" in printed
    assert "a folder to save the run in" in " ".join(printed.split())
