"""Sampled texts: what is drawn, what repeats, what is compiled, what is refused."""

import jax
import numpy as np
import pytest
from flax import nnx

from examples.models import sampling
from examples.models.gpt2 import GPT2, Configuration
from examples.models.sampling import sample

SIZES = Configuration(layers=1, heads=2, width=8, context_length=12, vocabulary_size=11)


@pytest.fixture(scope="module")
def model() -> GPT2:
    """One whose logits differ much, and from position to position: its embeddings are large."""
    model = GPT2(SIZES, rngs=nnx.Rngs(0))
    model.tokens.embedding[...] = 25 * model.tokens.embedding[...]
    model.positions.embedding[...] = 100 * model.positions.embedding[...]
    return model


@pytest.mark.slow
def test_the_likeliest_tokens_are_those_of_one_forward_pass_after_the_other(model):
    expected = [3, 1]
    while len(expected) < 12:
        padded = expected + [0] * (12 - len(expected))
        expected.append(int(model(np.array([padded], np.int32))[0, len(expected) - 1].argmax()))
    assert len(set(expected)) > 3
    assert sample(model, [3, 1], 10, key=jax.random.key(0), top_k=1) == expected[2:]


def test_the_same_key_gives_the_same_tokens_and_another_key_others(model):
    first, again, other = (sample(model, [3], 11, key=jax.random.key(seed), top_k=11) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_the_temperature_makes_them_likely(model):
    """Of the three likeliest: 600 draws, within three standard deviations."""
    logits = np.asarray(model(np.array([[3]], np.int32))[0, -1], np.float64)
    likeliest = np.argsort(logits)[::-1][:3]
    share = np.exp(logits[likeliest] / 2.0 - logits[likeliest[0]] / 2.0)
    share /= share.sum()
    drawn = [sample(model, [3], 1, key=jax.random.key(seed), temperature=2.0, top_k=3)[0] for seed in range(600)]
    assert set(drawn) <= set(likeliest.tolist())
    counts = np.array([drawn.count(token) for token in likeliest])
    assert (np.abs(counts - 600 * share) < 3 * np.sqrt(600 * share * (1 - share))).all()


def test_a_text_is_one_program_for_other_weights_keys_and_temperatures_too(model):
    sample(model, [3, 1, 4], 5, key=jax.random.key(0), top_k=4)
    compiled = sampling._continued._cache_size()
    other = GPT2(SIZES, rngs=nnx.Rngs(1))
    assert len(sample(other, [9, 2, 6], 5, key=jax.random.key(2), temperature=0.5, top_k=4)) == 5
    assert sampling._continued._cache_size() == compiled


@pytest.mark.parametrize(("prompt", "length"), [([], 3), ([1], 0), ([1, 2], 11)])
def test_what_does_not_fill_or_does_not_fit_the_context_is_refused(model, prompt, length):
    with pytest.raises(ValueError, match=rf"at most the context of 12 tokens, got {len(prompt)} and {length}\."):
        sample(model, prompt, length, key=jax.random.key(0))


def test_a_prompt_of_another_vocabulary_is_refused(model):
    with pytest.raises(ValueError, match=r"vocabulary has 11 tokens, but the prompt's go from 2 to 11\. Take the"):
        sample(model, [2, 11], 3, key=jax.random.key(0), top_k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"`temperature` must be above 0, got 0\.0"),
        ({"top_k": 0}, "`top_k` must be from 1 to 11, the vocabulary's size, got 0"),
        ({"top_k": 12}, "`top_k` must be from 1 to 11, the vocabulary's size, got 12"),
    ],
)
def test_numbers_out_of_range_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        sample(model, [1], 3, key=jax.random.key(0), **({"top_k": 1} | options))
