"""The wire: the private form in which a loop travels between dispatches, and who owns its arrays.

To dispatch a loop of some forty small leaves takes several times as long as the step of a tiny model. So the engine
carries it as `(vector, leaves)`: one int32 vector, which holds the bits of every 4-byte scalar and of every single PRNG
key, and the leaves that remain. The vector is int32, since operations on integers keep all bits: those on floats may
change the bits of a NaN or a denormal.

Only the wire is donated. Whatever comes from a user or goes to one is copied, by `ownership.own_copy`. That is the
whole ownership rule, and nobody outside the engine ever meets a deleted array.

A loop is called open if its scalars are NumPy's and its other leaves are the engine's. `to_wire` makes the wire of an
open loop, and `from_wire` the open loop of a wire. Neither copies anything large.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.chips import StepCost
from jaxloop.events import TRAINING, VALIDATION, Split
from jaxloop.loop import COUNTERS, Loop
from jaxloop.placement.moving import placed
from jaxloop.views import Columns

Wire = tuple[Any, list[Any]]
WIRE_DTYPES = frozenset(np.dtype(name) for name in ("int32", "uint32", "float32"))


class Kind(NamedTuple):
    """What a leaf is.

    Attributes:
      shape: its shape.
      dtype: its dtype.
      key: the implementation of a typed PRNG key; None for anything else.
      places: how many of the vector's places it takes; 0 if it travels by itself.
      word: the dtype of what stands in such a place.
    """

    shape: tuple[int, ...]
    dtype: Any
    key: Any
    places: int
    word: Any


@dataclass(frozen=True)
class WireLayout:
    """Where each leaf of a loop lies on the wire. Layouts are equal for loops of one kind.

    Attributes:
      tree: the structure of the loop.
      kinds: the kind of each leaf.
      slots: each leaf's first place in the vector; None for a leaf that travels by itself.
      row: how many of the vector's first places make a row: whether the step counted, `stop`, the counters
        and the statistics.
      names: the name of each place in a row.
    """

    tree: Any
    kinds: tuple[Kind, ...]
    slots: tuple[int | None, ...]
    row: int
    names: tuple[str, ...]

    @functools.cached_property
    def size(self) -> int:
        """Length of the vector."""
        return 1 + sum(kind.places for kind in self.kinds)

    @functools.cached_property
    def abstract(self) -> Loop:
        """Shapes and dtypes of a loop of this layout."""
        leaves = (jax.ShapeDtypeStruct(kind.shape, kind.dtype) for kind in self.kinds)
        return jax.tree.unflatten(self.tree, leaves)

    def by_themselves(self, tree: Any) -> list[Any]:
        """Of a tree of the loop's structure, what belongs to the leaves that travel by themselves."""
        return [leaf for slot, leaf in zip(self.slots, jax.tree.leaves(tree), strict=True) if slot is None]

    def pack(
        self, loop: Loop, counted: Any, vector: Any = None, before: Loop | None = None, *, in_place: bool = False
    ) -> Wire:
        """The wire of a traced loop.

        Args:
          loop: of this layout.
          counted: whether the step counted: a bool or bool[].
          vector: the vector of the wire that `loop` came from; None for zeros.
          before: the loop that `unpack` gave for that wire. A scalar that is still the same object is not written.
          in_place: whether scalars are written into the vector, a few at a time. That is fastest inside a loop. If not,
            selects make a new vector: outside a loop they are as fast, and they compile faster.
        """
        vector = jnp.zeros(self.size, jnp.int32) if vector is None else vector
        old = [None] * len(self.slots) if before is None else jax.tree.leaves(before)
        changed: dict[int, Any] = {}
        others: list[Any] = []
        for slot, leaf, old_leaf in zip(self.slots, jax.tree.leaves(loop), old, strict=True):
            if slot is None:
                others.append(_raw(leaf))
            elif leaf is not old_leaf:
                bits = jax.lax.bitcast_convert_type(_raw(leaf), jnp.int32)
                changed |= {slot + place: word for place, word in enumerate(bits if bits.ndim else [bits])}
        counted = jnp.asarray(counted, jnp.int32)
        if not in_place:
            places = jax.lax.iota(jnp.int32, self.size)
            for slot, number in ({0: counted} | changed).items():
                vector = jnp.where(places == slot, number, vector)
            return vector, others
        vector = jax.lax.dynamic_update_slice(vector, counted[None], (0,))  # a single one is first: see `_neighbours`
        for slots in _neighbours(sorted(changed)):
            part = jnp.stack([changed[slot] for slot in slots])
            vector = jax.lax.dynamic_update_slice(vector, part, (slots[0],))
        return vector, others

    def unpack(self, wire: Wire) -> Loop:
        """The loop of a traced wire."""
        vector, rest = wire
        others = iter(rest)

        def leaf(slot: int | None, kind: Kind) -> Any:
            if slot is None:
                return _typed(next(others), kind)
            words = vector[slot] if kind.key is None else vector[slot : slot + kind.places]
            return _typed(jax.lax.bitcast_convert_type(words, kind.word), kind)

        return jax.tree.unflatten(self.tree, map(leaf, self.slots, self.kinds))

    def to_wire(self, loop: Loop) -> Wire:
        """The wire of an open loop; its vector is NumPy's, which the first dispatch takes along."""
        return self.vector(loop), [_raw(leaf) for leaf in self.by_themselves(loop)]

    def vector(self, loop: Loop, counted: bool = False) -> np.ndarray:
        """The vector of an open loop, int32[size]."""
        vector = np.zeros(self.size, np.int32)
        vector[0] = counted
        seen_as = {dtype: vector.view(dtype) for dtype in WIRE_DTYPES}
        for slot, kind, leaf in zip(self.slots, self.kinds, jax.tree.leaves(loop), strict=True):
            if slot is not None:
                seen_as[kind.word][slot : slot + kind.places] = _raw(leaf)
        return vector

    def row_of(self, loop: Loop, counted: bool) -> np.ndarray:
        """The row of a loop between steps, int32[row]. Waits for the device."""
        numbers = jax.device_get([loop.stop, *(getattr(loop, name) for name in COUNTERS), loop.stats])
        known = dict(zip(("stop", *COUNTERS), numbers, strict=False)) | numbers[-1] | {"counted": np.int32(counted)}
        return np.array([np.asarray(known[name]).view(np.int32) for name in self.names])

    def from_wire(self, wire: Wire, sharding: jax.sharding.Sharding | None = None) -> Loop:
        """The open loop of a wire. Waits for the device.

        Args:
          wire: of this layout.
          sharding: where keys lie if no step was taken, since the vector is NumPy's then; None for the default device.
        """
        vector, rest = np.array(wire[0]), iter(wire[1])
        seen_as = {dtype: vector.view(dtype) for dtype in WIRE_DTYPES}
        place = getattr(wire[0], "sharding", sharding)

        def leaf(slot: int | None, kind: Kind) -> Any:
            if slot is None:
                return _typed(next(rest), kind)
            words = seen_as[kind.word][slot : slot + kind.places]
            return words[0] if kind.key is None else _typed(placed(words, place), kind)

        return jax.tree.unflatten(self.tree, map(leaf, self.slots, self.kinds))

    def reader(
        self, split: Split, batch_size: int, cost: StepCost | None = None
    ) -> Callable[[np.ndarray], tuple[Columns | None, int]]:
        """A function that reads the rows that a dispatch left: int32[row] of one step, or int32[steps, row].

        Returns:
          `read(rows)`: those that count by column, None if none does; and `stop` after the last step.
        """
        places, stop_place = self._places, self.names.index("stop")

        def read(rows: np.ndarray) -> tuple[Columns | None, int]:
            if rows.ndim == 1:
                columns = Columns(rows[np.newaxis], places, split, batch_size, cost) if rows.item(0) & 1 else None
                return columns, rows.item(stop_place)
            counted = rows[:, 0] & 1  # above it stands what processes have asked for
            matrix = rows if counted.all() else rows[counted != 0]
            columns = Columns(matrix, places, split, batch_size, cost) if len(matrix) else None
            return columns, rows.item(-1, stop_place)

        return read

    def difference(self, before: "WireLayout") -> str:
        """The first leaf that differs from that of another layout, and how; for messages."""
        now, then = self._named(), before._named()
        for name in sorted(set(now) | set(then)):
            if now.get(name) != then.get(name):
                return f"{name} has become {_said(now.get(name))}, where it was {_said(then.get(name))} before"
        return "the loop's structure has changed"

    def _named(self) -> dict[str, Kind]:
        paths, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(self.tree, self.kinds), is_leaf=_is_kind)
        return {"loop" + jax.tree_util.keystr(path): kind for path, kind in paths}

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, Any]]:
        dtypes = {slot: kind.dtype for slot, kind in zip(self.slots, self.kinds, strict=True)}
        return {name: (slot, dtypes[slot]) for slot, name in enumerate(self.names) if slot}

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.tree, self.kinds))

    def __hash__(self) -> int:
        return self._hash


