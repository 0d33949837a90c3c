"""Weights for the tests of the residual network, under the names and with the axes that PyTorch gives them."""

from collections.abc import Iterator

import numpy as np


def state_dict(depth: int, *, projection: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights and batch statistics, of sizes at which the logits neither vanish nor grow."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in _shapes(depth, projection):
        if len(shape) > 1:
            tensors[name] = generator.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        elif name.endswith(("running_var", "weight")):
            tensors[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            tensors[name] = generator.normal(0, 0.1, shape).astype(np.float32)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7) for name in tensors if "running_mean" in name
    }
    return tensors | counters


def _shapes(depth: int, projection: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _convolution("conv1", "bn1", (16, 3, 3, 3))
    given = 16
    for stage, channels in enumerate((16, 32, 64), start=1):
        for block in range(depth // 6):
            name = f"layer{stage}.{block}"
            yield from _convolution(f"{name}.conv1", f"{name}.bn1", (channels, given, 3, 3))
            yield from _convolution(f"{name}.conv2", f"{name}.bn2", (channels, channels, 3, 3))
            if projection and given != channels:
                yield from _convolution(f"{name}.downsample.0", f"{name}.downsample.1", (channels, given, 1, 1))
            given = channels
    yield "fc.weight", (10, 64)
    yield "fc.bias", (10,)


def _convolution(name: str, norm: str, shape: tuple[int, int, int, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{kind}", shape[:1]
