"""Samples: arrays with one leading axis, or a source that is read one sample at a time."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.data.masked import plain_array

#: PyTree of arrays with one leading axis, or a source: a list, or any object with `__len__` and `__getitem__`.
Samples = Any


@dataclass(frozen=True, eq=False)
class OneByOne:
    """Samples as a sequence of single samples. Each is read when it is indexed.

    Attributes:
      samples: a source, or arrays with one leading axis.
    """

    samples: Samples

    def __len__(self) -> int:
        return count_of(self.samples)

    def __getitem__(self, index: int) -> Any:
        if is_source(self.samples):
            return self.samples[index]
        return jax.tree.map(lambda leaf: leaf[index], self.samples)

    def rows(self, order: np.ndarray | None, rows: slice) -> list[Any]:
        """The samples at the positions `rows` in an order; without one, in their own order."""
        indices = range(*rows.indices(len(self))) if order is None else order[rows].tolist()
        return [self[index] for index in indices]

    def sizes(self, where: str, size: Callable[[Any], Any]) -> np.ndarray:
        """float64[N]: the `size` of each sample. It reads all samples.

        Raises:
          ValueError: a size is not a number.
        """
        sizes = np.empty(len(self))
        for index in range(len(self)):
            sample = self[index]
            try:
                if size is len and isinstance(sample, (tuple, Mapping)):
                    raise TypeError("`len` would count the parts of a sample, and every sample has as many")
                sizes[index] = size(sample)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{where}: `size` must give a number for each sample, but for sample {index}, of type "
                    f"{type(sample).__name__}: {error}. For samples of several parts give, for instance, "
                    "size=lambda sample: len(sample[0])."
                ) from error
        return sizes


def is_source(samples: Samples) -> bool:
    """Whether the samples are read one at a time: a list or an object, but not an array, a tuple or a dict."""
    if isinstance(samples, list):
        return True
    if isinstance(samples, (str, bytes, Mapping)) or hasattr(samples, "__array__"):
        return False
    is_sequence = hasattr(samples, "__len__") and hasattr(samples, "__getitem__")
    # A tuple, a named tuple or another node of a PyTree has these methods too, but is a tree of arrays.
    return is_sequence and jax.tree_util.all_leaves([samples])


def count_of(samples: Samples) -> int:
    """How many samples there are."""
    return len(samples) if isinstance(samples, OneByOne) or is_source(samples) else len(jax.tree.leaves(samples)[0])


def checked(where: str, samples: Samples, batch_size: int) -> tuple[Samples, int]:
    """The samples, with arrays as NumPy arrays, and their number.

    Raises:
      ValueError: leaves have unequal lengths, are sparse or masked, there is no sample, or the batch size is below 1.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"{where}: `batch_size` must be a whole number of at least 1, got {batch_size!r}.")
    _check_dense(where, samples)
    if not is_source(samples):
        _check_no_lists(where, samples)
        samples = jax.tree.map(functools.partial(plain_array, where), samples)
        _check_leading_axis(where, samples)
    count = count_of(samples)
    if not count:
        raise ValueError(f"{where}: there are no samples.")
    return samples, count


def check_epochs(where: str, samples: Samples, batch_size: int, seed: int) -> Samples:
    """The samples of training epochs, with arrays as NumPy arrays.

    Raises:
      ValueError: as in `checked`; or the batch size is above the number of samples, or the seed is below 0.
    """
    samples, count = checked(where, samples, batch_size)
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"{where}: `seed` must be a whole number of at least 0, got {seed!r}.")
    if batch_size > count:
        hint = " A list is one sample an item; give arrays that belong together as a tuple."
        raise ValueError(
            f"{where}: `batch_size` must be at most the number of samples, {count}, "
            f"got {batch_size}; an epoch would have no batch.{hint if isinstance(samples, list) else ''}"
        )
    return samples


def _check_dense(where: str, samples: Any) -> None:
    """Refuses sparse matrices, which NumPy would take for single objects."""
    if isinstance(samples, list):  # each item is a sample, and may be anything
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(samples):
        if hasattr(leaf, "toarray"):
            at = jax.tree_util.keystr(path) or "it"
            raise ValueError(f"{where}: samples must be arrays, but {at} is a sparse matrix. Write matrix.toarray().")


def _check_no_lists(where: str, samples: Any) -> None:
    """Refuses lists of numbers, which are trees to JAX: each number would be an array of its own."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(samples):
        if isinstance(leaf, (bool, int, float, str)) and len(path) > 1:
            at = jax.tree_util.keystr(path[:1])
            raise ValueError(
                f"{where}: all samples' arrays must share one leading axis, but {at} is a list of "
                f"{type(leaf).__name__}s, not an array. Make lists into arrays, by numpy.asarray."
            )


def _check_leading_axis(where: str, samples: Any) -> None:
    lengths = {
        jax.tree_util.keystr(path): len(leaf) if leaf.ndim else None
        for path, leaf in jax.tree_util.tree_leaves_with_path(samples)
    }
    if len(set(lengths.values())) == 1 and None not in lengths.values():
        return
    listed = [f"{path or 'samples'}: {length}" for path, length in lengths.items()] or ["no array"]
    found = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
    raise ValueError(
        f"{where}: all samples' arrays must share one leading axis, got lengths {found}. "
        "Make lists into arrays, by numpy.asarray."
    )
