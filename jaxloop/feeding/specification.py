"""What batches are like: their parts, and the structure, shapes and dtypes that all of them share."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = tuple[Any, Any, Any]
_OF_STRINGS = "number them, as numpy.unique({part}, return_inverse=True)[1]; of a pandas categorical take its codes."
#: What an array holds that has no numbers, and the fix, by `numpy.dtype.kind`.
_WITHOUT_NUMBERS = {
    "O": (" (objects)", f"Convert it, as array.astype(numpy.float32); strings and categories: {_OF_STRINGS}"),
    **dict.fromkeys("SUT", (" (strings)", _OF_STRINGS.replace("number", "Number", 1))),
    **dict.fromkeys("Mm", (" (times)", "Convert it, as (times - times.min()) / numpy.timedelta64(1, 'D').")),
    "V": (" (records)", "Give a mapping of its fields, as {{name: array[name] for name in array.dtype.names}}."),
    "": ("", "Convert it to the byte order of this machine, as array.astype(numpy.float32)."),
}
_NO_NUMBERS = "OSUTMm"  # objects, strings and times, by `numpy.dtype.kind`


def parts_of(batch: Any, batch_keys: Sequence[str] | None, where: str, *, inputs_alone: bool = False) -> Batch:
    """(input, target, weight) of a batch as a user gives it; the weight may be None.

    Args:
      batch: what was given.
      batch_keys: names of the parts, if it is a mapping.
      where: what the user calls the data.
      inputs_alone: whether a batch is only the input, unless it is a tuple, a list, or a mapping with `batch_keys`.

    Raises:
      ValueError: it is neither (input, target), (input, target, weight), nor a mapping that has `batch_keys`.
    """
    if inputs_alone and not isinstance(batch, (tuple, list)) and not (batch_keys and isinstance(batch, Mapping)):
        return batch, None, None
    if type(batch) is not tuple and isinstance(batch, Mapping):
        mapping: Mapping[Any, Any] = batch
        if batch_keys is None:
            raise ValueError(
                f"{where}: a batch is a mapping of {', '.join(map(str, mapping))}; say which of them are input and "
                "target, as TrainingLoop(..., batch_keys=('image', 'label'))."
            )
        missing = [key for key in batch_keys if key not in mapping]
        if missing:
            has = ", ".join(map(str, mapping))
            raise ValueError(f"{where}: a batch has no {missing[0]!r}; it has {has}. Give batch_keys among these.")
        batch = tuple(mapping[key] for key in batch_keys)
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"{where}: a batch must be (input, target) or (input, target, weight), got {what}.")
    return (*batch, None) if len(batch) == 2 else tuple(batch)


def rows_of(batch: Any, axes: int = 1) -> int | None:
    """How many examples are stacked in a batch, along the last of its leading `axes`; None if its arrays differ.

    They differ if a batch holds several graphs: nodes, edges and targets each have an axis of their own.
    """
    counts = {leaf.shape[axes - 1] for leaf in jax.tree.leaves(batch)}
    return counts.pop() if len(counts) == 1 else None


class Weak(NamedTuple):
    """The dtype of an array of weak type. JAX compiles another program for it."""

    dtype: Any

    @property
    def name(self) -> str:
        """For messages."""
        return f"weakly typed {self.dtype.name}"


class Specification(NamedTuple):
    """What batches have in common: the structure of their parts, and path, shape and dtype of each array."""

    tree: Any
    leaves: tuple[tuple[str, tuple[int, ...], Any], ...]

    @property
    def kinds(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array."""
        return [(shape, dtype.dtype if isinstance(dtype, Weak) else dtype) for _, shape, dtype in self.leaves]

    @property
    def nbytes(self) -> int:
        """Bytes of a batch."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.kinds)

    @property
    def abstract(self) -> Any:
        """A batch of shapes and dtypes, as programs take it."""
        return self.tree.unflatten(
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype)) for shape, dtype in self.kinds
        )

    @property
    def batch_size(self) -> int:
        """How many examples a batch has; 1 if it holds no array.

        The weight counts them, or else the target: if a batch holds several graphs, its input counts nodes.
        """
        counting = (
            shape for part in ("weight", "target", "input") for path, shape, _ in self.leaves if path.startswith(part)
        )
        return next(counting, (1,))[0]

    @property
    def weight(self) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and dtype of the weight; None if there is none."""
        return self.kinds[-1] if self.leaves and self.leaves[-1][0].startswith("weight") else None

    def without_weight(self) -> "Specification":
        """The specification of (input, target) only."""
        leaves = tuple(leaf for leaf in self.leaves if not leaf[0].startswith("weight"))
        return Specification(jax.tree_util.treedef_tuple(self.tree.children()[:2]), leaves)

    def with_weight(self, shape: tuple[int, ...], dtype: np.dtype) -> "Specification":
        """The specification with a weight, for batches that had none."""
        tree = jax.tree_util.treedef_tuple([*self.tree.children()[:2], jax.tree.structure(0)])
        return Specification(tree, (*self.leaves, ("weight", shape, dtype)))

    def resized(self, batch_size: int) -> "Specification":
        """The specification of batches of another size; itself if the arrays do not share one size."""
        sizes = {shape[0] for _, shape, _ in self.leaves}
        if len(sizes) != 1:
            return self
        resized = ((path, (batch_size, *shape[1:]), dtype) for path, shape, dtype in self.leaves)
        return Specification(self.tree, tuple(resized))

    def is_bucketed_as(self, other: "Specification", lengths: tuple[int, ...] | None) -> bool:
        """Whether the two differ only in axes whose lengths are among `lengths`."""
        if lengths is None or self.tree != other.tree:
            return False

        def alike(one: int, another: int) -> bool:
            return one == another or (one in lengths and another in lengths)

        return all(
            dtype == other_dtype
            and len(shape) == len(other_shape)
            and shape[0] == other_shape[0]
            and all(map(alike, shape[1:], other_shape[1:]))
            for (_, shape, dtype), (_, other_shape, other_dtype) in zip(self.leaves, other.leaves, strict=True)
        )


