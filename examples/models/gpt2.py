"""GPT-2: a transformer that predicts the next token of a text."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import jaxloop as jl


@dataclass(frozen=True)
class Configuration:
    """The sizes of a GPT-2.

    Attributes:
      layers: the number of blocks.
      heads: the number of attention heads in each block.
      width: the size of the vector of a token: `heads` times the width of a head.
      context_length: the largest number of tokens that it attends to.
      vocabulary_size: the number of different tokens.
    """

    layers: int
    heads: int
    width: int
    context_length: int = 1024
    vocabulary_size: int = 50257

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"Configuration: `width` must be a multiple of `heads`, got {self.width} and {self.heads}."
            )

    @property
    def residual_deviation(self) -> float:
        """The deviation of the first weights in the two layers of a block whose outputs add up over the blocks."""
        return 0.02 / (2 * self.layers) ** 0.5


CONFIGURATIONS = {
    "tiny": Configuration(layers=2, heads=4, width=128, context_length=128),
    "small": Configuration(layers=12, heads=12, width=768),
    "medium": Configuration(layers=24, heads=16, width=1024),
}


class GPT2(nnx.Module):
    """Embeddings of tokens and positions, blocks, a normalization. Each logit is a product with a token's embedding.

    Radford, Wu, Child, Luan, Amodei, Sutskever: Language Models are Unsupervised Multitask Learners, 2019; without
    dropout.

    Args:
      configuration: its sizes.
      dtype: the dtype of its computations; None for that of the weights it has, which `compute_dtype` of a training
        loop casts. Weights are made in float32, and logits are float32.
      rngs: the random numbers of the first weights.
    """

    def __init__(self, configuration: Configuration, *, dtype: jax.typing.DTypeLike | None = None, rngs: nnx.Rngs):
        self.configuration = configuration
        self.dtype = dtype
        embed = functools.partial(nnx.Embed, features=configuration.width, embedding_init=_normal(0.02), rngs=rngs)
        self.tokens = embed(configuration.vocabulary_size)
        self.positions = embed(configuration.context_length)
        self.blocks = nnx.List([Block(configuration, dtype=dtype, rngs=rngs) for _ in range(configuration.layers)])
        self.norm = _norm(configuration.width, dtype, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """The logits of each token's successor, float32[batch, length, vocabulary], for int32[batch, length]."""
        return self.logits(self.features(tokens))

    def features(self, tokens: jax.Array) -> jax.Array:
        """The vector of each token in its context, dtype[batch, length, width], for int32[batch, length].

        Raises:
          ValueError: `tokens` are longer than the context.
        """
        length = tokens.shape[-1]
        if length > self.configuration.context_length:
            raise ValueError(
                f"GPT2: the context has {self.configuration.context_length} tokens, got {length}. Cut the sequences, "
                "or take a larger configuration."
            )
        x = self.tokens(tokens) + self.positions(jnp.arange(length))
        x = x if self.dtype is None else x.astype(self.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, features: jax.Array) -> jax.Array:
        """The products with every token's embedding, float32[..., vocabulary], for dtype[..., width]."""
        embedding = self.tokens.embedding[...].astype(features.dtype)
        return jnp.dot(features, embedding.T, preferred_element_type=jnp.float32)


class Block(nnx.Module):
    """Attention, then two dense layers. The input of each is normalized first, and its output is added."""

    def __init__(self, configuration: Configuration, *, dtype: jax.typing.DTypeLike | None, rngs: nnx.Rngs):
        width = configuration.width
        dense = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.attention_norm = _norm(width, dtype, rngs)
        self.attention = CausalSelfAttention(configuration, dtype=dtype, rngs=rngs)
        self.dense_norm = _norm(width, dtype, rngs)
        self.expand = dense(width, 4 * width, kernel_init=_normal(0.02))
        self.contract = dense(4 * width, width, kernel_init=_normal(configuration.residual_deviation))

    def __call__(self, x: jax.Array) -> jax.Array:
        """dtype[batch, length, width] from the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.contract(nnx.gelu(self.expand(self.dense_norm(x)), approximate=True))


class CausalSelfAttention(nnx.Module):
    """Attention of several heads, in which each position attends to itself and the positions before it."""

    def __init__(self, configuration: Configuration, *, dtype: jax.typing.DTypeLike | None, rngs: nnx.Rngs):
        width = configuration.width
        dense = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.heads = configuration.heads
        self.query_key_value = dense(width, 3 * width, kernel_init=_normal(0.02))
        self.output = dense(width, width, kernel_init=_normal(configuration.residual_deviation))

    def __call__(self, x: jax.Array) -> jax.Array:
        """dtype[batch, length, width] from the same shape."""
        batch, length, width = x.shape
        parts = self.query_key_value(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = (parts[:, :, index] for index in range(3))
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.output(attended.reshape(batch, length, width))


def load_checkpoint(model: GPT2, path: str | Path) -> None:
    """Fills the model from a safetensors file with the names of the published GPT-2.

    The names may have the prefix `transformer.` or not. Masks are ignored. So is `lm_head.weight`, which must be equal
    to `wte.weight`.

    Args:
      model: must have the configuration of the file. The file does not tell the number of heads.
      path: the path of the file.

    Raises:
      The exceptions of `jaxloop.load_weights`: the file has another architecture or size, or its output layer is not
        tied to its embedding.
    """
    nnx.update(model, nnx.state(jl.load_weights(path, model, _renamed)))


def _renamed(published: str) -> str | None:
    """What `names` of `load_weights` says of a published name: the path in `GPT2`, if there is one."""
    name = published.removeprefix("transformer.")
    if _MASK.fullmatch(name):
        return None
    of_block = re.fullmatch(r"h\.(\d+)\.(.+)", name)
    if of_block and of_block[2] in _BLOCK_NAMES:
        return f"blocks.{of_block[1]}.{_BLOCK_NAMES[of_block[2]]}"
    return _NAMES.get(name, name)


def _norm(width: int, dtype: jax.typing.DTypeLike | None, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)


# Cached, so that the same deviation gives the same function: two models of one configuration then compare equal.
_normal = functools.cache(nnx.initializers.normal)

_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
_NAMES = {
    "wte.weight": "tokens.embedding",
    "lm_head.weight": "tokens.embedding",
    "wpe.weight": "positions.embedding",
    "ln_f.weight": "norm.scale",
    "ln_f.bias": "norm.bias",
}
_BLOCK_NAMES = {
    "ln_1.weight": "attention_norm.scale",
    "ln_1.bias": "attention_norm.bias",
    "attn.c_attn.weight": "attention.query_key_value.kernel",
    "attn.c_attn.bias": "attention.query_key_value.bias",
    "attn.c_proj.weight": "attention.output.kernel",
    "attn.c_proj.bias": "attention.output.bias",
    "ln_2.weight": "dense_norm.scale",
    "ln_2.bias": "dense_norm.bias",
    "mlp.c_fc.weight": "expand.kernel",
    "mlp.c_fc.bias": "expand.bias",
    "mlp.c_proj.weight": "contract.kernel",
    "mlp.c_proj.bias": "contract.bias",
}
