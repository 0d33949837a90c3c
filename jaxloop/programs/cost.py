"""What a compiled program takes of each device, as XLA tells before it has run: memory, FLOPs, an estimate of time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxloop.chips import memory_of


@dataclass(frozen=True)
class Estimate:
    """What a compiled program takes of one device.

    Attributes:
      device_kind: of its devices, as `jax.devices()[0].device_kind`; "" if there are neither arguments nor results.
      memory: bytes by what they hold while the program runs: `"arguments"`, `"outputs"`, `"aliased"` (outputs in the
        place of arguments), `"temporaries"`, `"code"`; empty if the backend does not tell.
      flops: as XLA counts them in the optimized program, where the body of a loop counts once; NaN if it does not tell.
      bytes_accessed: read and written, counted in the same way.
      seconds: XLA's own estimate, made in the same way; None if it makes none. The backends of TPUs do.
    """

    device_kind: str
    memory: dict[str, int] = field(default_factory=dict)
    flops: float = math.nan
    bytes_accessed: float = math.nan
    seconds: float | None = None

    @property
    def peak(self) -> int | None:
        """The most bytes that it needs at once; None if the backend does not tell."""
        return peak_of(self.memory) if self.memory else None

    @property
    def capacity(self) -> int | None:
        """The bytes of memory of the device; None if they are not known, as for a CPU."""
        return memory_of(self.device_kind)

    @property
    def fits(self) -> bool | None:
        """Whether the device has so much memory; None if that is not known."""
        return None if self.peak is None or self.capacity is None else self.peak <= self.capacity


def estimate(compiled: Any) -> Estimate:
    """What a program takes of one device. Nothing runs.

    Args:
      compiled: as `jitted.lower(*arguments).compile()` gives it, for devices that are there or not.

    Example:
      >>> estimate(jax.jit(lambda x: x + 1).lower(jnp.ones(1024)).compile()).memory["arguments"]
      4096
    """
    counts = compiled.cost_analysis() or {}
    seconds = counts.get("optimal_seconds", 0.0)
    return Estimate(
        device_kind=_device_kind(compiled),
        memory=dict(_memory(compiled)),
        flops=counts.get("flops", math.nan),
        bytes_accessed=counts.get("bytes accessed", math.nan),
        seconds=seconds if seconds > 0 else None,  # it is negative if XLA knows too little of some instruction
    )


def peak_of(memory: dict[str, int]) -> int:
    """The most bytes at once: what is aliased is counted among the arguments and among the outputs."""
    kept = memory.get("arguments", 0) + memory.get("outputs", 0) - memory.get("aliased", 0)
    return kept + memory.get("temporaries", 0) + memory.get("code", 0)


def bytes_on_one_device(tree: Any, shardings: Any) -> int:
    """The bytes that the arrays of a tree take on one device.

    Args:
      tree: of arrays, or of shapes and dtypes.
      shardings: a tree of the same structure, as `compiled.input_shardings` has it. Where there is None, the program
        does not use the array, and does not take it.
    """
    leaves, structure = jax.tree.flatten(tree)
    places = structure.flatten_up_to(shardings)
    return sum(_shard(leaf, place) for leaf, place in zip(leaves, places, strict=True) if place is not None)


def _shard(leaf: Any, place: jax.sharding.Sharding) -> int:
    if not isinstance(leaf.dtype, np.dtype):  # typed PRNG keys
        leaf = jax.eval_shape(jax.random.key_data, leaf)
        return leaf.size * leaf.dtype.itemsize
    return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _device_kind(compiled: Any) -> str:
    places = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return next(iter(places[0].device_set)).device_kind if places else ""


def _memory(compiled: Any) -> Iterator[tuple[str, int]]:
    analysis = compiled.memory_analysis()
    names = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp"}
    names["code"] = "generated_code"
    for name, source in names.items():
        size = getattr(analysis, f"{source}_size_in_bytes", None)
        if size is not None:
            yield name, int(size)
