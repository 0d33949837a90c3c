"""How many steps one dispatch takes: decided from what is known before, never by a stopwatch."""

import math
from dataclasses import dataclass

#: Work that a dispatch may carry: FLOPs, by platform. On accelerators it is so much that sending it costs next to
#: nothing in comparison. On a CPU it is about a second: a step in a loop is as fast as a single one, or faster.
FLOPS_A_DISPATCH = {"cpu": 4e10, "gpu": 2e10, "tpu": 1e11}
#: Work that may be sent before earlier work is done, FLOPs: about ten milliseconds of a CPU core.
FLOPS_AHEAD = 5e8
#: More steps than this save nothing more.
MOST_STEPS = 32
#: Stacked batches may take so much memory, in bytes.
MOST_BYTES = 2**26


@dataclass(frozen=True)
class Fusing:
    """How many steps one program takes in a phase, and why.

    Attributes:
      steps: at least 1. What is left at the end of the phase is taken by a second, smaller program.
      why: for a person.
    """

    steps: int
    why: str


def steps_per_dispatch(
    *,
    flops: float,
    batch_bytes: int,
    batch_count: int,
    platform: str,
    slow_in_loops: bool = False,
    parts: int = 1,
) -> Fusing:
    """What `steps_per_dispatch="auto"` means for a phase. A pure function, so that a run can be repeated.

    As many steps as make a dispatch worth sending, at most `MOST_STEPS`. A number that divides the phase is preferred,
    so that one program serves all of it.

    Args:
      flops: of one step.
      batch_bytes: size of one batch.
      batch_count: batches in the phase.
      platform: `"cpu"`, `"gpu"` or `"tpu"`.
      slow_in_loops: whether the step has convolutions that the platform would run slowly inside a loop.
      parts: into how many parts devices with work of their own divide a step.
    """
    if slow_in_loops:
        return Fusing(1, f"a {platform} runs convolutions slowly inside a loop, and these cannot be rewritten")
    worth = FLOPS_A_DISPATCH.get(platform, FLOPS_A_DISPATCH["gpu"])
    wanted = min(
        MOST_STEPS, math.ceil(worth / max(flops / parts, 1)), max(1, MOST_BYTES // max(batch_bytes, 1)), batch_count
    )
    steps = _dividing(wanted, batch_count)
    size = f"a step has {flops / parts:.3g} FLOPs" + (" on each device" if parts > 1 else "")
    if steps == 1:
        return Fusing(1, f"{size}, work enough for a dispatch")
    whole = ", which divide the phase," if batch_count % steps == 0 else ""
    return Fusing(steps, f"{size}; {steps} of them{whole} make a dispatch for a {platform}")


def steps_ahead(flops: float) -> int:
    """How many single steps of so many FLOPs may be sent before the host waits for the first of them, at least 1.

    A host that waits for each step must be woken by the operating system. If other processes are at work, that takes
    longer than a small step. A large step needs no other step queued before it, and each step sent holds its batch in
    memory.
    """
    return max(1, min(MOST_STEPS, int(FLOPS_AHEAD / max(flops, 1))))


def _dividing(wanted: int, batch_count: int) -> int:
    """The largest number from half of `wanted` to `wanted` that divides `batch_count`; `wanted` if none does."""
    candidates = range(wanted, wanted // 2, -1)
    return next((steps for steps in candidates if batch_count % steps == 0), wanted)
