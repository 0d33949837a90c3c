"""How a model asks to be divided: the partitioning metadata that the user's library keeps of its arrays."""

from typing import Any

import jax
from jax.sharding import PartitionSpec
from jax.tree_util import KeyPath

from jaxloop.adapters.linen import is_box, spec_of
from jaxloop.model import Model


def partitioning(model: Model) -> dict[tuple[str, KeyPath], PartitionSpec]:
    """The `PartitionSpec` of each array that has partitioning metadata, by its field and its path in that field.

    Metadata are those of flax: `out_sharding` of nnx variables, and the boxes `flax.linen.Partitioned` and
    `LogicallyPartitioned`, wherever they lie in a model. Logical axes become axes of a mesh as flax has it: by the
    rules in the metadata, and by `flax.linen.logical_axis_rules` that hold now. The names are not checked: whether a
    mesh has them, whoever knows the mesh must see.

    Args:
      model: its arrays may be abstract. Nothing is computed.

    Returns:
      The specifications by ("params" or "state", path), with paths as `jax.tree_util.tree_flatten_with_path` gives
      them. An array without metadata is left out; one that is to be whole has `PartitionSpec()`.

    Example:
      >>> partitioning(Model.from_nnx(nnx.Linear(4, 8, kernel_metadata={"out_sharding": (None, "model")}, rngs=rngs)))
      {('params', (DictKey(key='kernel'),)): PartitionSpec(None, 'model')}
    """
    partitioned = getattr(model.apply, "partitioned", None)
    by_path = {} if partitioned is None else partitioned(model.params, model.state)
    found: dict[tuple[str, KeyPath], PartitionSpec] = {}
    for field, tree in (("params", model.params), ("state", model.state)):
        for path, part in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]:
            spec = spec_of(part) if is_box(part) else _spec_above(path, by_path)
            if spec is not None:
                found |= {(field, path + below): spec for below, _ in jax.tree_util.tree_leaves_with_path(part)}
    return found


def _spec_above(path: KeyPath, by_path: dict[tuple[Any, ...], PartitionSpec]) -> PartitionSpec | None:
    """The specification of the variable that an array belongs to: a variable may hold several."""
    keys = tuple(getattr(key, "key", None) for key in path)
    return next((by_path[keys[:length]] for length in range(1, len(keys) + 1) if keys[:length] in by_path), None)
