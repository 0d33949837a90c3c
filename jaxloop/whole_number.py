"""A whole number of at least 1, as many arguments must be."""

from typing import Any

import numpy as np

#: The largest number that a loop counts to, in its int32.
MOST = 2**31 - 1


def whole_number(where: str, value: Any) -> int:
    """The value as a Python int.

    Args:
      where: the argument, such as "ImageSaver: `count`", for the message.
      value: what was given. A bool is no number.

    Raises:
      ValueError: it is not a whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{where} must be a whole number of at least 1, got {value!r}.")
    return int(value)
