"""What `optax.inject_hyperparams` exposes in an optimizer's state: by name, and by group where several parts do."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax  # pyright: ignore[reportMissingTypeStubs] it has none
from jax.tree_util import DictKey

from jaxloop.brief import brief

RATE = "learning_rate"
_Path = tuple[Any, ...]


@dataclass(frozen=True)
class Exposed:
    """A hyperparameter at one place of an optimizer's state.

    Attributes:
      name: as in `optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)`: `"learning_rate"`.
      group: the part of the optimizer that exposes it; "" if there is only one, and it has no label.
      value: float[], or what else it is.
      path: where it lies in the state, as optax names places.
      scheduled: whether the optimizer drives it by a schedule of its own.
    """

    name: str
    group: str
    value: Any
    path: _Path
    scheduled: bool


def exposed(opt_state: Any, name: str) -> list[Exposed]:
    """All places at which a hyperparameter is exposed, each in a group of its own.

    A group has the label that `optax.partition` (`multi_transform`) gives its parameters. Partitions inside of
    partitions give several, as in `"encoder/norm"`. Where labels do not tell all places apart, the names in
    `optax.named_chain` are used too, and then numbers from 0, in the order of the state.
    """
    found: list[tuple[_Path, Any]] = optax.tree_utils.tree_get_all_with_path(opt_state, name, _in_hyperparams)
    driven = {path[:-2] for path, _ in optax.tree_utils.tree_get_all_with_path(opt_state, name, _in_schedules)}
    groups = _told_apart([path for path, _ in found])
    return [
        Exposed(name, group, value, path, path[:-2] in driven)
        for group, (path, value) in zip(groups, found, strict=True)
    ]


def exposed_names(opt_state: Any) -> list[str]:
    """The names of all hyperparameters that are exposed, sorted."""
    nodes: list[tuple[_Path, Any]] = optax.tree_utils.tree_get_all_with_path(opt_state, "hyperparams", _is_hyperparams)
    return sorted({name for _, node in nodes for name in node})


def columns(opt_state: Any, name: str, group: str | None = None) -> dict[str, Any]:
    """The values of a hyperparameter, of all groups or of one, by the column of each; only of scalars; see `column`."""
    places = exposed(opt_state, name)
    shown = [place for place in places if group in (None, place.group) and np.ndim(place.value) == 0]
    return {column(place, among=places): place.value for place in shown}


def column(place: Exposed, *, among: Sequence[Exposed]) -> str:
    """The column of a hyperparameter in logs: its name, and where several expose it `<name>/<group>`."""
    return place.name if len(among) == 1 else f"{place.name}/{place.group}"


def is_rate(column: str) -> bool:
    """Whether a column holds a learning rate, of the optimizer or of one of its groups."""
    return column == RATE or column.startswith(f"{RATE}/")


def the_one(where: str, opt_state: Any, name: str, group: str | None = None, *, or_else: str = "") -> Exposed:
    """The hyperparameter of a group; without a group, the only one of this name.

    Args:
      where: who asks, for messages.
      opt_state: of the optimizer.
      name, group: as in `Exposed`.
      or_else: another way to say which is meant, for the message.

    Raises:
      ValueError: there is none of this name, or in this group; or several, and no group is given.
      TypeError: `name` is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"{where}: a hyperparameter has a name, such as 'learning_rate', got {brief(name)}.")
    places = exposed(opt_state, name)
    if not places:
        raise ValueError(_none(where, opt_state, name))
    if group is None and len(places) > 1:
        raise ValueError(
            f"{where}: {len(places)} parts of the optimizer expose {name!r}, the groups {_listed(places)}. Say which "
            f"one is meant, as by group={places[0].group!r}{or_else}."
        )
    chosen = [place for place in places if group in (None, place.group)]
    if not chosen:
        raise ValueError(_no_group(where, places, group))
    return chosen[0]


