"""BERT, which reads a text in both directions, with a classifier on top; and its public checkpoints."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxloop as jl

PAD = 0

_kernel_init = nnx.initializers.truncated_normal(0.02)
_Linear = functools.partial(nnx.Linear, kernel_init=_kernel_init)
_Embed = functools.partial(nnx.Embed, embedding_init=_kernel_init)
_LayerNorm = functools.partial(nnx.LayerNorm, epsilon=1e-12, use_fast_variance=False)


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT.

    Attributes:
      width: the size of the vectors of tokens. The layers inside of a block are four times as wide.
      block_count: the number of blocks, one after the other.
      head_count: the number of attention heads, which share the width.
      vocabulary_size: the number of tokens in the vocabulary.
      max_length: the length of the longest text, in tokens.
      dropout: the share of numbers that training sets to 0.
    """

    width: int
    block_count: int
    head_count: int
    vocabulary_size: int = 30522
    max_length: int = 512
    dropout: float = 0.1


TINY = BertConfig(width=128, block_count=2, head_count=2)
BASE = BertConfig(width=768, block_count=12, head_count=12)


class BertClassifier(nnx.Module):
    """A BERT with one logit, computed from its vector of the whole text.

    Args:
      config: its sizes, such as `TINY` or `BASE`.
      rngs: the random numbers of the first weights and of dropout.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.bert = Bert(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.classifier = _Linear(config.width, 1, rngs=rngs)

    def __call__(self, tokens: jax.Array, token_types: jax.Array | None = None) -> jax.Array:
        """The logits, float32[batch], of tokens as `Bert` takes them."""
        _, pooled = self.bert(tokens, token_types)
        return self.classifier(self.dropout(pooled))[:, 0]


class Bert(nnx.Module):
    """Embeddings, blocks of attention, and a pooler that makes a vector of the whole text from its first token.

    Devlin, Chang, Lee, Toutanova: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding,
    NAACL 2019.

    Args:
      config: its sizes.
      rngs: the random numbers of the first weights and of dropout.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.block_count)])
        self.pooler = _Linear(config.width, config.width, rngs=rngs)

    def __call__(self, tokens: jax.Array, token_types: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The vectors of the tokens, and of the texts.

        Args:
          tokens: int[batch, length]. The first token of each text is `[CLS]`. Attention ignores tokens that are `PAD`.
          token_types: int[batch, length], 0 for the first text and 1 for the second; None for all 0.

        Returns:
          float32[batch, length, width] and float32[batch, width].
        """
        x = self.embeddings(tokens, jnp.zeros_like(tokens) if token_types is None else token_types)
        for block in self.blocks:
            x = block(x, tokens != PAD)
        return x, jnp.tanh(self.pooler(x[:, 0]))


class Embeddings(nnx.Module):
    """The sum of three vectors for each token: of the token, its position and its type."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.words = _Embed(config.vocabulary_size, config.width, rngs=rngs)
        self.positions = _Embed(config.max_length, config.width, rngs=rngs)
        self.token_types = _Embed(2, config.width, rngs=rngs)
        self.norm = _LayerNorm(config.width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, tokens: jax.Array, token_types: jax.Array) -> jax.Array:
        """float32[batch, length, width] of int[batch, length].

        Raises:
          ValueError: the texts are longer than there are positions.
        """
        length, max_length = tokens.shape[1], self.positions.num_embeddings
        if length > max_length:
            raise ValueError(f"Bert: a text must be at most {max_length} tokens long, got {length}. Cut it.")
        x = self.words(tokens) + self.positions(jnp.arange(length)) + self.token_types(token_types)
        return self.dropout(self.norm(x))


class Block(nnx.Module):
    """Attention, then a layer four times as wide. Each input is added to its output, and the sum is normalized."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(config, rngs=rngs)
        self.attention_norm = _LayerNorm(config.width, rngs=rngs)
        self.expand = _Linear(config.width, 4 * config.width, rngs=rngs)
        self.contract = _Linear(4 * config.width, config.width, rngs=rngs)
        self.output_norm = _LayerNorm(config.width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """float32[batch, length, width] from the same shape; attends to the tokens in `mask`, bool[batch, length]."""
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        hidden = nnx.gelu(self.expand(x), approximate=False)
        return self.output_norm(x + self.dropout(self.contract(hidden)))


class SelfAttention(nnx.Module):
    """Attention of several heads, in which every token attends to all tokens of its text."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.head_count = config.head_count
        self.query = _Linear(config.width, config.width, rngs=rngs)
        self.key = _Linear(config.width, config.width, rngs=rngs)
        self.value = _Linear(config.width, config.width, rngs=rngs)
        self.output = _Linear(config.width, config.width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """float32[batch, length, width] from the same shape; attends to the tokens in `mask`, bool[batch, length]."""
        query, key, value = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
        # A finite number, not -inf: a text of only padding, which fills a batch, would be NaN otherwise.
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        shares = self.dropout(nnx.softmax(scores))
        return self.output(jnp.einsum("bhqk,bkhd->bqhd", shares, value).reshape(x.shape))

    def _heads(self, x: jax.Array) -> jax.Array:
        """float32[batch, length, heads, width / heads]."""
        return x.reshape(*x.shape[:2], self.head_count, -1)


def load_checkpoint(model: BertClassifier, path: str | Path) -> None:
    """Fills the model from a file in the layout of the public `bert-base-uncased`.

    The names may begin with `bert.` or not. The normalizations may have `weight` and `bias`, or `gamma` and `beta` as
    in old files. The heads of pre-training are left out. If the file has no classifier, the model keeps its own.

    Raises:
      The exceptions of `jaxloop.load_weights`: the file has another architecture or size.
    """
    has_classifier = any(name.startswith("classifier.") for name in jl.weights_in(path))
    loaded = jl.load_weights(path, model, _renamed, keep=() if has_classifier else "classifier")
    nnx.update(model, nnx.state(loaded))


#: The replacements that turn a public name into a name of this model, applied in this order.
_NAMES = (
    (r"^bert\.", ""),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^embeddings\.word_embeddings\.weight$", "bert.embeddings.words.embedding"),
    (r"^embeddings\.position_embeddings\.weight$", "bert.embeddings.positions.embedding"),
    (r"^embeddings\.token_type_embeddings\.weight$", "bert.embeddings.token_types.embedding"),
    (r"^embeddings\.LayerNorm\.", "bert.embeddings.norm."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.", r"bert.blocks.\1.attention."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"bert.blocks.\1.attention.output."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"bert.blocks.\1.attention_norm."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"bert.blocks.\1.expand."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"bert.blocks.\1.contract."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"bert.blocks.\1.output_norm."),
    (r"^pooler\.dense\.", "bert.pooler."),
    (r"norm\.weight$", "norm.scale"),
    (r"\.weight$", ".kernel"),
)
_LEFT_OUT = re.compile(r"^cls\.|(^|\.)embeddings\.position_ids$")


def _renamed(public: str) -> Any:
    """What `names` of `load_weights` says of a public name. Dense layers are transposed: files have [out, in]."""
    if _LEFT_OUT.search(public):
        return None
    name = public
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return (name, np.transpose) if name.endswith(".kernel") else name
