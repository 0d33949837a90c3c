"""What a program costs: its FLOPs, loops counted as often as they run, and what a chip could do at most."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun  # pyright: ignore[reportPrivateImportUsage]

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


def flops_of(program: ClosedJaxpr) -> float | None:
    """The FLOPs of a traced program, as XLA counts them before it optimizes; nothing is compiled.

    XLA counts the body of a loop once. Here the body of a `scan` counts as often as it runs.

    Args:
      program: as `jitted.trace(*arguments).jaxpr` or `jax.make_jaxpr(function)(*arguments)`.

    Returns:
      FLOPs, or None where nobody knows: there is a loop of no fixed length, or a scan in a branch.

    Example:
      >>> flops_of(jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((8, 4)), jnp.ones((4, 2))))
      128.0
    """
    total = _counted_once(program)
    for length, body in _scans(program.jaxpr):
        of_body = None if body is None else flops_of(body)
        if body is None or of_body is None:
            return None
        total += length * of_body - _counted_once(body)
    return total


def costs_of(traced: Any) -> tuple[float | None, float | None]:
    """FLOPs of a traced function, and the bytes it moves once it is optimized, for which it is compiled if need be.

    Args:
      traced: as `jitted.trace(*arguments)`; where nothing is known of it, as of None, neither is.

    Returns:
      FLOPs, or None, as `flops_of`; bytes on one device, or None where there is a loop, of which XLA counts one turn.
    """
    traced = getattr(traced, "traced", traced)  # of `nnx.jit`: what it has inside
    program = getattr(traced, "jaxpr", None)
    if program is None:
        return None, None
    if has_loop(program):
        return flops_of(program), None
    counts = traced.lower().compile().cost_analysis() or {}
    return flops_of(program), counts.get("bytes accessed")


def has_loop(program: ClosedJaxpr) -> bool:
    """Whether a traced program holds a loop, so that XLA's own counts are of one turn."""
    return any(True for _ in _scans(program.jaxpr))


def _counted_once(program: ClosedJaxpr) -> float:
    avals: list[Any] = list(program.in_avals)
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    costs = jax.jit(jaxpr_as_fun(program)).lower(*arguments).cost_analysis()
    return float((costs or {}).get("flops", 0.0))


def _scans(program: Jaxpr, *, in_branch: bool = False) -> Iterator[tuple[int, ClosedJaxpr | None]]:
    """The outermost loops of a program: length and body; None for one whose turns cannot be told."""
    for equation in program.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "while" or (name == "scan" and in_branch):
            yield 0, None
        elif name == "scan":
            yield params["length"], params["jaxpr"]
        else:
            for inner in map(_program_in, jax.tree.leaves(list(params.values()), is_leaf=_is_program)):
                if inner is not None:
                    yield from _scans(inner, in_branch=in_branch or name == "cond")


def _is_program(value: Any) -> bool:
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def _program_in(value: Any) -> Jaxpr | None:
    if isinstance(value, ClosedJaxpr):
        return value.jaxpr
    return value if isinstance(value, Jaxpr) else None
