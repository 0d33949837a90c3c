"""A loop to go on from: whether the training loop's optimizer is the one that made its state."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxloop.hyperparameters import column, exposed, exposed_names
from jaxloop.kinds import kind_name
from jaxloop.loop import Loop

_FIX = (
    "Fit it with the optimizer that made it, or begin this one anew on the loop's model: "
    "training_loop.fit(loop, epochs, optimizer='mine'), or start(loop, epochs=..., optimizer='mine')."
)


def check_opt_state(optimizer: optax.GradientTransformation, loop: Loop, where: str) -> None:
    """Refuses a loop whose `opt_state` is not what `optimizer` makes for the loop's model. Nothing is compiled.

    Args:
      optimizer: of the training loop.
      loop: traced or not.
      where: the function that was given it, for the message.

    Raises:
      ValueError: another optimizer made it, or one for another model. The message names the first difference.
    """

    def made() -> Any:
        return jax.eval_shape(lambda params: optimizer.init(params), loop.model.params)

    expected, found = made(), loop.opt_state
    change = _difference(_described(found), _described(expected))
    if change is None and jax.tree.structure(found) != jax.tree.structure(expected) == jax.tree.structure(made()):
        change = _other_node(jax.tree.structure(found), jax.tree.structure(expected))
    if change is not None:
        raise ValueError(f"{where}: the loop was made by another optimizer, or for another model: {change}. {_FIX}")


def hyperparameters_of(opt_state: Any) -> dict[str, Any]:
    """What `optax.inject_hyperparams` exposes and no schedule drives, by name, and group where several expose it."""
    found = {}
    for name in exposed_names(opt_state):
        places = exposed(opt_state, name)
        found |= {column(place, among=places): place.value for place in places if not place.scheduled}
    return found


def kept_hyperparameters(opt_state: Any, made_with: Mapping[str, Any]) -> list[str]:
    """Lines for a person, of the hyperparameters that a loop keeps and the optimizer was not made with.

    Args:
      opt_state: of the loop.
      made_with: what `hyperparameters_of` finds in the state that the optimizer begins with.
    """
    lines = []
    for name, value in hyperparameters_of(opt_state).items():
        mine = made_with.get(name)
        if mine is None or np.array_equal(value, mine, equal_nan=True):
            continue
        lines.append(
            f"The loop keeps its {name}, {_shown(value)}; the optimizer was made with {_shown(mine)}, which "
            "optimizer='mine' would take, and begin anew"
        )
    return lines


def _shown(value: Any) -> str:
    value = np.asarray(value)
    return f"{value.item():.6g}" if value.shape == () else kind_name(value)


def _described(tree: Any) -> dict[str, str]:
    """Shape and dtype of each leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): kind_name(leaf) for path, leaf in leaves}


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    for path in [*expected, *found]:
        if found.get(path) != expected.get(path):
            there, here = found.get(path, "nothing"), expected.get(path, "nothing")
            return f"loop.opt_state{path} is {there}, where this training loop's optimizer has {here}"
    return None


def _other_node(found: Any, expected: Any) -> str:
    """The first node at which two structures with leaves at the same paths differ."""
    there, here = found.node_data(), expected.node_data()
    if there is not None and there == here:
        pairs = zip(found.children(), expected.children(), strict=True)
        return next(_other_node(one, other) for one, other in pairs if one != other)
    there, here = ("a leaf" if node is None else node[0].__name__ for node in (there, here))
    return f"loop.opt_state holds {there}, where this training loop's optimizer has {here}"
