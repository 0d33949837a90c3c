"""Files in the public layouts of BERT and GPT-2: every array is loaded, to its place and in its orientation."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import jaxloop as jl
from examples.models import bert, gpt2
from tests.examples.public_bert import public_tensors

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra `weights`")


def values(module: nnx.Module) -> dict[str, np.ndarray]:
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in state}


def test_a_file_of_bert_is_loaded_by_names(tmp_path: Path) -> None:
    config = bert.BertConfig(width=8, block_count=2, head_count=2, vocabulary_size=20, max_length=7)
    tensors = public_tensors(config)
    head = {"classifier.weight": np.arange(8, dtype=np.float32)[None], "classifier.bias": np.ones(1, np.float32)}
    ignored = {"cls.predictions.bias": np.ones(20, np.float32), "bert.embeddings.position_ids": np.arange(7)[None]}
    safetensors_numpy.save_file(tensors | head | ignored, tmp_path / "model.safetensors")
    abstract = nnx.eval_shape(lambda: bert.BertClassifier(config, rngs=nnx.Rngs(0)))
    loaded = values(jl.load_weights(tmp_path / "model.safetensors", abstract, bert._renamed))

    assert len(loaded) == len(tensors | head)
    for index in range(2):
        layer, block = f"bert.encoder.layer.{index}", f"bert.blocks.{index}"
        for part in ("query", "key", "value"):
            kernel, weight = f"{block}.attention.{part}.kernel", f"{layer}.attention.self.{part}.weight"
            np.testing.assert_array_equal(loaded[kernel], tensors[weight].T)
        np.testing.assert_array_equal(loaded[f"{block}.expand.kernel"], tensors[f"{layer}.intermediate.dense.weight"].T)
        np.testing.assert_array_equal(loaded[f"{block}.output_norm.scale"], tensors[f"{layer}.output.LayerNorm.weight"])
    words = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(loaded["bert.embeddings.words.embedding"], words)
    np.testing.assert_array_equal(loaded["classifier.kernel"], np.arange(8)[:, None])
    assert sorted(array.sum() for array in loaded.values()) == pytest.approx(
        sorted(array.sum() for array in (tensors | head).values()), rel=1e-4, abs=1e-4
    )


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_file_of_gpt_2_is_loaded_by_names(tmp_path: Path, prefix: str) -> None:
    sizes = gpt2.Configuration(layers=1, heads=2, width=8, context_length=6, vocabulary_size=11)
    random = np.random.default_rng(0)
    shapes = {"wte.weight": (11, 8), "wpe.weight": (6, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    for name, shape in {
        "attn.c_attn": (8, 24),
        "attn.c_proj": (8, 8),
        "mlp.c_fc": (8, 32),
        "mlp.c_proj": (32, 8),
    }.items():
        shapes |= {f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[-1:]}
    for name in ("ln_1", "ln_2"):
        shapes |= {f"h.0.{name}.weight": (8,), f"h.0.{name}.bias": (8,)}
    tensors = {f"{prefix}{name}": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    more = {
        "lm_head.weight": tensors[f"{prefix}wte.weight"],
        f"{prefix}h.0.attn.bias": np.ones((1, 1, 6, 6), np.float32),
    }
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(tensors | more, path)
    abstract = nnx.eval_shape(lambda: gpt2.GPT2(sizes, rngs=nnx.Rngs(0)))
    loaded = values(jl.load_weights(path, abstract, gpt2._renamed))
    assert len(loaded) == len(tensors)
    np.testing.assert_array_equal(loaded["tokens.embedding"], tensors[f"{prefix}wte.weight"])
    kernel = loaded["blocks.0.attention.query_key_value.kernel"]
    np.testing.assert_array_equal(kernel, tensors[f"{prefix}h.0.attn.c_attn.weight"])
    assert sorted(array.tobytes() for array in loaded.values()) == sorted(array.tobytes() for array in tensors.values())

    safetensors_numpy.save_file(tensors | more | {"lm_head.weight": np.zeros((11, 8), np.float32)}, path)
    with pytest.raises(jl.errors.WeightsError, match=r"its lm_head\.weight is not its .*wte\.weight"):
        jl.load_weights(path, abstract, gpt2._renamed)
