"""Layers as functions of a dict of arrays, and their first weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = dict[str, Any]


def dense(params: Tree, input: Any) -> jax.Array:
    """A linear map of the last axis."""
    return jnp.dot(input, params["kernel"]) + params["bias"]


def convolution(params: Tree, input: Any, *, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """A convolution of images float[batch, height, width, channels], with a bias."""
    return plain_convolution(params["kernel"], input, stride=stride, padding=padding) + params["bias"]


def plain_convolution(kernel: Any, input: Any, *, stride: int, padding: str = "SAME") -> jax.Array:
    """The same without a bias."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(input, kernel, (stride, stride), padding, dimension_numbers=dimensions)


def dense_params(generator: np.random.Generator, inputs: int, outputs: int) -> Tree:
    return {"kernel": he_normal(generator, (inputs, outputs)), "bias": np.zeros(outputs, np.float32)}


def convolution_params(generator: np.random.Generator, size: int, inputs: int, outputs: int) -> Tree:
    kernel = he_normal(generator, (size, size, inputs, outputs))
    return {"kernel": kernel, "bias": np.zeros(outputs, np.float32)}


def he_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal weights of variance 2 / fan-in (He et al. 2015)."""
    fan_in = np.prod(shape[:-1])
    return (generator.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)
