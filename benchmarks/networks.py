"""The networks that are trained: plain functions over dicts of arrays, with weights of a fixed seed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = dict[str, Any]
_STATISTICS_MOMENTUM = 0.9
_VARIANCE_FLOOR = 1e-5


def perceptron_params() -> Tree:
    """Weights for `perceptron`: 64 inputs, 32 hidden units, 10 classes."""
    generator = np.random.default_rng(1)
    return {"hidden": _dense_params(generator, 64, 32), "output": _dense_params(generator, 32, 10)}


def perceptron(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of an input float[batch, 64]."""
    hidden = jax.nn.relu(_dense(params["hidden"], input))
    return _dense(params["output"], hidden), state


def convolutional_params() -> Tree:
    """Weights for `convolutional`."""
    generator = np.random.default_rng(1)
    return {
        "first": _convolution_params(generator, 3, 1, 16),
        "second": _convolution_params(generator, 3, 16, 32),
        "hidden": _dense_params(generator, 4 * 4 * 32, 64),
        "output": _dense_params(generator, 64, 10),
    }


def convolutional(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of images float[batch, 8, 8, 1]: two convolutions, two dense layers."""
    maps = jax.nn.relu(_convolution(params["first"], input, stride=1))
    maps = jax.nn.relu(_convolution(params["second"], maps, stride=2))
    hidden = jax.nn.relu(_dense(params["hidden"], maps.reshape(len(maps), -1)))
    return _dense(params["output"], hidden), state


def resnet_params() -> tuple[Tree, Tree]:
    """Weights for `resnet`, and the state: the running statistics of its batch norms."""
    generator = np.random.default_rng(1)
    params: Tree = {"stem": _normed_params(generator, 3, 3, 16), "output": _dense_params(generator, 64, 10)}
    state: Tree = {"stem": _statistics(16)}
    for name, (inputs, outputs) in _BLOCKS.items():
        params[name] = {
            "first": _normed_params(generator, 3, inputs, outputs),
            "second": _normed_params(generator, 3, outputs, outputs),
        }
        state[name] = {"first": _statistics(outputs), "second": _statistics(outputs)}
        if inputs != outputs:
            params[name]["shortcut"] = _normed_params(generator, 1, inputs, outputs)
            state[name]["shortcut"] = _statistics(outputs)
    return params, state


def resnet(params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
    """Logits, float[batch, 10], of images float[batch, 32, 32, 3]: ResNet-8 (He et al. 2016, n = 1).

    A stem, three residual blocks of two convolutions with batch norm each, a mean over positions, a dense layer.
    """
    after: Tree = {}
    maps, after["stem"] = _normed(params["stem"], state["stem"], input, stride=1, training=training)
    maps = jax.nn.relu(maps)
    for name in _BLOCKS:
        maps, after[name] = _residual_block(params[name], state[name], maps, training=training)
    return _dense(params["output"], maps.mean(axis=(1, 2))), after


_BLOCKS = {"block_1": (16, 16), "block_2": (16, 32), "block_3": (32, 64)}


def _residual_block(params: Tree, state: Tree, input: jax.Array, *, training: bool) -> tuple[jax.Array, Tree]:
    """The block's output and its statistics; where the channels change the resolution is halved."""
    stride = 2 if "shortcut" in params else 1
    after: Tree = {}
    maps, after["first"] = _normed(params["first"], state["first"], input, stride=stride, training=training)
    maps = jax.nn.relu(maps)
    maps, after["second"] = _normed(params["second"], state["second"], maps, stride=1, training=training)
    if "shortcut" in params:
        shortcut = params["shortcut"], state["shortcut"]
        input, after["shortcut"] = _normed(*shortcut, input, stride=stride, training=training)
    return jax.nn.relu(maps + input), after


def _normed(params: Tree, state: Tree, input: Any, *, stride: int, training: bool) -> tuple[jax.Array, Tree]:
    """A convolution followed by batch norm, and the statistics behind it."""
    maps = jax.lax.conv_general_dilated(
        input, params["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, variance = state["mean"], state["variance"]
    if training:
        mean, variance = maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))
        measured = {"mean": mean, "variance": variance}
        state = jax.tree.map(
            lambda old, new: _STATISTICS_MOMENTUM * old + (1 - _STATISTICS_MOMENTUM) * new, state, measured
        )
    scale = params["scale"] * jax.lax.rsqrt(variance + _VARIANCE_FLOOR)
    return (maps - mean) * scale + params["bias"], state


def _convolution(params: Tree, input: Any, *, stride: int) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(input, params["kernel"], (stride, stride), "SAME", dimension_numbers=dimensions)
    return maps + params["bias"]


def _dense(params: Tree, input: Any) -> jax.Array:
    return jnp.dot(input, params["kernel"]) + params["bias"]


def _dense_params(generator: np.random.Generator, inputs: int, outputs: int) -> Tree:
    return {"kernel": _he_normal(generator, (inputs, outputs)), "bias": np.zeros(outputs, np.float32)}


def _convolution_params(generator: np.random.Generator, size: int, inputs: int, outputs: int) -> Tree:
    kernel = _he_normal(generator, (size, size, inputs, outputs))
    return {"kernel": kernel, "bias": np.zeros(outputs, np.float32)}


def _normed_params(generator: np.random.Generator, size: int, inputs: int, outputs: int) -> Tree:
    params = _convolution_params(generator, size, inputs, outputs)
    return params | {"scale": np.ones(outputs, np.float32)}


def _statistics(channels: int) -> Tree:
    return {"mean": np.zeros(channels, np.float32), "variance": np.ones(channels, np.float32)}


def _he_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal weights of variance 2 / fan-in (He et al. 2015)."""
    fan_in = np.prod(shape[:-1])
    return (generator.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)
