"""How fast the training of an epoch went: examples per second, the share of the chips' peak, and device memory."""

from jaxloop.views import Columns

#: Columns that come from clocks and from the state of a device: they differ between two equal runs.
MEASURED_OUTSIDE = ("seconds", "examples_per_second", "mfu", "peak_memory_bytes")


def training_speed(rows: Columns | None, count: int, seconds: float) -> dict[str, float]:
    """What a training of `count` steps in so many seconds tells, by the names of columns; only what is known.

    - `examples_per_second`.
    - `mfu`: the FLOP/s of the steps as a share of the largest that the devices have in bfloat16, as `jaxloop.chips` has
      it. It is known only for chips that are listed there. FLOPs are counted in the program of the step, before XLA
      leaves out any. What `jax.remat` computes again counts too, and a kernel in another language counts nothing.
    - `peak_memory_bytes`: the most bytes that a device of this process has had in use since the process began.

    Args:
      rows: any rows of the training; None if there were none.
      count: how many steps counted.
      seconds: without those of compiling.

    Example:
      >>> training_speed(columns, 100, 2.0)  # rows of batches of 32
      {'examples_per_second': 1600.0}
    """
    if rows is None or not count:
        return {}
    seconds = max(seconds, 1e-9)
    found: dict[str, float] = {"examples_per_second": count * rows.batch_size / seconds}
    if rows.cost is not None and rows.cost.seconds is not None:
        found["mfu"] = count * rows.cost.seconds / seconds
    memory = None if rows.cost is None else rows.cost.memory()
    if memory is not None:
        found["peak_memory_bytes"] = memory
    return found
