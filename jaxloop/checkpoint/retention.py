"""Which checkpoints stay: the newest ones, and the best."""

import math
from collections.abc import Mapping


def kept(values: Mapping[int, float | None], *, keep: int, mode: str | None) -> set[int]:
    """The ordinals of the checkpoints that stay: the newest `keep`, and the best.

    Args:
      values: the value of each checkpoint, by its ordinal.
      keep: how many of the newest.
      mode: `"min"` or `"max"`, which values are better; None keeps no best.
    """
    first = best(values, mode)
    return set(sorted(values)[-keep:]) | (set() if first is None else {first})


def best(values: Mapping[int, float | None], mode: str | None) -> int | None:
    """The ordinal with the best value, None if there is none. NaN and infinities never count.

    Of equal values the first counts: what is no better does not take its place, as with early stopping.
    """
    if mode is None:
        return None
    sign = 1 if mode == "min" else -1
    measured = ((value, ordinal) for ordinal, value in values.items() if value is not None and math.isfinite(value))
    return min(((sign * value, ordinal) for value, ordinal in measured), default=(0.0, None))[1]