def kinds_of(loop: Any) -> tuple[Any, tuple[Kind, ...]]:
    """What the layout of a loop, or of a part of it, depends on: its structure, and the kind of each leaf."""
    leaves, tree = jax.tree.flatten(loop)
    return tree, tuple(map(_kind, leaves))


def layout_of(loop: Loop) -> WireLayout:
    """The layout of loops like `loop`: a row's places first, then the other scalars, then the keys."""
    tree, kinds = kinds_of(loop)
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(loop)]
    place_in_row = {path: place for place, path in enumerate(_row_paths(loop))}

    def place(index: int) -> tuple[int, bool]:
        return place_in_row.get(paths[index], len(place_in_row)), kinds[index].key is not None

    ordered = sorted((index for index, kind in enumerate(kinds) if kind.places), key=place)
    slots: list[int | None] = [None] * len(paths)
    slot = 1
    for index in ordered:
        slots[index] = slot
        slot += kinds[index].places
    names = ("counted", *(path[-1] for path in place_in_row))
    return WireLayout(tree, kinds, tuple(slots), len(names), names)


def _row_paths(loop: Loop) -> list[tuple[str, ...]]:
    """Where the loop holds what makes a row: in one piece what each step of its phase changes, then the rest."""
    # A dict that JAX has taken apart comes back sorted, so the order that a user gave must not matter.
    at_hand = loop.split
    splits = [TRAINING, VALIDATION] if at_hand is None else [TRAINING, VALIDATION, at_hand]
    measured = {split: [split.stat(name) for name in sorted(loop.metrics)] for split in splits}
    here = [] if at_hand is None else measured[at_hand]
    recorded = sorted(loop.stats.keys() - {name for names in measured.values() for name in names})
    stats = [name for name in dict.fromkeys([*here, *recorded, *sorted(loop.stats)]) if name in loop.stats]
    changing = ("stop", "step", "batch_index")
    constant = [name for name in COUNTERS if name not in changing]
    return [*((name,) for name in changing), *(("stats", name) for name in stats), *((name,) for name in constant)]


