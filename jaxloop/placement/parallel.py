"""Ready-made placements over several devices."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxloop.placement.placement import Device, Placement


def data_parallel(devices: Sequence[Device] | None = None) -> Placement:
    """The placement that divides each batch over devices, each of which holds all of the model.

    Starts the backend.

    Args:
      devices: None for all of JAX's default backend, those of other processes included.

    Example:
      >>> loop, history = training_loop.fit(model, epochs=12, on=jl.data_parallel())
    """
    return Placement(_line(devices, "data_parallel"))


def fully_sharded(devices: Sequence[Device] | None = None, *, at_least: int = 1024) -> Placement:
    """The placement that divides each batch over devices, and each large array of model and optimizer too.

    Each is divided along its largest axis whose length is a multiple of the number of devices. A step gathers a
    parameter where it is used. Starts the backend.

    Args:
      devices: as in `data_parallel`.
      at_least: an array with fewer numbers than this lies on each device.

    Example:
      >>> loop, history = training_loop.fit(lambda: Net(rngs=nnx.Rngs(0)), epochs=12, on=jl.fully_sharded())
    """
    mesh = _line(devices, "fully_sharded")
    return Placement(mesh, _Largest("data", mesh.size, at_least), gather=True)


def _line(devices: Sequence[Device] | None, where: str) -> Mesh:
    chosen: list[Device] = jax.devices() if devices is None else list(devices)
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise TypeError(
            f"{where}: `devices` must be devices, at least one, such as jax.devices()[:4]; got {devices!r}."
        )
    return Mesh(np.array(chosen), ("data",))


@dataclass(frozen=True)
class _Largest:
    """The rule that divides each large array along its largest axis that can be divided."""

    name: str
    parts: int
    at_least: int

    def __call__(self, path: str, leaf: Any) -> PartitionSpec:
        shape = leaf.shape
        axes = [axis for axis, length in enumerate(shape) if length % self.parts == 0 and length]
        if math.prod(shape) < self.at_least or not axes:
            return PartitionSpec()
        largest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * largest, self.name)

    def __str__(self) -> str:
        return f"their largest axis, from {self.at_least} numbers on"
