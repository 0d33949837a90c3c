"""A machine that is not there, to compile for it: a TPU slice or GPU cards, by name."""

import functools
import importlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxloop.placement import Placement, data_parallel


class _Slices(NamedTuple):
    """The slices of one TPU version.

    Attributes:
      largest: chips along each axis of the largest one, ascending.
      example: a name.
    """

    largest: tuple[int, ...]
    example: str


class _Card(NamedTuple):
    """A GPU, in the words of XLA's `DeviceDescription`: what its compiler must know."""

    name: str
    capability: tuple[int, int]
    cores: int
    units_per_core: int
    shared_per_core: int
    shared_per_block: int
    cache: int
    bandwidth: int
    gigahertz: float
    memory: int


# v4 is left out: a run has one device for each of its chips, and libtpu describes their two cores as two devices, so
# all numbers would be wrong by half.
_SLICES = {
    "v3": _Slices((32, 32), "v3:2x2"),
    "v5e": _Slices((16, 16), "v5e:2x4"),
    "v5p": _Slices((16, 16, 24), "v5p:2x2x2"),
    "v6e": _Slices((16, 16), "v6e:4x4"),
    "tpu7x": _Slices((16, 24, 24), "tpu7x:2x2x1"),
}
# Sources: "Technical specifications per compute capability" in docs.nvidia.com/cuda/cuda-c-programming-guide, and the
# data sheets of the cards.
_CARDS = {
    "h100": _Card(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 3352320 * 10**6, 1.98, 84942979072
    ),
    "a100": _Card(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 2039040 * 10**6, 1.41, 85100068864
    ),
}
_LOCK = threading.Lock()
_PER_HOST = 8  # cards in a machine
_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


def topology(name: str) -> Placement:
    """The placement over a machine that is not there: data parallel over all its devices.

    It is for `TrainingLoop.compile`, `explain` and `largest_batch`, which tell what a step takes of each chip, what the
    chips send each other, and whether it fits. Nothing can be put on it. The devices are `mesh.devices.flat`, for other
    placements over them. A slice of several hosts is compiled for as one process would.

    Args:
      name: a TPU slice, by its version and its chips along each axis, as `"v5e:2x4"`; or cards, as `"h100"` for one and
        `"h100:8"` for a machine of eight. More than eight are machines of eight each.

    Raises:
      ValueError: there is no such machine. The message lists what there is.
      ImportError: the compiler for it is not installed: `pip install "jaxloop[tpu]"` or `"jaxloop[cuda]"`.
      RuntimeError: another process uses libtpu, which serves one at a time.

    Example:
      >>> print(training_loop.compile(model, on=jl.topology("v5e:2x4")))
      >>> slice = jl.topology("v5p:2x2x2").mesh.devices.flat
      >>> jl.explain(training_loop, model, on=jl.fully_sharded(slice))
    """
    return data_parallel(topology_devices(name))


def topology_devices(name: str) -> list[Any]:
    """The devices of a machine that is not there. A program can be compiled for them, and nothing else.

    The same name gives the same devices, so what was compiled for them is kept. Starts JAX's own backend first, which
    stays the default one.

    Args and errors are those of `topology`.

    Example:
      >>> devices = topology_devices("v5e:2x2")
      >>> devices[0].device_kind
      'TPU v5 lite'
    """
    checked = _checked(name)
    with _LOCK:  # two threads that ask at once are given the same devices
        return list(_devices(checked))


@functools.cache
def _devices(name: str) -> tuple[Any, ...]:
    jax.devices()  # it must not be started later with what is loaded now
    kind, _, size = name.partition(":")
    return tuple(_slice(name, size) if kind in _SLICES else _cards(name, kind, int(size)))


