"""Weights from safetensors files: what is read, what is put where, what is refused."""

import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from examples.models.checkpoints import fill, read_tensors


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List([nnx.Linear(2, 3, use_bias=False, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """One for each weight of `Network`, each with numbers of its own."""
    kernels = {f"blocks.{index}.kernel": np.full((2, 3), index + 1.0) for index in range(2)}
    return kernels | {f"norm.{name}": np.full(3, value) for value, name in enumerate(["scale", "bias", "mean", "var"])}


@pytest.fixture
def network() -> Network:
    return Network(nnx.Rngs(0))


def test_what_was_saved_is_read_bfloat16_included(tmp_path):
    saved = {"one": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.ones(4, ml_dtypes.bfloat16)}
    save_file(saved, tmp_path / "model.safetensors")
    read = read_tensors(tmp_path / "model.safetensors")
    assert {name: array.dtype for name, array in read.items()} == {"one": np.float32, "two": ml_dtypes.bfloat16}
    np.testing.assert_array_equal(read["one"], saved["one"])


def test_every_weight_and_batch_statistic_is_filled_and_keeps_its_dtype(network, tensors):
    fill(network, tensors, source="here")
    np.testing.assert_array_equal(network.blocks[1].kernel[...], np.full((2, 3), 2))
    np.testing.assert_array_equal(network.norm.mean[...], np.full(3, 2))
    np.testing.assert_array_equal(network.norm.var[...], np.full(3, 3))
    assert network.norm.var[...].dtype == jnp.float32


def test_what_does_not_fit_is_told_in_one_message_and_nothing_is_filled(network, tensors):
    before = np.asarray(network.norm.mean[...])
    del tensors["norm.scale"]
    tensors |= {"head.kernel": np.ones(1), "blocks.0.kernel": np.ones((2, 4))}
    with pytest.raises(ValueError, match=r"model\.safetensors: it does not fit Network") as caught:
        fill(network, tensors, source="model.safetensors")
    message = str(caught.value)
    assert "it lacks norm.scale; the model has no head.kernel; " in message
    assert "shapes differ: blocks.0.kernel [2, 4] for [2, 3]. It is of another architecture or size" in message
    np.testing.assert_array_equal(network.norm.mean[...], before)


def test_many_faults_are_counted(network):
    with pytest.raises(ValueError, match=r"it lacks blocks\.0\.kernel.*norm\.mean and 2 more\. It is of another"):
        fill(network, {}, source="here")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors: there is no such checkpoint"):
        read_tensors(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("kept", [-3, 60], ids=["in the numbers", "in the header"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, tensors, kept):
    save_file(tensors, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:kept])
    with pytest.raises(ValueError, match="it is not a whole safetensors file"):
        read_tensors(tmp_path / "model.safetensors")


def test_the_absence_of_safetensors_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        read_tensors("model.safetensors")
