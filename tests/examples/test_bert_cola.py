"""The CoLA example: what it prints and logs, the shapes it trains on, what it refuses, and what it learns."""

import functools

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from safetensors.numpy import save_file

import jaxloop as jl
from examples.datasets.cola import load_cola
from examples.datasets.word_pieces import load_word_pieces
from examples.models.bert import PAD, TINY, BertClassifier, BertConfig
from tests.examples.public_bert import public_tensors

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

MCC = "matthews_correlation_coefficient"


def epochs_of(samples, batch_size: int, lengths: tuple[int, ...]) -> jl.NonuniformTrainingEpochs:
    pad = functools.partial(jl.pad_and_collate, pad_value=(PAD, None), lengths=lengths)
    return jl.NonuniformTrainingEpochs(
        samples, batch_size, size=lambda sample: len(sample[0]), collate=pad, lengths=lengths
    )


@pytest.mark.slow
def test_two_epochs_of_two_batches_leave_eight_rows_that_pandas_reads(run_example, cola_dir, tmp_path):
    flags = [f"--data-dir={cola_dir}", "--epochs=2", "--limit-batches=2", "--csv=log.csv"]
    printed = run_example("bert_cola.py", *flags, folder=tmp_path)
    rows = pd.read_csv(tmp_path / "log.csv")
    assert rows["phase"].tolist() == (["training"] * 2 + ["validation"] * 2) * 2
    assert rows["step"].tolist() == [1, 2, 2, 2, 3, 4, 4, 4]
    assert {"accuracy", MCC, "gradient_norm", "learning_rate"} < set(rows)
    rates = rows[rows["phase"] == "training"]["learning_rate"]
    np.testing.assert_allclose(rates, 5e-4 * np.arange(4) / 9, rtol=1e-6)
    in_domain, out_of_domain = printed.splitlines()[-2:]
    assert in_domain == f"Matthews correlation in domain: {rows[MCC].iloc[-1]:.3f}"
    assert out_of_domain.startswith("Matthews correlation out of domain: ")


@pytest.mark.exhaustive
def test_eight_epochs_of_the_small_one_fit_the_training_sentences(run_example, cola_dir, tmp_path):
    run_example("bert_cola.py", f"--data-dir={cola_dir}", "--csv=log.csv", folder=tmp_path)
    rows = pd.read_csv(tmp_path / "log.csv")
    ends = rows[rows["phase"] == "training"].groupby("epoch").last()
    assert ends["batch"].tolist() == [267] * 8
    assert ends["loss"].iloc[-1] < 0.7 * ends["loss"].iloc[0]
    assert ends[MCC].iloc[-1] > 0.3


def test_the_large_one_without_a_checkpoint_is_refused(run_example, tmp_path):
    complaint = run_example("bert_cola.py", "--config=base", folder=tmp_path, fails=True)
    assert "--config base learns little from random weights: give --checkpoint, or take --config tiny" in complaint


@pytest.mark.slow
def test_a_checkpoint_is_what_training_begins_with(run_example, cola_dir, tmp_path):
    head = {"classifier.weight": np.zeros((1, 128), np.float32), "classifier.bias": np.array([20], np.float32)}
    save_file(public_tensors(TINY) | head, tmp_path / "bert.safetensors")
    flags = [f"--data-dir={cola_dir}", "--checkpoint=bert.safetensors", "--epochs=1", "--limit-batches=1"]
    run_example("bert_cola.py", *flags, "--csv=log.csv", folder=tmp_path)
    first = pd.read_csv(tmp_path / "log.csv").iloc[0]
    # Every logit is 20: all are called acceptable, and -log sigmoid(-20) is 20 where that is wrong.
    assert 0 < first["accuracy"] < 1
    assert first["loss"] == pytest.approx(20 * (1 - first["accuracy"]), rel=1e-5)
    assert first[MCC] == 0


def test_a_checkpoint_of_another_model_is_refused(run_example, cola_dir, tmp_path):
    save_file({"wte.weight": np.ones((4, 2), np.float32)}, tmp_path / "gpt2.safetensors")
    flags = [f"--data-dir={cola_dir}", "--checkpoint=gpt2.safetensors"]
    complaint = run_example("bert_cola.py", *flags, folder=tmp_path, fails=True)
    assert "gpt2.safetensors: it does not fit BertClassifier" in complaint


def test_a_data_directory_without_cola_is_an_error_that_says_what_it_must_hold(run_example, vocab_dir, tmp_path):
    (tmp_path / "vocab").symlink_to(vocab_dir / "vocab")
    complaint = run_example("bert_cola.py", f"--data-dir={tmp_path}", folder=tmp_path, fails=True)
    assert "must have a folder 'cola' with in_domain_train.tsv" in complaint


def test_an_epoch_comes_in_the_three_announced_lengths_the_longest_first(cola_dir):
    tokenize = load_word_pieces(cola_dir, vocabulary_size=30522, max_length=48)
    sentences = load_cola(cola_dir).training
    tokens = tokenize(sentences.texts)
    epoch = epochs_of(list(zip(tokens, sentences.labels, strict=True)), 32, (12, 24, 48))[0]
    lengths = [batch_tokens.shape[1] for batch_tokens, _ in epoch]
    assert max(map(len, tokens)) == 47
    assert epoch.shapes == (12, 24, 48)
    assert set(lengths) == {12, 24, 48}
    assert lengths[0] == 48


@pytest.mark.slow
def test_three_steps_in_a_dispatch_give_the_weights_of_single_steps_dropout_included():
    random = np.random.default_rng(0)
    config = BertConfig(width=8, block_count=1, head_count=2, vocabulary_size=20, max_length=24)
    assert config.dropout > 0
    counts = random.permutation(np.repeat([8, 20], 40))
    samples = [(random.integers(1, 20, count).astype(np.int32), np.int32(count % 2)) for count in counts]

    def weights(steps_per_dispatch: int):
        training_loop = jl.TrainingLoop(
            epochs_of(samples, 8, (12, 24)),
            optimizer=optax.adam(1e-2),
            loss_fn=jl.losses.sigmoid_cross_entropy,
            callbacks=[jl.callbacks.clip_by_global_norm(1.0)],
            steps_per_dispatch=steps_per_dispatch,
            progress=False,
        )
        loop, history = training_loop.fit(BertClassifier(config, rngs=nnx.Rngs(0)), epochs=2)
        return history.batches["loss"], jax.tree.leaves(loop.model.params)

    losses, single = weights(1)
    fused_losses, fused = weights(3)
    np.testing.assert_array_equal(fused_losses, losses)
    for one, other in zip(fused, single, strict=True):
        np.testing.assert_array_equal(one, other)
