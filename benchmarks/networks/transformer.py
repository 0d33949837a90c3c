"""A small decoder of tokens: twice causal attention and two dense layers, each after a layer norm."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks.layers import Tree, dense, dense_params, he_normal


@dataclass(frozen=True)
class Transformer:
    """Predicts each next token (Vaswani et al. 2017, norms first as in GPT-2); called as a `jl.Model`'s `apply`."""

    vocabulary: int = 64
    length: int = 32
    width: int = 64
    heads: int = 4
    layers: int = 2

    def params(self) -> Tree:
        """First weights."""
        generator = np.random.default_rng(1)
        width = self.width
        params: Tree = {
            "tokens": he_normal(generator, (self.vocabulary, width)),
            "positions": he_normal(generator, (self.length, width)),
            "norm": _norm_params(width),
            "output": dense_params(generator, width, self.vocabulary),
        }
        for index in range(self.layers):
            params[f"layer_{index}"] = {
                "attention_norm": _norm_params(width),
                "in": dense_params(generator, width, 3 * width),
                "out": dense_params(generator, width, width),
                "dense_norm": _norm_params(width),
                "first": dense_params(generator, width, 4 * width),
                "second": dense_params(generator, 4 * width, width),
            }
        return params

    def __call__(self, params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
        """Logits, float[batch, length, vocabulary], of tokens int32[batch, length]."""
        hidden = params["tokens"][input] + params["positions"]
        for index in range(self.layers):
            layer = params[f"layer_{index}"]
            hidden = hidden + self._attention(layer, _norm(layer["attention_norm"], hidden))
            wide = jax.nn.gelu(dense(layer["first"], _norm(layer["dense_norm"], hidden)))
            hidden = hidden + dense(layer["second"], wide)
        return dense(params["output"], _norm(params["norm"], hidden)), state

    def _attention(self, layer: Tree, hidden: jax.Array) -> jax.Array:
        shape = (*hidden.shape[:-1], self.heads, self.width // self.heads)
        query, key, value = (part.reshape(shape) for part in jnp.split(dense(layer["in"], hidden), 3, axis=-1))
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return dense(layer["out"], mixed.reshape(hidden.shape))


def _norm(params: Tree, hidden: jax.Array) -> jax.Array:
    mean, variance = hidden.mean(axis=-1, keepdims=True), hidden.var(axis=-1, keepdims=True)
    return (hidden - mean) * jax.lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def _norm_params(width: int) -> Tree:
    return {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
