"""A pytree as a list of described leaves, and back: what a checkpoint says of each leaf, matched by its path."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.errors import CorruptCheckpointError

_NUMBERS = frozenset("biufc")


@dataclass(frozen=True)
class Flat:
    """The leaves of a tree.

    Attributes:
      arrays: the JAX arrays among them, in order; of a typed PRNG key its bits.
      described: JSON for each leaf, in order. `path` for people, `entries` to tell a key from an index. `shape`,
        `dtype` and `kind`, which is `"array"` or `"key:<implementation>"`. A JAX array has its place in `arrays` as
        `array`, and a key also `words`, the length of its bits. A NumPy leaf has `bits`, in hexadecimal, and `scalar`.
    """

    arrays: list[jax.Array]
    described: list[dict[str, Any]]


def flattened(tree: Any) -> Flat:
    """The leaves of `tree`, all of them arrays of JAX or NumPy.

    Raises:
      TypeError: a leaf is something else; the message names it.
    """
    arrays: list[jax.Array] = []
    described: list[dict[str, Any]] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        about: dict[str, Any] = {"path": jax.tree_util.keystr(path), "entries": [_entry(entry) for entry in path]}
        if isinstance(leaf, jax.Array):
            about |= _kind(leaf) | {"array": len(arrays)}
            raw = jax.random.key_data(leaf) if _is_key(leaf) else leaf
            about |= {"words": raw.shape[-1]} if _is_key(leaf) else {}
            arrays.append(raw)
        elif isinstance(leaf, np.ndarray | np.generic) and _has_plain_bits(leaf.dtype):
            about |= _kind(leaf) | {"bits": _bits(leaf), "scalar": isinstance(leaf, np.generic)}
        else:
            said = f"{leaf.dtype}" if isinstance(leaf, np.ndarray | np.generic) else type(leaf).__qualname__
            raise TypeError(
                f"checkpoint: {about['path']} cannot be saved. The leaves of a run are numbers and arrays of JAX or "
                f"NumPy, got {said}. Make it an array, or a static field of its pytree."
            )
        described.append(about)
    return Flat(arrays, described)


def stored(described: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a described JAX array as it lies on disk: of a key, of its bits."""
    words = [described["words"]] if "words" in described else []
    return tuple(described["shape"] + words), named_dtype(described["dtype"])


def named_dtype(name: str) -> np.dtype:
    """The dtype of this name, those of `ml_dtypes` too.

    Raises:
      CorruptCheckpointError: there is none here.
    """
    try:
        dtype = jnp.dtype(name)
    except TypeError as error:
        raise CorruptCheckpointError(f"checkpoint: there is no dtype {name!r} here.") from error
    if not _has_plain_bits(dtype) or dtype.name != name:
        raise CorruptCheckpointError(f"checkpoint: {name!r} is not the dtype of an array of numbers.")
    return dtype