def _raw(leaf: Any) -> Any:
    """The bits of a typed PRNG key, since to dispatch a typed key takes a way through Python; any other leaf itself."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return not isinstance(leaf.dtype, np.dtype) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _typed(leaf: Any, kind: Kind) -> Any:
    """The leaf of this kind from what `_raw` made of it."""
    return leaf if kind.key is None else jax.random.wrap_key_data(leaf, impl=kind.key)


@functools.cache
def _key_words(dtype: Any) -> int:
    """How many uint32 a key of this dtype has."""
    return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), dtype)).size


_AT_ONCE = 4


def _neighbours(slots: list[int]) -> list[list[int]]:
    """The slots, ascending, in runs of neighbours of at most `_AT_ONCE`.

    Four 4-byte numbers fill a register. In a loop on a CPU, an update in place of four numbers costs as much as of one.
    A select over a long vector costs more, since it computes each scalar again for every place. XLA reads the old
    numbers that the first update of a vector needs by a kernel for each number. Later updates read them in their own
    kernels.
    """
    runs: list[list[int]] = []
    for slot in slots:
        if runs and runs[-1][-1] == slot - 1 and len(runs[-1]) < _AT_ONCE:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return runs


def _is_kind(node: Any) -> bool:
    return isinstance(node, Kind)


def _said(kind: Kind | None) -> str:
    return "nothing" if kind is None else f"{kind.dtype}{list(kind.shape)}"


def _kind(leaf: Any) -> Kind:
    shape, dtype = leaf.shape, leaf.dtype
    if isinstance(dtype, np.dtype):
        return Kind(shape, dtype, None, int(shape == () and dtype in WIRE_DTYPES), dtype)
    if not _is_key(leaf):
        return Kind(shape, dtype, None, 0, dtype)
    return Kind(shape, dtype, jax.random.key_impl(leaf), _key_words(dtype) if shape == () else 0, np.dtype("uint32"))


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "name", getattr(entry, "key", ""))) for entry in path)
