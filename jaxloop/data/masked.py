"""Masked arrays: `numpy.asarray` drops their masks without a word, so they are looked for first."""

from typing import Any

import numpy as np


def plain_array(where: str, value: Any) -> np.ndarray:
    """The value as a plain array of NumPy, not copied.

    Raises:
      ValueError: it is a masked array in which something is masked.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = int(np.ma.count_masked(value))
        raise ValueError(
            f"{where}: a masked array, of {value.dtype.name}{list(value.shape)}, has {count} masked "
            f"value{'s'[: count > 1]}, and JAX knows no masks. Fill it, as array.filled(0). To leave examples out, "
            "give each a weight, 0 or 1, as the third part of a batch."
        )
    return np.asarray(value)
