"""The example of the residual network: its recipes, what it prints and logs, and that fused steps change nothing."""

import runpy

import numpy as np
import pandas as pd
import pytest

import jaxloop as jl
from tests.examples.conftest import EXAMPLES

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def recipes():
    """The recipes by name, as the script has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return runpy.run_path(str(EXAMPLES / "resnet_cifar10.py"))["RECIPES"]


def test_the_paper_s_rate_is_divided_by_ten_at_steps_32000_and_48000(recipes):
    rate = jl.make_schedule(recipes["paper"].rate)(64_000)
    found = [float(rate(step)) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert found == [float(np.float32(expected)) for expected in (0.1, 0.1, 0.01, 0.01, 0.001, 0.001)]


def test_the_ancestor_s_rate_is_0_001_in_all_of_its_50000_steps(recipes):
    rate = jl.make_schedule(recipes["ancestor"].rate)(50_000)
    assert {float(rate(step)) for step in (0, 1, 25_000, 49_999)} == {float(np.float32(0.001))}


def test_weight_decay_pulls_at_kernels_alone(recipes):
    optimizer = recipes["short"].optimizer
    params = {"kernel": np.ones((1, 1, 2, 2), np.float32), "bias": np.ones(2, np.float32)}
    zeros = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    state = optimizer.init(params)
    state[1].hyperparams["learning_rate"] = 1.0
    updates, _ = optimizer.update(zeros, state, params)
    np.testing.assert_allclose(updates["kernel"], np.full((1, 1, 2, 2), -5e-4), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


FEW = ("--epochs=1", "--limit-batches=4", "--batch-size=16")


@pytest.fixture(scope="module")
def fused_run(run_example, cifar10_dir, tmp_path_factory):
    """What four batches of each phase, two in each dispatch, printed, and their CSV as bytes."""
    folder = tmp_path_factory.mktemp("resnet")
    flags = [f"--data-dir={cifar10_dir}", *FEW, "--steps-per-dispatch=2"]
    return run_example("resnet_cifar10.py", *flags, folder=folder), folder / "run/resnet_cifar10/log.csv"


@pytest.mark.slow
def test_its_last_line_is_the_accuracy_of_the_last_row_of_its_csv(fused_run):
    printed, csv = fused_run
    rows = pd.read_csv(csv)
    assert rows["phase"].tolist() == ["training"] * 4 + ["validation"] * 4
    assert printed.splitlines()[-1] == f"Test accuracy: {rows['accuracy'].iloc[-1]:.2%}"


@pytest.mark.slow
def test_single_steps_give_the_same_csv_as_two_in_a_dispatch(fused_run, run_example, cifar10_dir, tmp_path):
    flags = [f"--data-dir={cifar10_dir}", *FEW, "--steps-per-dispatch=1"]
    run_example("resnet_cifar10.py", *flags, folder=tmp_path)
    assert (tmp_path / "run/resnet_cifar10/log.csv").read_bytes() == fused_run[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "ancestor"])
def test_the_other_recipes_run_with_flags_over_their_own(run_example, cifar10_dir, tmp_path, recipe):
    flags = [f"--data-dir={cifar10_dir}", *FEW, f"--recipe={recipe}", "--depth=20"]
    run_example("resnet_cifar10.py", *flags, folder=tmp_path)
    rows = pd.read_csv(tmp_path / "run/resnet_cifar10/log.csv")
    assert rows["learning_rate"].dropna().unique() == pytest.approx({"paper": [0.1], "ancestor": [0.001]}[recipe])


def test_a_data_directory_without_cifar10_is_an_error_that_says_what_it_must_hold(run_example, tmp_path):
    complaint = run_example("resnet_cifar10.py", f"--data-dir={tmp_path}", folder=tmp_path, fails=True)
    assert "must have a folder 'cifar10' with cifar-10-python.tar.gz" in complaint