def _checked(name: Any) -> str:
    """The name, in lower case and without what may be left out.

    Raises:
      TypeError: it is no name.
      ValueError: no machine is called so.
    """
    if not isinstance(name, str):
        raise TypeError(f'topology: `name` must be a name such as "v5e:2x4", got {name!r}.')
    lower = name.lower().removesuffix(":1")
    kind, colon, size = lower.partition(":")
    if kind in _CARDS and (not colon or re.fullmatch(r"[1-9]\d*", size)):
        count = int(size or 1)
        if count > _PER_HOST and count % _PER_HOST:
            raise ValueError(
                f"topology: more than {_PER_HOST} cards are machines of {_PER_HOST} each, got {name!r}. Give a "
                f"multiple of {_PER_HOST}."
            )
        return f"{kind}:{count}"
    if kind in _SLICES and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        sizes = sorted(map(int, size.split("x")))
        largest = _SLICES[kind].largest
        if len(sizes) == len(largest) and all(one <= most for one, most in zip(sizes, largest, strict=True)):
            return lower
    why = " libtpu describes v4 otherwise than it is run." if kind == "v4" else ""
    raise ValueError(f"topology: there is no machine {name!r}; {_forms()}.{why}")


def _forms() -> str:
    slices = ", ".join(
        f'"{slices.example}" (at most {"x".join(map(str, slices.largest))})' for slices in _SLICES.values()
    )
    cards = ", ".join(f'"{card}" and "{card}:8"' for card in _CARDS)
    return f"there are slices of TPUs, as {slices}, and cards, as {cards}"


def _slice(name: str, size: str) -> list[Any]:
    sizes = tuple(map(int, size.split("x")))
    options: dict[str, Any] = {}
    if functools.reduce(lambda one, other: one * other, sizes) < 4:  # part of a host, which has 2 by 2 chips
        options["chips_per_host_bounds"] = (*sizes, 1)[:3]
    if jax.default_backend() != "tpu":  # without a chip libtpu would wait for a metadata server, and for its peers
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):
            raise RuntimeError(
                f"topology: {name!r} needs libtpu, which serves one process at a time, and another one uses it. Wait "
                f"until that has ended. If there is none, remove the file it has left. libtpu says: {error}"
            ) from error
        raise ValueError(f"topology: libtpu knows no machine {name!r}; {_forms()}. It says: {error}") from error
    except RuntimeError as error:  # JAX finds no libtpu
        raise _not_installed(name, "libtpu", "tpu") from error


def _cards(name: str, kind: str, count: int) -> list[Any]:
    hosts, each = (count // _PER_HOST, _PER_HOST) if count > _PER_HOST else (1, count)
    find = functools.partial(
        topologies.get_topology_desc,
        kind,
        platform="cuda",
        topology=f"1x{hosts}x{each}",  # partitions, hosts in each, cards in each
        target_config=_target(_CARDS[kind]),
    )
    try:
        return find().devices
    except NotImplementedError:  # JAX has no CUDA plugin; or it has left it out, since there is no card
        _start_plugin(name)
        return find().devices


def _start_plugin(name: str) -> None:
    """Gives JAX the CUDA plugin, of which only the compiler is used."""
    for plugin in _PLUGINS:
        try:
            module = importlib.import_module(plugin)
        except ImportError:
            continue
        with _without_checks():
            module.initialize()
        return
    raise _not_installed(name, "JAX's plugin for CUDA", "cuda")


@contextmanager
def _without_checks() -> Iterator[None]:
    """The plugin does not look for a driver, which is not there."""
    name = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _not_installed(name: str, what: str, extra: str) -> ImportError:
    return ImportError(
        f'topology: {name!r} needs {what}, which is not installed. Write pip install "jaxloop[{extra}]", or '
        f'pip install ".[{extra}]" from a checkout. Only compiling ahead for such a machine needs it here.'
    )


def _target(card: _Card) -> str:
    """XLA's `GpuTargetConfigProto` of a card, as text. The limits that are written out are those of all its cards."""
    major, minor = card.capability
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152
          shared_memory_per_core: {card.shared_per_core} shared_memory_per_block_optin: {card.shared_per_block}
          core_count: {card.cores} fpus_per_core: {card.units_per_core} clock_rate_ghz: {card.gigahertz}
          memory_bandwidth: {card.bandwidth} l2_cache_size: {card.cache} device_memory_size: {card.memory}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{card.name}"
    """
