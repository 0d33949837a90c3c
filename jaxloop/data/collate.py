"""One batch from many samples: they are stacked, or padded first."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxloop.data.masked import plain_array


def collate(samples: Sequence[Any]) -> Any:
    """The samples as one batch: each leaf is stacked along a new leading axis.

    Args:
      samples: PyTrees of the same structure, with the same shape at each leaf. A list of numbers counts as an array.

    Returns:
      PyTree of NumPy arrays of shape (samples, ...).

    Raises:
      ValueError: there is no sample, or the samples differ in structure or shape.

    Example:
      >>> collate([{"image": [1, 2], "label": 0}, {"image": [3, 4], "label": 1}])["image"].tolist()
      [[1, 2], [3, 4]]
    """
    columns, paths, tree = _columns("collate", samples)
    for path, column in zip(paths, columns, strict=True):
        index = next((index for index, leaf in enumerate(column) if leaf.shape != column[0].shape), None)
        if index is not None:
            raise ValueError(
                f"collate: all samples of a batch must be of one shape; {path or 'the first'} is "
                f"{list(column[0].shape)}, and {list(column[index].shape)} in sample {index} (counted from 0). To pad "
                "them, give collate=functools.partial(pad_and_collate, pad_value=0)."
            )
    return tree.unflatten([np.stack(column) for column in columns])


def pad_and_collate(
    samples: Sequence[Any], pad_value: Any, at_start: bool = False, lengths: Sequence[int] | None = None
) -> Any:
    """The samples as one batch, padded to one shape first.

    Every axis is padded to the largest size in the batch. With `lengths`, the first axis of all leaves is padded to the
    smallest of the lengths that fits. So a program has no more shapes than there are lengths. Numbers are stacked.

    Args:
      samples: PyTrees of the same structure, with the same number of axes at each leaf. A list of numbers counts as an
        array.
      pad_value: the value to pad with: one number, or a PyTree of numbers that is the upper part of a sample, such as
        `{"text": 0, "label": -1}`. A leaf with None is only stacked, not padded.
      at_start: pads before the values, not after them.
      lengths: the lengths that the first axis may be padded to; None for any length.

    Returns:
      PyTree of NumPy arrays of shape (samples, ...).

    Raises:
      ValueError: there is no sample; the samples differ in structure or in the number of axes; a leaf cannot hold its
        pad value; or a sample is longer than all `lengths`.

    Example:
      >>> pad_and_collate([[1, 2, 3], [4]], pad_value=0).tolist()
      [[1, 2, 3], [4, 0, 0]]
      >>> pad_and_collate([[1, 2, 3], [4]], pad_value=0, at_start=True, lengths=(4, 8)).tolist()
      [[0, 1, 2, 3], [0, 0, 0, 4]]
    """
    columns, paths, tree = _columns("pad_and_collate", samples)
    values = _values_like(pad_value, tree)
    padded = [value is not None and column[0].ndim > 0 for value, column in zip(values, columns, strict=True)]
    shapes = [
        _common_shape(path, column, is_padded) for path, column, is_padded in zip(paths, columns, padded, strict=True)
    ]
    if lengths is not None and any(padded):
        length = _fitting(lengths, max(shape[0] for shape, is_padded in zip(shapes, padded, strict=True) if is_padded))
        shapes = [(length, *shape[1:]) if is_padded else shape for shape, is_padded in zip(shapes, padded, strict=True)]
    return tree.unflatten(
        [
            _filled(path, column, shape, value, at_start) if is_padded else np.stack(column)
            for path, column, shape, value, is_padded in zip(paths, columns, shapes, values, padded, strict=True)
        ]
    )


def _columns(where: str, samples: Sequence[Any]) -> tuple[list[list[np.ndarray]], list[str], Any]:
    """The values of each leaf in all samples, the paths of the leaves, and the structure of a sample."""
    if not len(samples):
        raise ValueError(f"{where}: a batch must have at least one sample, got none.")
    paths, tree = jax.tree_util.tree_flatten_with_path(samples[0], is_leaf=_is_numbers)
    rows = []
    for index, sample in enumerate(samples):
        leaves, found = jax.tree.flatten(sample, is_leaf=_is_numbers)
        if found != tree:
            raise ValueError(
                f"{where}: all samples must be of one structure; the first is {tree}, sample {index} (counted from 0) "
                f"is {found}."
            )
        rows.append([plain_array(where, leaf) for leaf in leaves])
    columns = [_of_one_dtype(list(column)) for column in zip(*rows, strict=True)]
    return columns, [jax.tree_util.keystr(path) for path, _ in paths], tree


def _is_numbers(node: Any) -> bool:
    """Whether it is a list that means an array: a list of numbers, or of such lists."""
    return isinstance(node, list) and all(np.isscalar(part) or _is_numbers(part) for part in node)


def _of_one_dtype(column: list[np.ndarray]) -> list[np.ndarray]:
    """The column in one dtype. NumPy makes an empty list float64: here it takes the dtype of the others."""
    full = [leaf for leaf in column if leaf.size]
    if not full or len(full) == len(column):
        return column
    dtype = np.result_type(*full)
    return [leaf if leaf.size else leaf.astype(dtype) for leaf in column]


def _values_like(pad_value: Any, tree: Any) -> list[Any]:
    """A pad value for each leaf of a sample of structure `tree`."""
    sample = tree.unflatten(range(tree.num_leaves))
    values: list[Any] = [None] * tree.num_leaves

    def spread(value: Any, below: Any) -> None:
        for index in jax.tree.leaves(below):
            values[index] = value

    try:
        jax.tree.map(spread, pad_value, sample, is_leaf=lambda node: node is None)
    except ValueError as error:
        raise ValueError(
            f"pad_and_collate: `pad_value` must be a number or a tree that is the upper part of a sample, {tree}; "
            f"got {pad_value!r:.80}. Put None where nothing is to be padded."
        ) from error
    return values


def _common_shape(path: str, column: list[np.ndarray], is_padded: bool) -> tuple[int, ...]:
    shapes = {leaf.shape for leaf in column}
    if len({len(shape) for shape in shapes}) > 1 or (len(shapes) > 1 and not is_padded):
        fix = "the same number of axes" if is_padded else "one shape where `pad_value` is None"
        listed = ", ".join(str(list(shape)) for shape in sorted(shapes)[:4])
        raise ValueError(f"pad_and_collate: all samples must have {fix}; {path or 'the samples'} have shapes {listed}.")
    return tuple(int(size) for size in np.max([leaf.shape for leaf in column], axis=0))


def _fitting(lengths: Sequence[int], size: int) -> int:
    fitting = [length for length in lengths if length >= size]
    if not fitting:
        raise ValueError(
            f"pad_and_collate: a sample must fit into one of `lengths` {tuple(lengths)}, got one of size {size}. Add "
            "a larger length, or cut the sample."
        )
    return min(fitting)


def _filled(path: str, column: list[np.ndarray], shape: tuple[int, ...], value: Any, at_start: bool) -> np.ndarray:
    dtype = np.result_type(*column)
    if np.ndim(value) or not np.can_cast(np.min_scalar_type(value), dtype, "same_kind") or not _holds(dtype, value):
        raise ValueError(f"pad_and_collate: {path or 'the samples'} of {dtype} cannot hold the pad value {value!r}.")
    batch = np.full((len(column), *shape), value, dtype)
    for row, leaf in zip(batch, column, strict=True):
        region = tuple(
            slice(size - used, size) if at_start else slice(used) for size, used in zip(shape, leaf.shape, strict=True)
        )
        row[region] = leaf
    return batch


def _holds(dtype: np.dtype, value: Any) -> bool:
    """Whether an integer dtype can hold a whole number. Every other dtype can."""
    if dtype.kind not in "iu":
        return True
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
