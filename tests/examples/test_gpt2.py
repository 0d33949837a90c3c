"""GPT-2: its logits against NumPy and another library, and which checkpoints it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from examples.models.gpt2 import CONFIGURATIONS, GPT2, Configuration, load_checkpoint

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

SIZES = Configuration(layers=2, heads=2, width=8, context_length=6, vocabulary_size=11)
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 10]], np.int32)


@pytest.fixture
def published() -> dict[str, np.ndarray]:
    """Random weights of these sizes under the names of the published GPT-2, with the mask that it carries."""
    random = np.random.default_rng(0)
    width = SIZES.width
    shapes = {"wte.weight": (SIZES.vocabulary_size, width), "wpe.weight": (SIZES.context_length, width)}
    for index in range(SIZES.layers):
        layers = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        layers |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        layers |= {"ln_1": (width,), "ln_2": (width,)}
        shapes |= {f"h.{index}.{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"h.{index}.{name}.bias": shape[-1:] for name, shape in layers.items()}
        shapes |= {f"h.{index}.attn.bias": (1, 1, 6, 6)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def save(tmp_path):
    """Saves tensors, and gives the path."""

    def saved(tensors):
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return saved


@pytest.fixture
def model() -> GPT2:
    return GPT2(SIZES, rngs=nnx.Rngs(0))


def logits_by_numpy(weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """GPT-2 in double precision, one sequence, head and position at a time, from weights by their published names."""
    weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}

    def dense(name, x):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(name, x):
        query, key, value = np.split(dense(f"{name}.c_attn", x), 3, axis=-1)
        attended = np.zeros_like(x)
        head_width = x.shape[-1] // SIZES.heads
        for head in range(SIZES.heads):
            part = slice(head * head_width, (head + 1) * head_width)
            for position in range(len(x)):
                scores = key[: position + 1, part] @ query[position, part] / np.sqrt(head_width)
                share = np.exp(scores - scores.max())
                attended[position, part] = share / share.sum() @ value[: position + 1, part]
        return dense(f"{name}.c_proj", attended)

    def logits(sequence):
        x = weights["wte.weight"][sequence] + weights["wpe.weight"][: len(sequence)]
        for index in range(SIZES.layers):
            x = x + attention(f"h.{index}.attn", norm(f"h.{index}.ln_1", x))
            inner = dense(f"h.{index}.mlp.c_fc", norm(f"h.{index}.ln_2", x))
            gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
            x = x + dense(f"h.{index}.mlp.c_proj", gelu)
        return norm("ln_f", x) @ weights["wte.weight"].T

    return np.stack([logits(sequence) for sequence in tokens])


def test_the_logits_of_a_checkpoint_are_those_that_numpy_computes(model, published, save):
    load_checkpoint(model, save(published))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(model(TOKENS), logits_by_numpy(published, TOKENS), rtol=1e-4, atol=1e-4)


def test_the_logits_of_a_checkpoint_are_those_of_transformers(save):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_head=4, n_embd=128, n_positions=128))
    names = {f"transformer.{name}" for name, _ in reference.transformer.named_parameters()}
    model = GPT2(CONFIGURATIONS["tiny"], rngs=nnx.Rngs(1))
    load_checkpoint(model, save({name: reference.state_dict()[name].numpy() for name in names}))
    tokens = np.random.default_rng(0).integers(0, 50257, (2, 128))
    with torch.no_grad():
        expected = reference.eval()(torch.as_tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(model(tokens.astype(np.int32)), expected, atol=1e-4)


def test_a_position_does_not_see_those_behind_it(model):
    changed = TOKENS.copy()
    changed[:, 4:] = 0
    np.testing.assert_allclose(model(changed)[:, :4], model(TOKENS)[:, :4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "count"), [("tiny", 6_846_080), ("small", 124_439_808), ("medium", 354_823_168)])
def test_the_sizes_have_as_many_parameters_as_were_published(size, count):
    model = nnx.eval_shape(lambda: GPT2(CONFIGURATIONS[size], rngs=nnx.Rngs(0)))
    assert sum(weight.size for weight in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


def test_the_first_weights_have_the_deviations_of_the_original():
    model = GPT2(CONFIGURATIONS["tiny"], rngs=nnx.Rngs(0))
    assert float(model.tokens.embedding[...].std()) == pytest.approx(0.02, rel=0.01)
    assert float(model.blocks[0].expand.kernel[...].std()) == pytest.approx(0.02, rel=0.01)
    assert float(model.blocks[1].contract.kernel[...].std()) == pytest.approx(0.02 / 4**0.5, rel=0.01)
    assert not model.blocks[0].contract.bias[...].any()


def test_bfloat16_is_what_it_computes_in_while_weights_and_logits_are_float32(published, save):
    half = GPT2(SIZES, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    load_checkpoint(half, save(published))
    assert {weight.dtype for weight in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    assert half.features(TOKENS).dtype == jnp.bfloat16
    logits = half(TOKENS)
    assert logits.dtype == jnp.float32
    expected = logits_by_numpy(published, TOKENS)
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


def test_models_of_the_same_sizes_are_equal_but_for_their_weights():
    assert nnx.graphdef(GPT2(SIZES, rngs=nnx.Rngs(0))) == nnx.graphdef(GPT2(SIZES, rngs=nnx.Rngs(1)))


def test_a_sequence_beyond_the_context_is_refused(model):
    with pytest.raises(ValueError, match=r"the context has 6 tokens, got 7\. Cut the sequences"):
        model(np.zeros((1, 7), np.int32))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="`width` must be a multiple of `heads`, got 10 and 4"):
        Configuration(layers=1, heads=4, width=10)


def test_a_checkpoint_is_the_same_with_the_prefix_and_a_tied_output_layer(model, published, save):
    load_checkpoint(model, save(published))
    with_prefix = {f"transformer.{name}": tensor for name, tensor in published.items()}
    other = GPT2(SIZES, rngs=nnx.Rngs(1))
    load_checkpoint(other, save(with_prefix | {"lm_head.weight": published["wte.weight"]}))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(other))


def test_an_output_layer_of_its_own_is_refused(model, published, save):
    path = save(published | {"lm_head.weight": published["wte.weight"] + 1})
    with pytest.raises(ValueError, match=r"its lm_head\.weight is not its wte\.weight.*It is of another architecture"):
        load_checkpoint(model, path)


def test_a_checkpoint_of_another_architecture_is_refused(model, save):
    path = save({"bert.embeddings.word_embeddings.weight": np.ones((11, 8), np.float32)})
    with pytest.raises(ValueError, match=r"it does not fit GPT2.*the model has no bert\.embeddings") as caught:
        load_checkpoint(model, path)
    assert "it lacks blocks.0.attention.output.bias" in str(caught.value)


def test_a_checkpoint_of_more_blocks_is_refused(model, published, save):
    more = {name.replace("h.1.", "h.2."): tensor for name, tensor in published.items()} | published
    with pytest.raises(ValueError, match=r"the model has no blocks\.2\.attention.*of another architecture or size"):
        load_checkpoint(model, save(more))


def test_a_checkpoint_of_another_vocabulary_is_refused(model, published, save):
    published["wte.weight"] = published["wte.weight"][:10]
    with pytest.raises(ValueError, match=r"shapes differ: tokens\.embedding \[10, 8\] for \[11, 8\]"):
        load_checkpoint(model, save(published))
