"""How much memory there is: of a device, by its runtime or its data sheet, and what the machine leaves to a process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxloop.chips import memory_of

try:
    import resource
except ModuleNotFoundError:  # as on Windows
    resource = None  # type: ignore[assignment]

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60  # version 1 of control groups writes a number of this size for "no limit"


class Limit(NamedTuple):
    """A limit on what programs on one device may take.

    Attributes:
      bytes: so much.
      reserved: whether it counts memory as soon as it is reserved, as limits on a process do, or only once it is used.
    """

    bytes: int
    reserved: bool = False


def limits_of(device: Any) -> list[Limit]:
    """What programs on a device may take; nothing if that is not known.

    Of a CPU, it is what the machine and each limit of this process leave now. Of a GPU or TPU that is here, what its
    runtime has for arrays, used or not. Of one that is not, what its data sheet says.
    """
    if device.platform == "cpu":
        return list(_left())
    try:
        told = (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # the device is not here
        told = None
    found = memory_of(device.device_kind) if told is None else int(told)
    return [] if found is None else [Limit(found)]


def _left() -> Iterator[Limit]:
    """What each limit leaves to this process."""
    yield from map(Limit, _of_machine())
    yield from map(Limit, _of_control_groups())
    if resource is not None:
        used = _numbers(Path("/proc/self/status"))
        for name, taken in (("RLIMIT_AS", used.get("VmSize")), ("RLIMIT_DATA", used.get("VmData"))):
            most = resource.getrlimit(getattr(resource, name))[0]
            if most != resource.RLIM_INFINITY and taken is not None:
                yield Limit(max(0, most - taken), reserved=True)


def _of_machine() -> Iterator[int]:
    available = _numbers(Path("/proc/meminfo")).get("MemAvailable")
    if available is not None:
        yield available
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_control_groups() -> Iterator[int]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, taken = _number(_CGROUPS / limit), _number(_CGROUPS / used)
        if most is not None and taken is not None and most < _UNLIMITED:
            yield max(0, most - taken)


def _numbers(path: Path) -> dict[str, int]:
    """Bytes by name, of a file whose lines are as `VmSize:  123 kB`; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if len(line) == 3 and line[2] == "kB"}


def _number(path: Path) -> int | None:
    """The number that a file holds; None where there is none, or a word."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
