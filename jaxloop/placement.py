"""Where a run lives: the only module that knows of devices and platforms."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    Device = Any  # jax.Device is made by an extension module, which type checkers cannot look into
else:
    Device = jax.Device


@dataclass(frozen=True)
class Placement:
    """One device, and how arrays come to it and from it. Equal placements share their programs.

    Attributes:
      device: all arrays of the run lie on it.
    """

    device: Device

    @property
    def platform(self) -> str:
        """`"cpu"`, `"gpu"` or `"tpu"`."""
        return self.device.platform

    @property
    def is_cpu(self) -> bool:
        """Whether the host's own memory is the device's.

        If it is, a program takes NumPy arrays in place, and no transfer is needed. No thread reads ahead, since it
        would take time from the same cores. And convolutions inside a loop run slowly, unless their axes are in one
        order.
        """
        return self.platform == "cpu"

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Where each array lies, as `jax.jit` takes it for arguments and results."""
        return jax.sharding.SingleDeviceSharding(self.device)

    def put(self, tree: Any) -> Any:
        """The tree as arrays of the device. Arrays that lie there already are not copied."""
        return jax.device_put(tree, self.device)

    def copy(self, leaf: Any) -> jax.Array:
        """An array of the device that shares no memory with `leaf`, so that it can be donated."""
        # The copy comes first: on CPUs `device_put` may share memory even with may_alias=False, with NumPy's arrays and
        # between devices. A donated array that shares memory would be overwritten under its other owner.
        if not isinstance(leaf, jax.Array):
            own: Any = np.array(leaf)
        else:
            own = leaf if self.holds(leaf) else _copied(leaf)
        return jax.device_put(own, self.device, may_alias=False)

    def put_batch(self, batch: Any) -> Any:
        """A batch on its way to the device. Its transfer starts now, except on a CPU, where none is needed."""
        return batch if self.is_cpu else jax.device_put(batch, self.device)

    def holds(self, array: jax.Array) -> bool:
        """Whether the array lies on the device."""
        return array.devices() == {self.device}

    def fetch(self, tree: Any) -> Any:
        """The tree in NumPy. Waits for the device."""
        return jax.tree.map(np.asarray, tree)

    def describe(self) -> str:
        """For a person: `"cpu:0 (cpu)"`."""
        return f"{self.platform}:{self.device.id} ({self.device.device_kind})"


@jax.jit
def _copied(leaf: jax.Array) -> jax.Array:
    return jnp.copy(leaf)


def default_device() -> Device:
    """JAX's own default: what `jax.default_device` or `jax_default_device` names, else the first device of the backend.

    Starts the backend.
    """
    chosen: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] made at run time
    if chosen is None:
        return _devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def _devices(platform: str | None = None) -> list[Device]:
    """The devices of a platform; of JAX's own choice where none is named."""
    return jax.devices(platform)


#: What names a placement, see `resolve`.
On = Placement | Device | str | None


def resolve(on: On) -> Placement:
    """The placement that `on` means. Starts the backend.

    Args:
      on: a placement; a device; a platform such as `"cpu"`, `"gpu"` or `"tpu"`, which means its first device; one of
        its devices, as `"cpu:3"`; or `None`, JAX's default device.

    Raises:
      ValueError: there is no such platform or device here; the message lists what there is.
      TypeError: `on` is something else.
    """
    if on is None:
        return Placement(default_device())
    if isinstance(on, Placement):
        return on
    if isinstance(on, Device):
        return Placement(on)
    if not isinstance(on, str):
        raise TypeError(f"on: expected a device, a platform name or None, got {on!r}.")
    platform, _, index = on.partition(":")
    try:
        return Placement({str(device.id): device for device in _devices(platform or "none")}[index or "0"])
    except (RuntimeError, KeyError) as error:
        known = ", ".join(f"{device.platform}:{device.id}" for device in _devices())
        raise ValueError(f"on: there is no device {on!r} here; there are: {known}.") from error
