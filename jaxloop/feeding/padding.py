"""Padding: the batches of an evaluation weighted, and the last as large as the first: one program serves them all."""

from typing import Any

import jax
import numpy as np

from jaxloop.feeding.specification import Batch, rows_of


def padded(batch: Batch, size: int, axes: int = 1) -> Batch:
    """The batch weighted, and filled up to `size` examples by its last one, of which no copy weighs anything.

    What is no stack of examples, such as several graphs in one, cannot be filled, and stays as it is.

    Args:
      batch: (input, target, weight); where the weight is None, each example weighs 1.
      size: examples in a full batch.
      axes: how many leading axes count examples; where there are several, all batches are full.
    """
    input, target, weight = batch
    rows = rows_of((input, target), axes)
    if rows is None:
        return batch
    shape = jax.tree.leaves(input)[0].shape[:axes]
    weight = np.ones(shape, np.float32) if weight is None else weight
    missing = size - rows
    if missing <= 0:
        return input, target, weight

    def fill(leaf: Any) -> Any:
        return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), missing, axis=0)])

    nothing = np.zeros((missing, *weight.shape[1:]), weight.dtype)
    return *jax.tree.map(fill, (input, target)), np.concatenate([weight, nothing])