def with_value(where: str, opt_state: Any, place: Exposed, value: Any) -> Any:
    """The optimizer's state with another value of a hyperparameter, in the dtype that it has.

    Raises:
      ValueError: the optimizer drives it by a schedule of its own, or keeps it as an integer, and the value is none; or
        the value has another shape.
      TypeError: the value is no real number.
    """
    name = place.name
    _check_value(where, place, value)
    if place.scheduled:
        raise ValueError(
            f"{where}: the optimizer drives {name!r}{_in_group(place)} by a schedule of its own. Give "
            "`optax.inject_hyperparams` a number and change that number from a callback."
        )
    dtype = jnp.asarray(place.value).dtype
    if jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(
            f"{where}: {name!r} is a whole number in the optimizer, {dtype.name}, and would cut "
            f"off fractions. Make it a float, as `optax.inject_hyperparams(optax.sgd)({name}=1.0)`."
        )

    def here(path: _Path, old: Any) -> bool:
        return path == place.path

    return optax.tree_utils.tree_set(opt_state, here, **{name: jnp.asarray(value, dtype=dtype)})


def _check_value(where: str, place: Exposed, value: Any) -> None:
    expected = "a number" if np.ndim(place.value) == 0 else f"an array of shape {list(np.shape(place.value))}"
    message = f"{where}: {place.name!r} is {expected}, and cannot be set to {brief(value)}."
    if not (isinstance(value, (int, float)) or hasattr(value, "dtype")) or jnp.iscomplexobj(value):
        raise TypeError(f"{message} Give a real number.")
    if np.shape(value) != np.shape(place.value):
        raise ValueError(f"{message} Give a value of that shape.")


@dataclass(frozen=True)
class Aim:
    """Where one value of a hyperparameter is set: at one place, or at all, multiplied by a factor at each.

    Attributes:
      where: who sets it, for messages.
      name: of the hyperparameter.
      group: the only group that is meant; None where there is but one.
      factors: each group with its factor, in place of `group`.
    """

    where: str
    name: str
    group: str | None = None
    factors: tuple[tuple[str, float], ...] | None = None

    def hit(self, opt_state: Any, value: Any) -> Any:
        """The optimizer's state with `value` set.

        Raises:
          ValueError: as `the_one` and `with_value`; or the factors name a group that does not exist, or leave one out.
        """
        for place, factor in self._places(opt_state):
            opt_state = with_value(self.where, opt_state, place, value if factor is None else value * factor)
        return opt_state

    def columns(self, opt_state: Any) -> dict[str, Any]:
        """The values at the places that are set; see `columns`."""
        return columns(opt_state, self.name, self.group)

    def _places(self, opt_state: Any) -> list[tuple[Exposed, float | None]]:
        places = exposed(opt_state, self.name)
        if self.factors is None or not places:
            all_alike = {place.group: 1.0 for place in places}
            or_else = f"; or give a factor for each, as by scale={all_alike!r}"
            return [(the_one(self.where, opt_state, self.name, self.group, or_else=or_else), None)]
        factors = dict(self.factors)
        for group in factors:
            if group not in [place.group for place in places]:
                raise ValueError(_no_group(self.where, places, group))
        missing = [place for place in places if place.group not in factors]
        if missing:
            raise ValueError(
                f"{self.where}: `scale` must have a factor for each group that exposes {self.name!r}, "
                f"{_listed(places)}, and leaves out {_listed(missing)}. Add it, or set one group at a time by `group`."
            )
        return [(place, factors[place.group]) for place in places]


def aim(where: str, name: str, group: Any = None, scale: Any = None) -> Aim:
    """What an argument `group`, the label of a group, or `scale`, a factor for each label, aims at.

    Raises:
      TypeError, ValueError: they are none of these, or both are given. The message says what came.
    """
    if group is not None and scale is not None:
        raise TypeError(
            f"{where}: give `group` for one group, or `scale` for all, not both; got {group!r} and {scale!r}."
        )
    if group is not None and not (isinstance(group, str) and group):
        raise TypeError(f"{where}: `group` must be the name of a group of the optimizer, got {group!r}. Write 'head'.")
    if group is not None:
        return Aim(f"{where}(group={group!r})", name, group)
    if scale is None:
        return Aim(where, name)
    if not (isinstance(scale, Mapping) and scale and all(isinstance(label, str) for label in scale)):
        raise TypeError(
            f"{where}: `scale` must be a factor for each group by its name, got {scale!r}. "
            "Write scale={'head': 1.0, 'body': 0.1}."
        )
    factors = {label: _factor(where, label, scale[label]) for label in sorted(scale)}
    return Aim(f"{where}(scale={factors!r})", name, None, tuple(factors.items()))


