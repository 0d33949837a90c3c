"""Three small networks: a perceptron, two convolutions, LeNet."""

from typing import Any

import jax
import numpy as np

from benchmarks.networks.layers import Tree, convolution, convolution_params, dense, dense_params


def perceptron_params() -> Tree:
    """Weights for `perceptron`: 64 inputs, 32 hidden units, 10 classes."""
    generator = np.random.default_rng(1)
    return {"hidden": dense_params(generator, 64, 32), "output": dense_params(generator, 32, 10)}


def perceptron(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of an input float[batch, 64]."""
    hidden = jax.nn.relu(dense(params["hidden"], input))
    return dense(params["output"], hidden), state


def convolutional_params() -> Tree:
    """Weights for `convolutional`."""
    generator = np.random.default_rng(1)
    return {
        "first": convolution_params(generator, 3, 1, 16),
        "second": convolution_params(generator, 3, 16, 32),
        "hidden": dense_params(generator, 4 * 4 * 32, 64),
        "output": dense_params(generator, 64, 10),
    }


def convolutional(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of images float[batch, 8, 8, 1]: two convolutions, two dense layers."""
    maps = jax.nn.relu(convolution(params["first"], input))
    maps = jax.nn.relu(convolution(params["second"], maps, stride=2))
    hidden = jax.nn.relu(dense(params["hidden"], maps.reshape(len(maps), -1)))
    return dense(params["output"], hidden), state


def lenet_params() -> Tree:
    """Weights for `lenet`."""
    generator = np.random.default_rng(1)
    return {
        "first": convolution_params(generator, 5, 1, 6),
        "second": convolution_params(generator, 5, 6, 16),
        "third": dense_params(generator, 5 * 5 * 16, 120),
        "fourth": dense_params(generator, 120, 84),
        "output": dense_params(generator, 84, 10),
    }


def lenet(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of images float[batch, 28, 28, 1]: LeNet-5 (LeCun et al. 1998), with rectifiers."""
    maps = _average_pool(jax.nn.relu(convolution(params["first"], input)))
    maps = _average_pool(jax.nn.relu(convolution(params["second"], maps, padding="VALID")))
    hidden = maps.reshape(len(maps), -1)
    for name in ("third", "fourth"):
        hidden = jax.nn.relu(dense(params[name], hidden))
    return dense(params["output"], hidden), state


def _average_pool(maps: jax.Array) -> jax.Array:
    batch, height, width, channels = maps.shape
    return maps.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
