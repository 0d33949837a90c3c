"""BERT: its sizes, what it computes beside NumPy and beside transformers, and the checkpoints that it reads."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from examples.models.bert import BASE, PAD, TINY, Bert, BertClassifier, BertConfig, load_checkpoint
from tests.examples.public_bert import public_tensors

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

SMALL = BertConfig(width=8, block_count=2, head_count=2, vocabulary_size=20, max_length=7)
TOKENS = np.array([[1, 5, 19, 7, 2], [1, 6, 2, PAD, PAD], [1, 8, 9, 2, PAD]], np.int32)
TOKEN_TYPES = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]], np.int32)


def bert_in_numpy(tensors: dict[str, np.ndarray], config: BertConfig, tokens, token_types):
    """What Devlin and others describe, one text and one head at a time, in float64."""
    weights = {name.removeprefix("bert."): tensor.astype(np.float64) for name, tensor in tensors.items()}
    erf = np.vectorize(math.erf)

    def dense(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(name, x):
        query, key, value = (dense(f"{name}.self.{part}", x) for part in ("query", "key", "value"))
        heads = []
        for columns in np.split(np.arange(config.width), config.head_count):
            shares = np.exp(query[:, columns] @ key[:, columns].T / np.sqrt(len(columns)))
            heads.append(shares / shares.sum(-1, keepdims=True) @ value[:, columns])
        return dense(f"{name}.output.dense", np.concatenate(heads, -1))

    hidden, pooled = [], []
    for text, types in zip(tokens, token_types, strict=True):
        length = int((text != PAD).sum())  # what is padding does not exist here
        x = weights["embeddings.word_embeddings.weight"][text[:length]]
        x = x + weights["embeddings.position_embeddings.weight"][:length]
        x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][types[:length]])
        for index in range(config.block_count):
            layer = f"encoder.layer.{index}"
            x = norm(f"{layer}.attention.output.LayerNorm", x + attention(f"{layer}.attention", x))
            wide = dense(f"{layer}.intermediate.dense", x)
            wide = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
            x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", wide))
        hidden.append(x)
        pooled.append(np.tanh(dense("pooler.dense", x[0])))
    return hidden, np.array(pooled)


def classifier(config: BertConfig = SMALL, seed: int = 0) -> BertClassifier:
    model = BertClassifier(config, rngs=nnx.Rngs(seed))
    model.eval()
    return model


def loaded(tmp_path, tensors: dict[str, np.ndarray], config: BertConfig = SMALL) -> BertClassifier:
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    model = classifier(config)
    load_checkpoint(model, tmp_path / "model.safetensors")
    return model


def parameter_count(module) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(("config", "count"), [(TINY, 4_385_920), (BASE, 109_482_240)], ids=["tiny", "base"])
def test_it_has_as_many_parameters_as_the_public_one(config, count):
    model = nnx.eval_shape(lambda: BertClassifier(config, rngs=nnx.Rngs(0)))
    assert parameter_count(model.bert) == count
    assert parameter_count(model.classifier) == config.width + 1


def test_it_computes_what_numpy_does_padding_and_token_types_included(tmp_path):
    tensors = public_tensors(SMALL)
    hidden, pooled = loaded(tmp_path, tensors).bert(TOKENS, TOKEN_TYPES)
    expected, expected_pooled = bert_in_numpy(tensors, SMALL, TOKENS, TOKEN_TYPES)
    np.testing.assert_allclose(pooled, expected_pooled, atol=1e-5)
    for row, text in zip(hidden, expected, strict=True):
        np.testing.assert_allclose(row[: len(text)], text, atol=1e-5)


def test_without_token_types_all_are_of_the_first(tmp_path):
    model = loaded(tmp_path, public_tensors(SMALL))
    np.testing.assert_array_equal(model(TOKENS), model(TOKENS, np.zeros_like(TOKENS)))


def test_padding_further_changes_no_logit(tmp_path):
    model = loaded(tmp_path, public_tensors(SMALL))
    longer = np.pad(TOKENS, ((0, 0), (0, 2)), constant_values=PAD)
    np.testing.assert_allclose(model(longer), model(TOKENS), atol=1e-6)


def test_a_text_of_padding_alone_gives_finite_numbers():
    assert jnp.isfinite(classifier()(np.full((1, 4), PAD, np.int32))).all()


def test_dropout_acts_in_training_alone():
    model = classifier()
    np.testing.assert_array_equal(model(TOKENS), model(TOKENS))
    model.train()
    assert not np.array_equal(model(TOKENS), model(TOKENS))


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="a text must be at most 7 tokens long, got 8"):
        classifier()(np.ones((1, 8), np.int32))


def test_names_without_prefix_and_old_names_of_normalizations_load_the_same(tmp_path):
    tensors = public_tensors(SMALL)
    old = {
        name.removeprefix("bert.").replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert "embeddings.LayerNorm.gamma" in old
    np.testing.assert_array_equal(loaded(tmp_path, old)(TOKENS), loaded(tmp_path, tensors)(TOKENS))


def test_heads_of_pretraining_and_stored_positions_are_left_out(tmp_path):
    tensors = public_tensors(SMALL)
    more = {"cls.predictions.bias": np.ones(20), "cls.seq_relationship.weight": np.ones((2, 8))}
    more["bert.embeddings.position_ids"] = np.arange(7)[None]
    np.testing.assert_array_equal(loaded(tmp_path, tensors | more)(TOKENS), loaded(tmp_path, tensors)(TOKENS))


def test_the_classifier_is_the_files_where_it_has_one(tmp_path):
    head = {"classifier.weight": np.arange(8, dtype=np.float32)[None], "classifier.bias": np.array([3], np.float32)}
    model = loaded(tmp_path, public_tensors(SMALL) | head)
    np.testing.assert_array_equal(model.classifier.kernel[...], np.arange(8)[:, None])
    np.testing.assert_array_equal(model.classifier.bias[...], [3])


def test_the_classifier_stays_as_it_was_where_the_file_has_none(tmp_path):
    fresh = classifier().classifier.kernel[...]
    np.testing.assert_array_equal(loaded(tmp_path, public_tensors(SMALL)).classifier.kernel[...], fresh)


def renamed(tensors: dict[str, np.ndarray], pattern: str, replacement: str) -> dict[str, np.ndarray]:
    return {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (renamed(public_tensors(SMALL), "^bert", "roberta"), r"the model has no roberta\.embeddings"),
        (
            renamed(public_tensors(BertConfig(8, 2, 2, vocabulary_size=25, max_length=9)), "^bert.", ""),
            r"shapes differ: bert\.embeddings\.positions\.embedding \[9, 8\] for \[7, 8\]",
        ),
        ({"wte.weight": np.ones((20, 8)), "h.0.attn.c_attn.weight": np.ones((8, 24))}, r"the model has no h\.0\.attn"),
        (public_tensors(BertConfig(8, 3, 2, 20, 7)), r"the model has no bert\.blocks\.2\.attention\.key\.bias"),
        (public_tensors(BertConfig(8, 1, 2, 20, 7)), r"it lacks bert\.blocks\.1\.attention\.key\.bias"),
        (public_tensors(BertConfig(12, 2, 2, 20, 7)), r"shapes differ: bert\.blocks\.0\.attention\.key\.bias \[12\]"),
    ],
    ids=["RoBERTa", "RoBERTa without prefix", "GPT-2", "more layers", "fewer layers", "wider"],
)
def test_a_checkpoint_of_another_architecture_or_size_is_refused(tmp_path, tensors, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        loaded(tmp_path, tensors)
    assert "model.safetensors: it does not fit BertClassifier" in str(caught.value)


@pytest.mark.parametrize("head", [False, True], ids=["without classifier", "with classifier"])
def test_it_computes_what_transformers_does_with_a_file_that_transformers_saved(tmp_path, head):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = transformers.BertConfig(**sizes, num_labels=1, initializer_range=0.1)
    theirs = transformers.BertForSequenceClassification(config).eval()
    (theirs if head else theirs.bert).save_pretrained(tmp_path)
    ours = classifier(TINY)
    load_checkpoint(ours, tmp_path / "model.safetensors")

    random = np.random.default_rng(0)
    tokens = random.integers(1, TINY.vocabulary_size, (3, 16))
    tokens[1, 11:] = PAD
    types = (np.arange(16) > 8) * np.ones((3, 1), int)
    arguments = {"input_ids": tokens, "attention_mask": tokens != PAD, "token_type_ids": types}
    with torch.no_grad():
        arguments = {name: torch.tensor(array).long() for name, array in arguments.items()}
        expected, logits = theirs.bert(**arguments), theirs(**arguments).logits
    hidden, pooled = ours.bert(tokens, types)
    mask = tokens != PAD
    np.testing.assert_allclose(hidden[mask], expected.last_hidden_state.numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(pooled, expected.pooler_output.numpy(), atol=1e-4)
    if head:
        np.testing.assert_allclose(ours(tokens, types), logits.numpy()[:, 0], atol=1e-4)


def test_the_untrained_logits_are_small_so_that_training_starts_at_a_loss_of_log_2():
    logits = classifier(SMALL)(TOKENS)
    assert logits.shape == (3,)
    assert np.abs(logits).max() < 0.2


def test_bert_alone_gives_a_vector_for_each_token_and_each_text():
    model = Bert(SMALL, rngs=nnx.Rngs(0))
    hidden, pooled = model(TOKENS)
    assert hidden.shape == (3, 5, 8)
    assert pooled.shape == (3, 8)