def _factor(where: str, group: str, factor: Any) -> float:
    try:
        number = float("nan") if isinstance(factor, bool) else float(factor)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(
            f"{where}: the factor of the group {group!r} in `scale` must be a finite number of at least 0, got "
            f"{factor!r}."
        )
    return number


# `inject_hyperparams` keeps the values in a dict that is the field `hyperparams` of its state. Without this filter
# optax would also find a field of the same name in the state of the optimizer inside.
def _in_hyperparams(path: _Path, value: Any) -> bool:
    return len(path) >= 2 and getattr(path[-2], "name", None) == "hyperparams"


def _in_schedules(path: _Path, value: Any) -> bool:
    return len(path) >= 2 and getattr(path[-2], "name", None) == "hyperparams_states"


def _is_hyperparams(path: _Path, value: Any) -> bool:
    return getattr(path[-1], "name", None) == "hyperparams"


def _told_apart(paths: Sequence[_Path]) -> list[str]:
    """A name for each of the paths: the shortest kind that no two of them share."""
    kinds: list[Callable[[_Path], list[str]]] = [_labels, _keys]
    for names_of in kinds:
        names = ["/".join(names_of(path)) for path in paths]
        if len(names) == 1 or (all(names) and len(set(names)) == len(names)):
            return names
    return _numbered(["/".join(_keys(path)) for path in paths])


def _labels(path: _Path) -> list[str]:
    """The labels of the partitions on the way."""
    pairs = itertools.pairwise(path[:-1])
    return [str(key.key) for field, key in pairs if getattr(field, "name", None) == "inner_states" and _is_key(key)]


def _keys(path: _Path) -> list[str]:
    """The labels, and all other names on the way, such as those of a `named_chain`."""
    return [str(key.key) for key in path[:-1] if _is_key(key)]


def _is_key(key: Any) -> bool:
    return isinstance(key, DictKey)


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, each that is shared or empty with a number from 0 after it."""
    count, seen, numbered = Counter(names), Counter[str](), list[str]()
    for name in names:
        alone = name and count[name] == 1
        numbered.append(name if alone else f"{name}/{seen[name]}".removeprefix("/"))
        seen[name] += 1
    return numbered if len(set(numbered)) == len(numbered) else [str(index) for index in range(len(names))]


def _listed(places: Sequence[Exposed]) -> str:
    return ", ".join(repr(place.group) for place in places)


def _in_group(place: Exposed) -> str:
    return f" of the group {place.group!r}" if place.group else ""


def _no_group(where: str, places: Sequence[Exposed], group: Any) -> str:
    name, named = places[0].name, [place for place in places if place.group]
    if not named:
        return (
            f"{where}: the optimizer has no group {group!r}, nor any other: it exposes only one {name!r}. "
            "Leave the group out, or divide the parameters by `optax.partition`."
        )
    return (
        f"{where}: no group {group!r} of the optimizer exposes {name!r}; there {'is' if len(named) == 1 else 'are'} "
        f"{_listed(named)}. A part of `optax.partition` exposes it if it is made by `optax.inject_hyperparams`."
    )


def _none(where: str, opt_state: Any, name: str) -> str:
    plain, _, group = name.partition("/")
    if group and exposed(opt_state, plain):
        return f"{where}: the optimizer exposes no {name!r}. Write {plain!r} and group={group!r}."
    others = ", ".join(exposed_names(opt_state))
    rate = "" if name == RATE else "learning_rate=0.1, "
    return (
        f"{where}: the optimizer exposes no {name!r}{f', only {others}' if others else ''}. "
        f"Make it as `optax.inject_hyperparams(optax.sgd)({rate}{name}=0.1)`."
    )
