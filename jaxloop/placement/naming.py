"""What `on=` may name: a device, a platform, a placement, or nothing."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxloop.brief import brief
from jaxloop.placement.placement import Device, Placement


def default_device() -> Device:
    """JAX's own default: what `jax.default_device` or `jax_default_device` names, else the first device of the backend.

    Starts the backend.

    Example:
      >>> jl.default_device().platform in ("cpu", "gpu", "tpu")
      True
    """
    chosen: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] made at run time
    if chosen is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def _devices(platform: str | None = None) -> list[Device]:
    """The devices of a platform; of JAX's own choice where none is named."""
    return jax.devices(platform)


#: What names a placement, see `resolve`.
On = Placement | Device | str | None


#: The extra that brings a platform.
_EXTRAS = {"gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}


def resolve(on: On) -> Placement:
    """The placement that `on` means. Starts the backend.

    Args:
      on: a placement; a device; a platform such as `"cpu"`, `"gpu"` or `"tpu"`, which means its first device; one of
        its devices, as `"cpu:3"`; or `None`. That means one device on a CPU; all devices of a GPU or TPU, data
        parallel; and all devices of all processes, if there are several. What `jax.default_device` names is
        taken if it is set.

    Raises:
      ValueError: there is no such platform or device here; the message lists what there is.
      TypeError: `on` is something else.
    """
    if on is None:
        return _default()
    if isinstance(on, Placement):
        return on
    if isinstance(on, Device):
        return Placement(on)
    if not isinstance(on, str):
        raise TypeError(
            f"on: expected a device, a platform name or None, got {brief(on)}. Write on='cpu:0'. For several devices "
            "give a jaxloop.Placement, such as jaxloop.data_parallel(devices)."
        )
    platform, _, index = on.partition(":")
    try:
        found = jax.local_devices(backend=platform or "none") if not index else _devices(platform or "none")
        return Placement(found[0] if not index else {str(device.id): device for device in found}[index])
    except (RuntimeError, KeyError) as error:
        known = ", ".join(f"{device.platform}:{device.id}" for device in _devices())
        extra = _EXTRAS.get(platform)
        fix = f"Install JAX for it, as pip install 'jaxloop[{extra}]', or write" if extra else "Write"
        raise ValueError(
            f"on: there is no device {on!r} here; there are: {known}. {fix} on={known.partition(',')[0]!r}."
        ) from error


def left_unused(on: On) -> str | None:
    """A line for a person on devices that a run leaves unused, though nobody has named the one that it takes.

    Args:
      on: as `resolve` takes it.

    Returns:
      None if all are used, or if `on` is a placement, a device or one of its names.
    """
    config: Any = jax.config
    if isinstance(on, str) and ":" not in on:
        others = _devices(on)[1:]
        best = [] if on != "cpu" or config.jax_default_device is not None else _devices()
        if best and best[0].platform != "cpu":
            return f"{len(best)} {best[0].device_kind} left unused; leave out on='cpu' to use them"
    elif on is None and config.jax_default_device is None and resolve(on).single:
        others = _devices()[1:]
    else:
        return None
    kind = "devices are" if len(others) > 1 else "device is"
    return f"{len(others)} more {kind} left unused; on=jaxloop.data_parallel() uses all" if others else None


def _default() -> Placement:
    device = default_device()
    chosen: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] made at run time
    if chosen is not None or (device.platform == "cpu" and jax.process_count() == 1):
        return Placement(device)
    return Placement(Mesh(np.array(_devices()), ("data",)))
