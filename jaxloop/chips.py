"""What a chip is: how much memory a JAX device has, and how fast it computes at most."""

from collections.abc import Callable
from typing import NamedTuple


class Chip(NamedTuple):
    """A JAX device, as its data sheet tells.

    Attributes:
      flops: FLOP/s in bfloat16 without sparsity; the T4's are for float16.
      memory: bytes of its high-bandwidth memory.
    """

    flops: float
    memory: int


class StepCost(NamedTuple):
    """What a training step takes of the devices of a run, as far as it is known.

    Attributes:
      seconds: how long a step would take if every device computed at its largest FLOP/s.
      memory: gives the most bytes that a device of this process has had in use so far; None if the backend does not
        tell, as that of a CPU.
    """

    seconds: float | None = None
    memory: Callable[[], int | None] = lambda: None


_GIB = 2**30
_GB = 10**9
#: By `device_kind`. On TPU v2, v3 and 7x a device is one of the chip's two cores, and has half of what the chip has.
#: Sources: https://docs.cloud.google.com/tpu/docs/v2, v3, v4, v5e, v5p, v6e and tpu7x, the table "specifications".
_TPUS = {
    "TPU v2": Chip(23e12, 8 * _GIB),
    "TPU v3": Chip(61.5e12, 16 * _GIB),
    "TPU v4": Chip(275e12, 32 * _GIB),
    "TPU v5 lite": Chip(197e12, 16 * _GIB),
    "TPU v5e": Chip(197e12, 16 * _GIB),
    "TPU v5": Chip(459e12, 95 * _GIB),
    "TPU v5p": Chip(459e12, 95 * _GIB),
    "TPU v6 lite": Chip(918e12, 32 * _GIB),
    "TPU v6e": Chip(918e12, 32 * _GIB),
    "TPU7x": Chip(1153.5e12, 96 * _GIB),
}
#: The same for GPUs. The first entry counts whose words are all in `device_kind`. Sources: NVIDIA's data sheets, which
#: for A100 and later also print twice the FLOP/s, with sparsity: https://www.nvidia.com/en-us/data-center/h100, h200,
#: a100, l40s, l4 and tesla-t4.
_GPUS = {
    ("H200", "NVL"): Chip(835e12, 141 * _GB),
    ("H200",): Chip(989e12, 141 * _GB),
    ("H100", "PCIe"): Chip(756e12, 80 * _GB),
    ("H100", "NVL"): Chip(835e12, 94 * _GB),
    ("H100",): Chip(989e12, 80 * _GB),
    ("A100", "80GB"): Chip(312e12, 80 * _GB),
    ("A100",): Chip(312e12, 40 * _GB),
    ("L40S",): Chip(362e12, 48 * _GB),
    ("L4",): Chip(121e12, 24 * _GB),
    ("T4",): Chip(65e12, 16 * _GB),
}


def peak_flops(device_kind: str) -> float | None:
    """The largest FLOP/s of a device in bfloat16; None if it is not known, as for a CPU.

    Args:
      device_kind: as `jax.devices()[0].device_kind`.

    Example:
      >>> peak_flops("NVIDIA H100 80GB HBM3") / 1e12
      989.0
    """
    chip = _chip(device_kind)
    return None if chip is None else chip.flops


def memory_of(device_kind: str) -> int | None:
    """The bytes of memory of a device; None if that is not known, as for a CPU.

    A program can use a little less, since the runtime keeps some: libtpu's compiler takes 15.75 of 16 GiB on a v5e. On
    a GPU, JAX asks for 75% by default, see `XLA_PYTHON_CLIENT_MEM_FRACTION`.

    Args:
      device_kind: as `jax.devices()[0].device_kind`.

    Example:
      >>> memory_of("TPU v5 lite") / 2**30
      16.0
    """
    chip = _chip(device_kind)
    return None if chip is None else chip.memory


def _chip(device_kind: str) -> Chip | None:
    if device_kind in _TPUS:
        return _TPUS[device_kind]
    found = set(device_kind.replace("-", " ").split())
    return next((chip for words, chip in _GPUS.items() if found.issuperset(words)), None)
