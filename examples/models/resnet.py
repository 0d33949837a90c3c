"""Residual networks for images of 32x32 pixels, and how to load weights that PyTorch has saved."""

import re
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

import jaxloop as jl

Shortcut = Literal["pad", "project"]


class ResNet(nnx.Module):
    """The residual network for CIFAR-10: three stages of `(depth - 2) / 6` blocks, with 16, 32 and 64 channels.

    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2. Normalization uses the
    statistics of the batch in training, and their running average in inference.

    Args:
      depth: the number of layers with weights on the longest path: 20, 32, 44 or 56, or another number 6n + 2.
      classes: the number of logits.
      shortcut: what a block adds to its output if it has more channels than its input. `"pad"` adds every other pixel,
        and zeros for the new channels: the paper's option A. `"project"` adds a convolution of 1x1 with normalization:
        the paper's option B, which the ResNet-56 of Swift for TensorFlow's model garden has.
      rngs: the random numbers of the first weights.

    Raises:
      ValueError: `depth` is not 6n + 2.
    """

    def __init__(self, depth: int, *, classes: int = 10, shortcut: Shortcut = "pad", rngs: nnx.Rngs):
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"ResNet: `depth` must be 6n + 2, such as 20, 32, 44 or 56, got {depth}.")
        self.convolution = convolution(3, 16, rngs=rngs)
        self.norm = batch_norm(16, rngs=rngs)
        stages, given = [], 16
        for channels in (16, 32, 64):
            widths = [given, *[channels] * (depth // 6 - 1)]
            stages.append(nnx.List([Block(width, channels, shortcut=shortcut, rngs=rngs) for width in widths]))
            given = channels
        self.stages = nnx.List(stages)
        self.dense = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits, float32[batch, classes], of images float32[batch, 32, 32, 3]."""
        x = nnx.relu(self.norm(self.convolution(images)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.dense(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """Two convolutions of 3x3. Their input is added to their output. If the channels become more, the maps are halved.

    Args:
      given: the number of channels of the input.
      channels: the number of channels of the output, `given` or more.
      shortcut: as in `ResNet`.
      rngs: the random numbers of the first weights.
    """

    def __init__(self, given: int, channels: int, *, shortcut: Shortcut, rngs: nnx.Rngs):
        self.stride = 1 if given == channels else 2
        self.convolution1 = convolution(given, channels, stride=self.stride, rngs=rngs)
        self.norm1 = batch_norm(channels, rngs=rngs)
        self.convolution2 = convolution(channels, channels, rngs=rngs)
        self.norm2 = batch_norm(channels, rngs=rngs)
        if shortcut == "project" and self.stride > 1:
            self.projection = nnx.Sequential(
                convolution(given, channels, size=1, stride=self.stride, rngs=rngs), batch_norm(channels, rngs=rngs)
            )
        else:
            self.projection = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32[batch, height, width, channels]. With a stride of 2, height and width are half of the input's."""
        y = nnx.relu(self.norm1(self.convolution1(x)))
        y = self.norm2(self.convolution2(y))
        return nnx.relu(y + self._shortcut(x, y.shape[-1]))

    def _shortcut(self, x: jax.Array, channels: int) -> jax.Array:
        if self.projection is not None:
            return self.projection(x)
        x = x[:, :: self.stride, :: self.stride]
        more = channels - x.shape[-1]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))


def convolution(given: int, channels: int, *, size: int = 3, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution with He's first weights. It has no bias: the normalization after it would remove the bias."""
    return nnx.Conv(
        given,
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,  # on both sides, as in PyTorch; with a stride of 2, "SAME" would pad only one side
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalization as in the paper: each batch moves the running averages by a tenth of the way."""
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def load_checkpoint(model: ResNet, path: str | Path) -> None:
    """Fills `model` with the weights and batch statistics of a safetensors file that holds a PyTorch state dict.

    The file must have torchvision's names: `conv1.weight`, `bn1.running_mean`, `layer1.0.conv1.weight`,
    `layer2.0.downsample.0.weight`, `fc.weight`. It may have `shortcut` for `downsample`, and `linear` for `fc`.

    Raises:
      The exceptions of `jaxloop.load_weights`.
    """
    names = {name: _renamed(name, len(held.shape)) for name, held in jl.weights_in(path).items()}
    nnx.update(model, nnx.state(jl.load_weights(path, model, names)))


_MODULES = (
    (r"^(conv|bn)1\.", r"\1."),  # the stem has no number in `ResNet`
    (r"^(fc|linear)\.", "dense."),
    (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
    (r"\.(downsample|shortcut)\.", ".projection.layers."),
    (r"\bconv(\d?)\.", r"convolution\1."),
    (r"\bbn(\d?)\.", r"norm\1."),
)
_OF_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _renamed(public: str, axis_count: int) -> Any:
    """What `names` of `load_weights` says of an array: its path in `ResNet`, and how its axes become those there."""
    module, kind = public.rpartition(".")[::2]
    if kind == "num_batches_tracked":
        return None
    for pattern, replacement in _MODULES:
        module = re.sub(pattern, replacement, f"{module}.").removesuffix(".")
    if kind == "weight" and axis_count in (2, 4):  # of PyTorch [out, in] and [out, in, height, width]
        return f"{module}.kernel", lambda array: array.T if axis_count == 2 else array.transpose(2, 3, 1, 0)
    return f"{module}.{kind if module == 'dense' else _OF_NORM.get(kind, kind)}"
