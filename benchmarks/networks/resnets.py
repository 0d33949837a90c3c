"""Residual networks with batch norm (He et al. 2016): basic blocks for small images, bottlenecks for large ones."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks.layers import Tree, convolution_params, dense, dense_params, plain_convolution

_STATISTICS_MOMENTUM = 0.9
_VARIANCE_FLOOR = 1e-5


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
      name: the name of its weights.
      convolutions: (size, inputs, outputs, stride) of each convolution in turn.
      shortcut: the same for the convolution of the shortcut; None if the shortcut is the identity.
    """

    name: str
    convolutions: tuple[tuple[int, int, int, int], ...]
    shortcut: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class ResNet:
    """A stem, residual blocks, a mean over positions, a dense layer to 10 classes; called as a `jl.Model`'s `apply`.

    Attributes:
      stem: (size, outputs, stride) of the first convolution.
      pooled: whether a max pooling of 3x3 with a stride of 2 follows it.
      blocks: the blocks in order.
    """

    stem: tuple[int, int, int]
    pooled: bool
    blocks: tuple[Block, ...]

    def variables(self) -> tuple[Tree, Tree]:
        """The first weights, and the state: the running statistics of the batch norms."""
        generator = np.random.default_rng(1)
        size, width, _ = self.stem
        params: Tree = {"stem": _normed_params(generator, size, 3, width)}
        for block in self.blocks:
            params[block.name] = {
                name: _normed_params(generator, *convolution[:3]) for name, convolution in _parts(block).items()
            }
        state = {
            name: _statistics(of_part) if name == "stem" else {key: _statistics(one) for key, one in of_part.items()}
            for name, of_part in params.items()
        }
        params["output"] = dense_params(generator, self.blocks[-1].convolutions[-1][2], 10)
        return params, state

    def __call__(self, params: Tree, state: Tree, input: Any, *, training: bool, key: Any) -> tuple[jax.Array, Tree]:
        """Logits, float[batch, 10], of images float[batch, height, width, 3]."""
        after: Tree = {}
        maps, after["stem"] = _normed(params["stem"], state["stem"], input, stride=self.stem[2], training=training)
        maps = jax.nn.relu(maps)
        if self.pooled:
            maps = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for block in self.blocks:
            maps, after[block.name] = _residual(block, params[block.name], state[block.name], maps, training=training)
        return dense(params["output"], maps.mean(axis=(1, 2))), after


def resnet_8() -> ResNet:
    """Three basic blocks, for 32x32 images."""
    return _of_basic_blocks(1)


def resnet_20() -> ResNet:
    """Nine basic blocks, for 32x32 images."""
    return _of_basic_blocks(3)


def resnet_50() -> ResNet:
    """Sixteen bottlenecks, after a stem that makes images four times smaller."""
    blocks, inputs = [], 64
    for stage, (count, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for index in range(count):
            stride = 2 if stage and not index else 1
            convolutions = ((1, inputs, width, 1), (3, width, width, stride), (1, width, 4 * width, 1))
            shortcut = None if index else (1, inputs, 4 * width, stride)
            blocks.append(Block(f"block_{len(blocks) + 1:02}", convolutions, shortcut))
            inputs = 4 * width
    return ResNet((7, 64, 2), True, tuple(blocks))


def _of_basic_blocks(per_stage: int) -> ResNet:
    blocks, inputs = [], 16
    for width in (16, 32, 64):
        for _ in range(per_stage):
            stride = 1 if inputs == width else 2
            shortcut = None if inputs == width else (1, inputs, width, stride)
            convolutions = ((3, inputs, width, stride), (3, width, width, 1))
            blocks.append(Block(f"block_{len(blocks) + 1}", convolutions, shortcut))
            inputs = width
    return ResNet((3, 16, 1), False, tuple(blocks))


def _parts(block: Block) -> dict[str, tuple[int, int, int, int]]:
    """The convolutions of the block by name, with the shortcut last."""
    named: dict[str, tuple[int, int, int, int]] = {}
    named.update(zip(("first", "second", "third"), block.convolutions, strict=False))
    return named if block.shortcut is None else named | {"shortcut": block.shortcut}


def _residual(block: Block, params: Tree, state: Tree, input: jax.Array, *, training: bool) -> tuple[jax.Array, Tree]:
    """The output of the block and its statistics."""
    after: Tree = {}
    maps = input
    for name, (_, _, _, stride) in _parts(block).items():
        if name == "shortcut":
            input, after[name] = _normed(params[name], state[name], input, stride=stride, training=training)
            continue
        maps = maps if name == "first" else jax.nn.relu(maps)
        maps, after[name] = _normed(params[name], state[name], maps, stride=stride, training=training)
    return jax.nn.relu(maps + input), after


def _normed(params: Tree, state: Tree, input: Any, *, stride: int, training: bool) -> tuple[jax.Array, Tree]:
    """A convolution followed by batch norm, and the new statistics."""
    maps = plain_convolution(params["kernel"], input, stride=stride)
    mean, variance = state["mean"], state["variance"]
    if training:
        mean, variance = maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))
        measured = {"mean": mean, "variance": variance}
        state = jax.tree.map(
            lambda old, new: _STATISTICS_MOMENTUM * old + (1 - _STATISTICS_MOMENTUM) * new, state, measured
        )
    scale = params["scale"] * jax.lax.rsqrt(variance + _VARIANCE_FLOOR)
    return (maps - mean) * scale + params["bias"], state


def _normed_params(generator: np.random.Generator, size: int, inputs: int, outputs: int) -> Tree:
    return convolution_params(generator, size, inputs, outputs) | {"scale": np.ones(outputs, np.float32)}


def _statistics(params: Tree) -> Tree:
    return {"mean": np.zeros_like(params["bias"]), "variance": np.ones_like(params["bias"])}