def abstract(described: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a described leaf, as it was in its tree."""
    shape, kind = tuple(described["shape"]), described["kind"]
    if not kind.startswith("key:"):
        return jax.ShapeDtypeStruct(shape, named_dtype(described["dtype"]))
    return jax.ShapeDtypeStruct(shape, jax.eval_shape(lambda: jax.random.key(0, impl=kind[4:])).dtype)


def differences(described: list[dict[str, Any]], template: Any) -> list[str]:
    """Every difference between the leaves of a checkpoint and those of this run, one a line; empty if there is none.

    A NumPy scalar and a JAX array of the same shape and dtype do not differ: the engine keeps scalars on the host.

    Args:
      described: what the checkpoint holds, see `Flat`.
      template: PyTree of arrays of JAX or NumPy, or of `jax.ShapeDtypeStruct`.
    """
    held = _by_path(described)
    wanted = {_identity(path): (jax.tree_util.keystr(path), leaf) for path, leaf in _with_nones(template)}
    lines = []
    for identity, (path, leaf) in wanted.items():
        if leaf is None:
            if identity in held:
                lines.append(f"{path}: the checkpoint holds {_said(held[identity])}, this run has None")
        elif identity not in held:
            lines.append(f"{path}: the checkpoint holds nothing or None, this run has {_said(_kind(leaf))}")
        elif _said(held[identity]) != _said(_kind(leaf)):
            lines.append(f"{path}: the checkpoint holds {_said(held[identity])}, this run has {_said(_kind(leaf))}")
    for identity, about in held.items():
        if identity not in wanted:
            lines.append(f"{about['path']}: the checkpoint holds {_said(about)}, this run has nothing there")
    return lines


def rebuilt(described: list[dict[str, Any]], arrays: Sequence[jax.Array], template: Any) -> Any:
    """The tree of `template` with the leaves of the checkpoint, matched by path. Call `differences` before.

    Args:
      described: what the checkpoint holds, see `Flat`.
      arrays: its JAX arrays, in the order of `Flat.arrays`.
      template: gives the structure; its leaves are not used.
    """
    held = _by_path(described)
    paths, tree = jax.tree_util.tree_flatten_with_path(template)
    return jax.tree.unflatten(tree, [_leaf(held[_identity(path)], arrays) for path, _ in paths])


def _leaf(about: dict[str, Any], arrays: Sequence[jax.Array]) -> Any:
    if "bits" in about:
        return _from_bits(about)
    array = arrays[about["array"]]
    return array if about["kind"] == "array" else jax.random.wrap_key_data(array, impl=about["kind"].partition(":")[2])


def _with_nones(template: Any) -> Iterable[tuple[Any, Any]]:
    """The leaves of a tree by path, and its Nones, which are no leaves for JAX."""
    return jax.tree_util.tree_leaves_with_path(template, is_leaf=lambda node: node is None)


def _by_path(described: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    held = {json.dumps(about["entries"]): about for about in described}
    if len(held) != len(described):
        raise CorruptCheckpointError("checkpoint: two leaves have the same path.")
    return held


def _identity(path: Any) -> str:
    return json.dumps([_entry(entry) for entry in path])


def _entry(entry: Any) -> list[Any]:
    """One step of a path, so that an attribute, a key and an index of the same text differ."""
    if isinstance(entry, jax.tree_util.GetAttrKey):
        return ["attribute", entry.name]
    if isinstance(entry, jax.tree_util.SequenceKey):
        return ["index", entry.idx]
    if isinstance(entry, jax.tree_util.FlattenedIndexKey):
        return ["flat", entry.key]
    key = entry.key if isinstance(entry, jax.tree_util.DictKey) else entry
    if isinstance(key, str) or type(key) is int:
        return ["key", key]
    return [f"key of {type(key).__qualname__}", str(key)]


def _kind(leaf: Any) -> dict[str, Any]:
    if _is_key(leaf):
        return {"shape": list(leaf.shape), "dtype": "uint32", "kind": f"key:{_implementation(leaf)}"}
    return {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name, "kind": "array"}


def _said(about: dict[str, Any]) -> str:
    """A leaf in words: `float32[8, 3]`, `typed key threefry2x32[]`."""
    kind = about["kind"]
    name = about["dtype"] if kind == "array" else f"typed key {kind.partition(':')[2]}"
    return f"{name}{list(about['shape'])}"


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _implementation(leaf: Any) -> str:
    """The name of a typed key's implementation; `key_impl` takes arrays and traced values, no `ShapeDtypeStruct`."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), jax.ShapeDtypeStruct((), leaf.dtype))
    return str(found[0])


def _has_plain_bits(dtype: np.dtype) -> bool:
    """Whether the dtype is of numbers: NumPy's own, or one of `ml_dtypes`, which NumPy calls void or its own."""
    return dtype.kind in _NUMBERS or (dtype.fields is None and dtype.name in _EXTENDED)


_EXTENDED = frozenset(
    f"{kind}{name}"
    for kind, names in (
        ("bfloat", ("16",)),
        ("int", ("2", "4")),
        ("uint", ("2", "4")),
        ("float4_", ("e2m1fn",)),
        ("float8_", ("e3m4", "e4m3", "e4m3b11fnuz", "e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")),
    )
    for name in names
)


def _bits(leaf: Any) -> str:
    """The bytes of a NumPy leaf, lowest first, in hexadecimal."""
    return _little(np.asarray(leaf)).tobytes().hex()


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind in _NUMBERS else array


def _from_bits(about: dict[str, Any]) -> Any:
    dtype, shape = named_dtype(about["dtype"]), tuple(about["shape"])
    order = dtype.newbyteorder("<") if dtype.kind in _NUMBERS else dtype
    try:
        array = np.frombuffer(bytes.fromhex(about["bits"]), order).astype(dtype).reshape(shape)
    except ValueError as error:
        raise CorruptCheckpointError(f"checkpoint: the bits of {about['path']} are not {_said(about)}.") from error
    return array[()] if about["scalar"] else array
