"""Where each leaf of a loop lies: parameters by metadata or rule, what belongs to them as they do."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Sharding

from jaxloop.loop import STEP_FIELDS, Loop
from jaxloop.model import Model
from jaxloop.partitioning import partitioning
from jaxloop.placement import Placement

Path = tuple[Any, ...]
#: From a leaf's path and the leaf to where it lies.
Place = Callable[[Path, Any], Sharding]
#: The fields of a loop whose leaves belong to parameters, by their path and shape.
_FOLLOW = ("opt_state", "callback_state", "gradient")


def shardings_of(placement: Placement, loop: Loop) -> Loop:
    """Where each leaf of a loop lies, as a loop of shardings.

    A parameter, or an array of the model's state, lies as the metadata of its module says, else as the placement's rule
    does. A leaf of the optimizer's state, of what callbacks remember, or of the gradient lies as the parameter whose
    path is the end of its own, if it has that parameter's shape. An array of the batch at hand is divided by examples.
    Each device holds all of everything else.

    Args:
      placement: where the run lives.
      loop: PyTree of arrays, or of shapes and dtypes.

    Raises:
      TypeError, ValueError: rule or metadata do not fit the mesh or the array; the message has its path.
    """
    if placement.single:
        return jax.tree.map(lambda _: placement.sharding, loop)
    model = shardings_of_model(placement, loop.model)
    follow = _followers(placement, loop.model.params, model.params)
    fields = {name: _mapped(getattr(loop, name), follow) for name in _FOLLOW}
    for name in STEP_FIELDS[:-1]:
        fields[name] = placement.batch_shardings(getattr(loop, name), None)
    if placement.several_processes:  # host callbacks look into them, and a process can read only what it holds
        fields |= jax.tree.map(lambda _: placement.sharding, {name: getattr(loop, name) for name in STEP_FIELDS})
    everywhere = jax.tree.map(lambda _: placement.sharding, loop)
    return everywhere.replace(model=model, **fields)


def shardings_of_model(placement: Placement, model: Model) -> Model:
    """Where each array of a model lies, as a model of shardings; see `shardings_of`."""
    given = {} if placement.single else partitioning(model)

    def placed(field: str) -> Any:
        of_field = {path: spec for (name, path), spec in given.items() if name == field}
        return placement.shardings(getattr(model, field), given=of_field, where=field)

    return model.replace(params=placed("params"), state=placed("state"))


def pinned(placement: Placement, loop: Loop) -> Loop:
    """A traced loop whose leaves are kept where they lie, see `shardings_of`: for what comes out of a program.

    If they were not, XLA would choose for each program, and the next one would have to be compiled for that.
    """
    if placement.single:
        return loop
    return jax.tree.map(_constrained, loop, shardings_of(placement, loop))


def divided(placement: Placement, batch: Any, rows: int | None, *, stacked: bool = False) -> Any:
    """A traced batch, divided over the devices as one that travels. Args: as `Placement.batch_shardings` has them."""
    if placement.single:
        return batch
    return jax.tree.map(_constrained, batch, placement.batch_shardings(batch, rows, stacked=stacked))


def with_parameters(placement: Placement | None, model: Model, tree: Any) -> Any:
    """A traced tree whose leaves are kept where the parameters lie that they belong to: a gradient, a new state."""
    if placement is None or placement.single:
        return tree
    follow = _followers(placement, model.params, shardings_of_model(placement, model).params)
    return jax.tree.map(_constrained, tree, _mapped(tree, follow))


def gathered(placement: Placement | None, model: Model) -> Model:
    """A traced model whose arrays are whole on each device, if the placement asks for that before a forward pass."""
    if placement is None or placement.single or not placement.gather:
        return model
    return jax.tree.map(lambda leaf: _constrained(leaf, placement.sharding), model)


def _constrained(leaf: Any, sharding: Sharding) -> Any:
    return jax.lax.with_sharding_constraint(leaf, sharding)


def _mapped(tree: Any, place: Place) -> Any:
    return jax.tree_util.tree_map_with_path(place, tree)


def _followers(placement: Placement, params: Any, shardings: Any) -> Place:
    """What gives a leaf the sharding of the parameter that it belongs to."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known: dict[Path, tuple[Any, Sharding]] = {
        path: (leaf.shape, sharding) for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }
    lengths = sorted({len(path) for path in known}, reverse=True)

    def ends(path: Path) -> Iterator[Path]:
        return (path[len(path) - length :] for length in lengths if length <= len(path))

    def follow(path: Path, leaf: Any) -> Sharding:
        for end in ends(path):
            shape, sharding = known.get(end, (None, None))
            if sharding is not None and shape == leaf.shape:
                return sharding
        return placement.sharding

    return follow
