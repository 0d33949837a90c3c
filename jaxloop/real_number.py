"""A real number, as many arguments must be."""

from typing import Any


def real_number(where: str, value: Any) -> float:
    """The value as a Python float, so that no dtype of it can become that of what it is used with.

    Args:
      where: the argument, such as "ema: `decay`", for the message.
      value: what was given. Neither a bool nor a string is a number.

    Raises:
      TypeError: it is no number.
    """
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where} must be a number, got {value!r}.") from None
