"""What came, in a message: on one line, and short."""

from typing import Any

import numpy as np

_MOST = 60


def brief(value: Any) -> str:
    """A value as a message names it: its repr if that is short, else its type.

    Example:
      >>> brief("adam"), brief(print), brief([0] * 100), brief(np.zeros((2, 3), np.float32))
      ("'adam'", 'the function print', 'a list of 100', 'float32[2, 3]')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and isinstance(shape, tuple):
        return f"{dtype}{list(np.shape(value))}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    try:
        text = repr(value)
    except Exception:  # a message must not fail for a foreign repr
        text = ""
    if text and len(text) <= _MOST and "\n" not in text:
        return text
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
