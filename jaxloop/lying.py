"""Where a loop lies already: the placement of several devices that its arrays show."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX leaves types open here; all else is checked strictly.

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jaxloop.loop import Loop
from jaxloop.model import Model
from jaxloop.placement import Placement
from jaxloop.placement.divisions import axes_of
from jaxloop.shardings import shardings_of_model


def placement_of(loop: Loop, known: Iterable[Placement]) -> Placement | None:
    """The placement of several devices on which a loop lies; None if it is on one device, or traced.

    Args:
      loop: of device arrays.
      known: placements that may be the one; the first that fits is taken. If none does, one is made by which each
        array stays where it is, and parameters are gathered if they are divided as the batch is.
    """
    leaves = jax.tree.leaves(loop.model)
    place = getattr(loop.step, "sharding", None)
    if isinstance(loop.step, Tracer) or not isinstance(place, NamedSharding) or len(place.device_set) == 1:
        return None
    if not all(isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) for leaf in leaves):
        return None
    return next((each for each in known if _lies_so(each, place, loop.model)), None) or _found(place, loop.model)


def _lies_so(placement: Placement, place: NamedSharding, model: Model) -> bool:
    if placement.single or placement.mesh != place.mesh:
        return False
    wanted = jax.tree.leaves(shardings_of_model(placement, model))
    leaves = jax.tree.leaves(model)
    return all(
        leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf, sharding in zip(leaves, wanted, strict=True)
    )


def _found(place: NamedSharding, model: Model) -> Placement:
    specs: dict[tuple[str, tuple[int, ...]], PartitionSpec] = {}
    for tree in (model.params, model.state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            specs[jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape] = leaf.sharding.spec
    used = {name for spec in specs.values() for entry in spec for name in axes_of(entry)}
    return Placement(place.mesh, _AsItLies(tuple(sorted(specs.items()))), gather=place.mesh.axis_names[0] in used)


@dataclass(frozen=True)
class _AsItLies:
    """The rule by which each array stays where it is; by its shape too, since params and state share names."""

    specs: tuple[tuple[tuple[str, tuple[int, ...]], PartitionSpec], ...]

    def __call__(self, path: str, leaf: Any) -> PartitionSpec:
        return dict(self.specs).get((path, tuple(leaf.shape)), PartitionSpec())

    def __str__(self) -> str:
        return "where they lie"
