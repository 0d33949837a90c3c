"""Text that a language model writes, one token after the other."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from .gpt2 import GPT2


def sample(
    model: GPT2, prompt: Sequence[int], length: int, *, key: jax.Array, temperature: float = 1.0, top_k: int = 40
) -> list[int]:
    """`length` tokens that follow `prompt`, each drawn from the model's probabilities. It waits for the device.

    It is one program, which is compiled once for each length of the prompt, `length` and `top_k`.

    Args:
      model: gives the logits.
      prompt: the tokens to continue, at least one.
      length: how many tokens to draw, at least 1; together with the prompt at most the model's context.
      key: key[], the PRNG key: the same key gives the same tokens.
      temperature: the divisor of the logits, above 0. A lower temperature gives more likely tokens.
      top_k: how many of the likeliest tokens can be drawn; 1 always takes the likeliest.

    Raises:
      ValueError: a number is out of range, or a token of the prompt is not in the model's vocabulary.

    Example:
      >>> tokenizer.decode(sample(model, tokenizer.encode("The").ids, 20, key=jax.random.key(0)))
    """
    _check(model, prompt, length, temperature=temperature, top_k=top_k)
    tokens = jnp.zeros(len(prompt) + length, jnp.int32).at[: len(prompt)].set(jnp.asarray(prompt, jnp.int32))
    graph, weights = nnx.split(model)
    return _continued(graph, weights, tokens, key, temperature, start=len(prompt), top_k=top_k)[len(prompt) :].tolist()


@partial(jax.jit, static_argnames=("graph", "start", "top_k"))
def _continued(
    graph: nnx.GraphDef[GPT2],
    weights: nnx.State,
    tokens: jax.Array,
    key: jax.Array,
    temperature: float,
    *,
    start: int,
    top_k: int,
) -> jax.Array:
    """`tokens` with those from `start` on drawn. Attention is causal, so the zeros after a position do not count."""
    model = nnx.merge(graph, weights)

    def draw(position: jax.Array, tokens: jax.Array) -> jax.Array:
        logits = model.logits(model.features(tokens[None])[0, position - 1])
        likeliest, candidates = jax.lax.top_k(logits, top_k)
        drawn = jax.random.categorical(jax.random.fold_in(key, position), likeliest / temperature)
        return tokens.at[position].set(candidates[drawn])

    return jax.lax.fori_loop(start, len(tokens), draw, tokens)


def _check(model: GPT2, prompt: Sequence[int], length: int, *, temperature: float, top_k: int) -> None:
    context_length, vocabulary_size = model.configuration.context_length, model.configuration.vocabulary_size
    if not prompt or length < 1 or len(prompt) + length > context_length:
        raise ValueError(
            f"sample: prompt and `length` must be at least 1 and together at most the context of {context_length} "
            f"tokens, got {len(prompt)} and {length}. Shorten one of them."
        )
    if not 0 <= min(prompt) <= max(prompt) < vocabulary_size:
        raise ValueError(
            f"sample: the model's vocabulary has {vocabulary_size} tokens, but the prompt's go from {min(prompt)} to "
            f"{max(prompt)}. Take the vocabulary that the model was trained with."
        )
    if temperature <= 0:
        raise ValueError(f"sample: `temperature` must be above 0, got {temperature}. For the likeliest, give top_k=1.")
    if not 1 <= top_k <= vocabulary_size:
        raise ValueError(f"sample: `top_k` must be from 1 to {vocabulary_size}, the vocabulary's size, got {top_k}.")
