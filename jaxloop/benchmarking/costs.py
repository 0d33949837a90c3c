"""What a program costs; what a chip can do at most, `chips` tells."""

from typing import Any

from jaxloop.chips import peak_flops as peak_flops
from jaxloop.programs.flops import flops_of, loops_in


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
