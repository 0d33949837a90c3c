"""What a program costs, and what a chip can do at most."""

from typing import Any

from jaxloop.programs.flops import flops_of, loops_in

#: FLOP/s in bfloat16, without sparsity, of one JAX device by its `device_kind`. On TPU v2, v3 and 7x a device is one of
#: the chip's two cores, and has half of the chip's FLOP/s. Sources: docs.cloud.google.com/tpu/docs, on each version;
#: NVIDIA's data sheets, which for A100 and later also print twice the number, with sparsity. The T4's is for float16.
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
#: The same for GPUs. The first entry counts whose words are all in `device_kind`.
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
    """The largest FLOP/s of a device in bfloat16; None if it is not known, as for a CPU.

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
    """The FLOPs of a traced function, and the bytes that the optimized program moves. It is compiled if necessary.

    Args:
      traced: the result of `jitted.trace(*arguments)`. For None, or anything else without a program, both are None.

    Returns:
      FLOPs as `flops_of` counts them, or None if there is a loop without a fixed length; bytes on one device, or None
      if there is a loop, since XLA counts only one turn of it.
    """
    traced = getattr(traced, "traced", traced)  # `nnx.jit` wraps JAX's own object
    program = getattr(traced, "jaxpr", None)
    if program is None:
        return None, None
    loops = loops_in(program)
    flops = None if "while" in loops else flops_of(program)
    if loops:
        return flops, None
    counts = traced.lower().compile().cost_analysis() or {}
    return flops, counts.get("bytes accessed")
