"""What a program costs, and what a chip could do at most."""

from typing import Any

from jaxloop.programs.flops import flops_of, loops_in

#: FLOP/s in bfloat16, without sparsity, of one JAX device by its `device_kind`. Of TPU v2, v3 and 7x a device is one of
#: the chip's two cores, and so has half of the chip's figure. Sources: docs.cloud.google.com/tpu/docs, on each version;
#: the data sheets of NVIDIA, which for A100 and later also print twice that, with sparsity. The T4 has float16 instead.
_TPUS = {
    "TPU v2": 23e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}
#: The same by words of which `device_kind` holds all; the first that fit count.
_GPUS = {
    ("H200", "NVL"): 835e12,
    ("H200",): 989e12,
    ("H100", "PCIe"): 756e12,
    ("H100", "NVL"): 835e12,
    ("H100",): 989e12,
    ("A100",): 312e12,
    ("L40S",): 362e12,
    ("L4",): 121e12,
    ("T4",): 65e12,
}


def peak_flops(device_kind: str) -> float | None:
    """The most FLOP/s that a device does in bfloat16; None where that is not known, as of a CPU.

    Args:
      device_kind: as `jax.devices()[0].device_kind`.

    Example:
      >>> peak_flops("NVIDIA H100 80GB HBM3") / 1e12
      989.0
    """
    if device_kind in _TPUS:
        return _TPUS[device_kind]
    found = set(device_kind.replace("-", " ").split())
    return next((peak for words, peak in _GPUS.items() if found.issuperset(words)), None)


def costs_of(traced: Any) -> tuple[float | None, float | None]:
    """FLOPs of a traced function, and the bytes it moves once it is optimized, for which it is compiled if need be.

    Args:
      traced: as `jitted.trace(*arguments)`; where nothing is known of it, as of None, neither is.

    Returns:
      FLOPs as `flops_of` counts them, or None where there is a loop of no fixed length; bytes on one device, or None
      where there is a loop, of which XLA counts one turn.
    """
    traced = getattr(traced, "traced", traced)  # of `nnx.jit`: what it has inside
    program = getattr(traced, "jaxpr", None)
    if program is None:
        return None, None
    loops = loops_in(program)
    flops = None if "while" in loops else flops_of(program)
    if loops:
        return flops, None
    counts = traced.lower().compile().cost_analysis() or {}
    return flops, counts.get("bytes accessed")
