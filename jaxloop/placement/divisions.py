"""Partition specifications against a mesh: whether its axes are there, and whether an array divides so."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import math
from typing import Any

from jax.sharding import Mesh, PartitionSpec


def axes_of(names: Any) -> tuple[str, ...]:
    """The mesh axes of an entry: a name, several, or none."""
    if names is None or names is PartitionSpec.UNCONSTRAINED:
        return ()
    return tuple(names) if isinstance(names, tuple) else (names,)


def parts_of(names: Any, mesh: Mesh) -> int:
    """Into how many parts an axis is divided by an entry of a specification."""
    return math.prod(mesh.shape[name] for name in axes_of(names))


def said(names: Any) -> str:
    """An entry of a specification in words."""
    return " and ".join(axes_of(names)) or "no axis"


def check_axes(where: str, spec: Any, mesh: Mesh, fix: str = "Use one of them") -> None:
    """Refuses a specification that is none, that names an axis that the mesh does not have, or one axis twice.

    Raises:
      TypeError, ValueError: as said; the message begins with `where`, and ends with `fix` if the mesh has other axes.
    """
    if not isinstance(spec, PartitionSpec):
        raise TypeError(f"{where}: expected a jax.sharding.PartitionSpec, got {spec!r}.")
    names = [name for entry in spec for name in axes_of(entry)]
    for name in names:
        if name not in mesh.axis_names:
            known = ", ".join(map(repr, mesh.axis_names))
            raise ValueError(f"{where}: {spec} names the axis {name!r}, but the mesh has {known}. {fix}.")
        if names.count(name) > 1:
            raise ValueError(f"{where}: {spec} names the axis {name!r} twice. Divide one axis of the array by it.")


def check_divides(where: str, spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> None:
    """Refuses a specification by which an array of this shape cannot be divided into equal parts.

    Raises:
      ValueError: it has more entries than the array has axes, or an axis does not divide; with the sum.
    """
    if len(spec) > len(shape):
        raise ValueError(f"{where}: {spec} has {len(spec)} entries for an array of shape {list(shape)}.")
    for axis, (names, length) in enumerate(zip(spec, shape, strict=False)):
        parts = parts_of(names, mesh)
        if length % parts:
            raise ValueError(
                f"{where}: by {spec}, axis {axis} of {list(shape)} is divided into {parts}, but {length} = "
                f"{parts} x {length // parts} + {length % parts}. Divide another axis, or none."
            )
