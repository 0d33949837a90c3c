"""Where a run lives: turns what a user writes as `on=` into a device."""

from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    Device = Any  # jax.Device is made by an extension module, which type checkers cannot look into
else:
    Device = jax.Device


def default_device() -> Device:
    """JAX's own default: what `jax.default_device` or `jax_default_device` names, else the first device of the backend.

    Starts the backend.
    """
    chosen: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] made at run time
    if chosen is None:
        return jax.devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def resolve(on: Device | str | None) -> Device:
    """The device named by `on`. Starts the backend.

    Args:
      on: a device; a platform such as `"cpu"`, `"gpu"` or `"tpu"`, which means its first device, or one
        device of it as `"cpu:3"`; or `None`, JAX's default device.

    Raises:
      ValueError: there is no such platform or device here; the message lists what there is.
      TypeError: `on` is something else.
    """
    if on is None:
        return default_device()
    if isinstance(on, Device):
        return on
    if not isinstance(on, str):
        raise TypeError(f"on: expected a device, a platform name or None, got {on!r}.")
    platform, _, index = on.partition(":")
    try:
        return {str(device.id): device for device in jax.devices(platform or "none")}[index or "0"]
    except (RuntimeError, KeyError) as error:
        known = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise ValueError(f"on: there is no device {on!r} here; there are: {known}.") from error
