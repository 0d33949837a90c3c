"""The GPT-2 example: what it prints and writes, and that what it trains does not depend on how steps are fused."""

import math
import re

import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jaxloop as jl
from examples.datasets.wikitext2 import packed
from examples.models.gpt2 import GPT2, Configuration

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

SIZES = Configuration(layers=1, heads=2, width=8, context_length=6, vocabulary_size=11)


BATCHES_OF_16 = ["--epochs=1", "--limit-batches=2", "--batch-size=16", "--csv=log.csv"]


def training_loop(tokens, **options) -> jl.TrainingLoop:
    """The example's, on other tokens."""
    return jl.TrainingLoop(
        training=jl.TrainingEpochs(packed(tokens, 6), 2),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.001),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy", "perplexity"],
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def three_batches(run_example, text_dir, tmp_path_factory):
    """What two epochs of three batches printed, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("gpt2")
    flags = [f"--data-dir={text_dir}", "--epochs=2", "--limit-batches=3", "--tensorboard=boards"]
    return run_example("gpt2_wikitext2.py", *flags, folder=folder), folder


@pytest.mark.slow
def test_its_csv_has_loss_accuracy_and_the_perplexity_that_follows_from_the_loss(three_batches):
    _, folder = three_batches
    rows = pd.read_csv(folder / "run/gpt2_wikitext2/log.csv")
    assert rows["phase"].tolist() == (["training"] * 3 + ["validation"] * 3) * 2
    np.testing.assert_allclose(rows["perplexity"], np.exp(rows["loss"]), rtol=1e-5)
    assert rows["loss"].iloc[0] == pytest.approx(math.log(50257), abs=0.1)


@pytest.mark.slow
def test_the_last_line_is_the_perplexity_of_the_last_row(three_batches):
    printed, folder = three_batches
    rows = pd.read_csv(folder / "run/gpt2_wikitext2/log.csv")
    assert printed.splitlines()[-1] == f"Validation perplexity: {rows['perplexity'].iloc[-1]:.1f}"


@pytest.mark.slow
def test_it_shows_a_text_after_each_epoch_and_at_the_end_what_the_chip_did(three_batches):
    printed, _ = three_batches
    assert len(re.findall(r"^Sample: ['\"]The.{40,}", printed, re.MULTILINE)) == 2
    assert re.search(r"^  FLOP/s  .* FLOPs in a call$", printed, re.MULTILINE)
    assert re.search(r"^  MFU  ", printed, re.MULTILINE)


@pytest.mark.slow
def test_tensorboard_has_the_perplexity_of_both_phases(three_batches):
    _, folder = three_batches
    for phase in ("train", "validation"):
        events = EventAccumulator(str(next((folder / "boards").glob(f"*/{phase}"))))
        events.Reload()
        assert [scalar.step for scalar in events.Scalars("epoch/perplexity")] == [1, 2]


def test_a_data_directory_without_the_vocabulary_is_an_error_that_says_what_it_must_hold(run_example, tmp_path):
    complaint = run_example("gpt2_wikitext2.py", f"--data-dir={tmp_path}", folder=tmp_path, fails=True)
    assert "must have a folder 'vocab' with encoder.json" in complaint


@pytest.mark.slow
def test_a_checkpoint_that_is_not_there_is_an_error_that_names_it(run_example, text_dir, tmp_path):
    flags = [f"--data-dir={text_dir}", "--checkpoint=nowhere.safetensors"]
    complaint = run_example("gpt2_wikitext2.py", *flags, folder=tmp_path, fails=True)
    assert "nowhere.safetensors: there is no such checkpoint" in complaint


def test_two_steps_in_a_dispatch_learn_what_single_steps_do():
    tokens = np.random.default_rng(0).integers(0, 11, 100).tolist()
    curves = [
        training_loop(tokens, steps_per_dispatch=steps).fit(GPT2(SIZES, rngs=nnx.Rngs(0)), epochs=3)[1].batches["loss"]
        for steps in (1, 2)
    ]
    assert len(curves[0]) == 3 * 8
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


def test_a_vocabulary_that_does_not_fit_the_model_is_told_before_the_first_step():
    with pytest.raises(ValueError, match=r"labels go from 0 to 10"):
        training_loop([1, 2, 3, 11] * 10).fit(GPT2(SIZES, rngs=nnx.Rngs(0)), epochs=1)


@pytest.fixture(scope="module")
def on_one_device(run_example, text_dir, tmp_path_factory):
    """The rows of two batches of 16 on one device, in float32."""
    folder = tmp_path_factory.mktemp("one")
    run_example("gpt2_wikitext2.py", f"--data-dir={text_dir}", *BATCHES_OF_16, folder=folder)
    return pd.read_csv(folder / "log.csv")


@pytest.mark.parametrize(
    ("flags", "tolerance", "placed"),
    [
        pytest.param(
            ["--mesh=data", "--accumulate=2"], 1e-4, "data=8; the batch by data", marks=pytest.mark.exhaustive
        ),
        (["--mesh=fully-sharded", "--bfloat16"], 0.02, "the batch by data, parameters by their largest axis"),
    ],
    ids=["data parallel in microbatches", "fully sharded in bfloat16"],
)
def test_eight_devices_have_the_perplexity_of_one(
    run_example, on_one_device, text_dir, tmp_path, flags, tolerance, placed
):
    flags = [f"--data-dir={text_dir}", *BATCHES_OF_16, *flags]
    printed = run_example("gpt2_wikitext2.py", *flags, folder=tmp_path, devices=8)
    assert placed in printed.splitlines()[0]
    rows = pd.read_csv(tmp_path / "log.csv")
    assert len(rows) == 4
    np.testing.assert_allclose(rows["perplexity"], on_one_device["perplexity"], rtol=tolerance)


def test_without_a_batch_size_each_device_and_microbatch_has_the_default(run_example, text_dir, tmp_path):
    flags = [f"--data-dir={text_dir}", "--explain", "--mesh=data", "--accumulate=2", "--limit-batches=1"]
    assert "training_step: 298 steps" in run_example("gpt2_wikitext2.py", *flags, folder=tmp_path, devices=8)


def test_a_mesh_and_a_device_are_refused_together(run_example, tmp_path):
    complaint = run_example("gpt2_wikitext2.py", "--mesh=data", "--device=cpu:0", folder=tmp_path, fails=True)
    assert "--mesh takes all devices, and --device one" in complaint


def test_bfloat16_learns_what_float32_does():
    tokens = np.random.default_rng(0).integers(0, 11, 100).tolist()
    curves = [
        training_loop(tokens, compute_dtype=dtype).fit(lambda: GPT2(SIZES, rngs=nnx.Rngs(0)), epochs=3)[1]
        for dtype in (None, "bfloat16")
    ]
    plain, half = (curve.batches["perplexity"] for curve in curves)
    assert (plain != half).any()
    np.testing.assert_allclose(half, plain, rtol=0.02)