def specification(batch: Any, where: str = "batch", axes: int = 1) -> Specification:
    """The specification of (input, target[, weight]), or of several of them stacked along further leading axes.

    Raises:
      ValueError: something in it is no array with a leading axis of examples.
    """
    names = ("input", "target", "weight")
    paths, tree = jax.tree_util.tree_flatten_with_path(batch)
    leaves: list[tuple[str, tuple[int, ...], Any]] = []
    for path, leaf in paths:
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        if np.ndim(leaf) < axes:
            raise ValueError(
                f"{where}: {name} must be an array whose first axis counts examples, got {type(leaf).__name__} "
                f"{leaf!r:.60}. Make lists into arrays, by numpy.asarray; of single examples make batches, by "
                "jaxloop.TrainingEpochs or jaxloop.in_batches."
            )
        dtype = Weak(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf.dtype
        leaves.append((name, leaf.shape[axes - 1 :], dtype))
    return Specification(tree, tuple(leaves))


def check_dtypes(found: Specification, where: str) -> None:
    """Refuses arrays that JAX cannot take.

    Raises:
      ValueError: an array holds no numbers, or numbers in a foreign byte order.
    """
    for (path, *_), (_, dtype) in zip(found.leaves, found.kinds, strict=True):
        # The dtype of a typed PRNG key is none of NumPy's, and has none of the three.
        records = getattr(dtype, "names", None) is not None
        if getattr(dtype, "kind", "V") in _NO_NUMBERS or records or not getattr(dtype, "isnative", True):
            kind, fix = _WITHOUT_NUMBERS.get(dtype.kind, _WITHOUT_NUMBERS[""])
            part = "labels" if path.startswith("target") else "array"
            raise ValueError(
                f"{where}: {path} has the dtype {dtype.str!r}{kind}, which JAX does not compute with. "
                f"{fix.format(part=part)}"
            )


def difference(found: Specification, expected: Specification, first: Specification) -> str:
    """How a batch differs from what it must be: in its structure, or in its first leaf that is not as in `first`."""
    if found.tree != expected.tree:
        return f"its structure was {expected.tree} there, now it is {found.tree}"
    triples = zip(found.leaves, expected.leaves, first.leaves, strict=True)
    (path, shape, dtype), _, (_, full, first_dtype) = next(triple for triple in triples if triple[0] != triple[1])
    return f"{path} was {first_dtype.name}{list(full)} there, now it is {dtype.name}{list(shape)}"


def of_lengths(batch: Any, lengths: Sequence[int]) -> list[Any]:
    """An abstract batch of each length, like `batch`, which is abstract and has one of them.

    The first array whose second axis has one of the lengths shows the length of the batch. Every second axis that is as
    long is taken for padded.
    """
    seconds = [leaf.shape[1] for leaf in jax.tree.leaves(batch) if leaf.ndim > 1 and leaf.shape[1] in lengths]
    if not seconds:
        return []

    def resized(leaf: Any, length: int) -> jax.ShapeDtypeStruct:
        padded = leaf.ndim > 1 and leaf.shape[1] == seconds[0]
        shape = (leaf.shape[0], length, *leaf.shape[2:]) if padded else leaf.shape
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return [jax.tree.map(functools.partial(resized, length=length), batch) for length in lengths]


def signature_of(batch: Batch | None) -> Any:
    """What a program depends on in a batch: structure, shapes and dtypes."""
    leaves, tree = jax.tree.flatten(batch)
    return tree, tuple((leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves)


def stacked(batch: Any, count: int) -> Any:
    """An abstract batch, or `count` of them along a new leading axis."""
    if count == 1:
        return batch

    def of_several(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)

    return jax.tree.map(of_several, batch)
