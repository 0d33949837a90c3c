"""Small models of the kinds that are divided in different ways."""

from typing import Any

import jax
from flax import nnx

FEATURES, CLASSES, HIDDEN = 16, 8, 32


class MLP(nnx.Module):
    """Two layers and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(FEATURES, HIDDEN, rngs=rngs)
        self.second = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(input)))))


class Normed(nnx.Module):
    """A layer with batch norm and dropout, and a head."""

    def __init__(self, rngs: nnx.Rngs):
        # Without a bias, whose gradient would be nothing but rounding: AdamW makes steps of full length of that.
        self.first = nnx.Linear(FEATURES, HIDDEN, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.gelu(self.norm(self.first(input)))))


class Transformer(nnx.Module):
    """One block of attention over an embedding, and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(CLASSES, HIDDEN, rngs=rngs)
        self.places = nnx.Param(0.1 * jax.random.normal(rngs.params(), (6, HIDDEN)))
        self.norm = nnx.LayerNorm(HIDDEN, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, HIDDEN, decode=False, rngs=rngs)
        self.wide = nnx.Linear(HIDDEN, 2 * HIDDEN, rngs=rngs)
        self.narrow = nnx.Linear(2 * HIDDEN, HIDDEN, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        hidden = self.embed(input) + self.places[...]
        hidden = hidden + self.attention(self.norm(hidden))
        return self.last(hidden + self.narrow(nnx.gelu(self.wide(hidden))))


def mlp() -> Any:
    return MLP(nnx.Rngs(0))


def normed() -> Any:
    return Normed(nnx.Rngs(0))


def transformer() -> Any:
    return Transformer(nnx.Rngs(0))
