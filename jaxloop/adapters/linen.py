"""The adapter of flax linen modules."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
from jax.sharding import PartitionSpec

from jaxloop.adapters.by_value import ByValue
from jaxloop.adapters.modes import Modes, missing_of, modes_of
from jaxloop.adapters.selection import chosen

_WHERE = "Model.from_linen"
#: The new value of this collection is the gradient of the loss by it. Flax keeps the scales of 8-bit floats in it.
_OVERWRITTEN = "_overwrite_with_gradient"
_SOWN = "intermediates"


def split(
    module: Any, variables: Any, *, trained: Any = None, modes: Any = None, rngs: Iterable[str] = ()
) -> tuple["LinenApply", Any, Any]:
    """(apply, params, state) of a `flax.linen.Module`; without variables, params and state are None.

    Raises:
      TypeError, ValueError: an argument is not as `Model.from_linen` requires.
    """
    if isinstance(module, type) or not hasattr(module, "apply") or not callable(module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"{_WHERE}: `module` must be a flax.linen.Module with a `__call__`, got {got}.")
    if isinstance(rngs, str) or not all(isinstance(name, str) for name in rngs):
        raise TypeError(f"{_WHERE}: `rngs` must be names, as ('noise',), got {rngs!r}.")
    told = modes_of(modes, module.__call__, _WHERE)
    apply = LinenApply(ByValue(module), told, tuple(rngs), None if trained is None else ByValue(trained))
    if variables is None:
        return apply, None, None
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"{_WHERE}: `variables` must be a mapping of collections, as module.init(key, input) gives it, "
            f"got {type(variables).__name__}."
        )
    if "params" not in variables:
        raise ValueError(
            f"{_WHERE}: `variables` must hold the collection 'params', got "
            f"{', '.join(map(repr, variables)) or 'none'}. Give all that module.init(key, input) gives: "
            "{'params': params, ...}."
        )
    return apply, *_split_variables(variables, trained)


def _split_variables(variables: Mapping[str, Any], trained: Any) -> tuple[Any, Any]:
    """(params, state). The parameters that are not trained are in the state, under the name `params` too."""
    from flax.core import unfreeze  # here and below, so that `import jaxloop` does not import flax

    state = {name: unfreeze(values) for name, values in variables.items() if name not in ("params", _SOWN)}
    params, fixed = _split_params(variables.get("params", {}), trained)
    return params, state | ({"params": fixed} if fixed else {})


def _split_params(params: Any, trained: Any) -> tuple[Any, Any]:
    """The parameters that are trained, in the same kind of mapping as before, and those that are not."""
    from flax.core import FrozenDict, freeze, unfreeze
    from flax.traverse_util import flatten_dict, unflatten_dict

    plain = unfreeze(cast(Any, params))
    places = flatten_dict(plain)
    names = {place: "/".join(map(str, place)) for place in places}
    leaves = {names[place]: leaf for place, leaf in places.items()}
    flags = unfreeze(cast(Any, trained)) if isinstance(trained, Mapping) else trained
    found = chosen(flags, leaves, unflatten_dict(names), _WHERE)
    if len(found) == len(leaves):
        return params, {}
    parts = ({at: leaf for at, leaf in places.items() if (names[at] in found) is kept} for kept in (True, False))
    kept, fixed = map(unflatten_dict, parts)
    return freeze(kept) if isinstance(params, FrozenDict) else kept, fixed


@dataclass(frozen=True, repr=False)
class LinenApply:
    """The forward pass of a linen module; equal for equal modules.

    Attributes:
      module: as it was given.
      modes: the arguments that say the mode.
      rngs: the names of the random streams that it has in inference too.
      trained: which parameters are trained; needed for variables that are made later.
    """

    module: ByValue
    modes: Modes = Modes()
    rngs: tuple[str, ...] = ()
    trained: ByValue | None = None

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        module = self.module.value
        told = self.modes.told(module.__call__, training)
        return self._applied(functools.partial(module.apply, **told), params, state, input, training=training, key=key)

    def call(
        self, function: Callable[[Any], Any], params: Any, state: Any, *, training: bool, key: Any
    ) -> tuple[Any, Any]:
        """The result of `function(module)`, with the module bound to these values, and the state after it."""
        from flax import linen

        def bound(module: Any) -> Any:
            with linen.intercept_methods(self._telling(training)):
                return function(module)

        def apply(variables: Any, *, mutable: Any = False, rngs: Any) -> Any:
            collections = [*(mutable or ()), _SOWN]
            result, changed = linen.apply(bound, self.module.value, mutable=collections)(variables, rngs=rngs)
            kept = {name: values for name, values in changed.items() if name != _SOWN}
            return (result, kept) if mutable is not False else result

        return self._applied(apply, params, state, training=training, key=key)

    def _telling(self, training: bool) -> Callable[..., Any]:
        """An interceptor that passes the mode to a method that is called without it.

        It does so only for outermost calls: inside of a method the module itself decides what its parts are told.
        """
        inside = False

        def intercept(next_method: Any, arguments: Any, named: Any, context: Any) -> Any:
            nonlocal inside
            if inside:
                return next_method(*arguments, **named)
            inside = True
            try:
                method = getattr(context.module, context.method_name)
                told = missing_of(method, self.modes.told(method, training), arguments, named)
                return next_method(*arguments, **told, **named)
            finally:
                inside = False

        return intercept

    def _applied(
        self, apply: Callable[..., Any], params: Any, state: Any, *arguments: Any, training: bool, key: Any
    ) -> tuple[Any, Any]:
        """The result of `apply`, which takes the arguments of `module.apply`, and the state after it."""
        variables = self._variables(params, state)
        rngs = self._keys(key, training)
        mutable = [name for name in state if name not in ("params", _OVERWRITTEN)]
        with _explained(training):
            if not training:
                return apply(variables, *arguments, rngs=rngs), state
            result, changed = apply(variables, *arguments, rngs=rngs, mutable=mutable)
        return result, {**state, **{name: self._kept(state[name], changed[name], (name,)) for name in changed}}

    def _variables(self, params: Any, state: Any) -> dict[str, Any]:
        if params is None:
            raise ValueError(
                f"{_WHERE}: {type(self.module.value).__name__} has no variables yet. Give it to `fit`, which makes "
                "them from the first batch, or write Model.from_linen(module, module.init(key, input))."
            )
        if "params" not in state:
            return {**state, "params": params}
        from flax.core import unfreeze

        return {**state, "params": _merged(unfreeze(params), state["params"])}

    def _keys(self, key: Any, training: bool) -> dict[str, Any] | None:
        """The keys of the random streams by name. Flax takes the key of `params` for every name that is not listed."""
        if key is None:
            return None
        names = ("dropout", "params", *self.rngs) if training else self.rngs
        # A checksum of the name, since Python's own hash of a string differs from process to process.
        others = {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names if name != "dropout"}
        return (others | {"dropout": key} if "dropout" in names else others) or None

    def _kept(self, old: Any, new: Any, path: tuple[str, ...]) -> Any:
        """A collection after the forward pass, in its old structure: what was sown into it is dropped.

        Raises:
          ValueError: this pass has made a new variable in it, which has no value at the start of a run.
        """
        if isinstance(old, tuple) and isinstance(new, tuple) and len(new) > len(old):  # `sow` appends to tuples
            return old
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            return new
        made = [name for name in new if name not in old and not _is_sown(new[name])]
        if made:
            raise ValueError(
                f"{_WHERE}: a training pass of {type(self.module.value).__name__} makes the variable "
                f"{'/'.join((*path, made[0]))!r}, which is not among its variables. Make it in module.init too, "
                "outside of any `if train`, or give the variables of module.init in training."
            )
        return {name: self._kept(value, new.get(name, value), (*path, name)) for name, value in old.items()}

    def frozen(self, state: Any) -> Any:
        """Whether each leaf of the state is a parameter that is not trained."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: path[0].key == "params", state)

    def place_of(self, field: str, path: Any) -> Any:
        """Where the user's library has a leaf of `params` or `state`: the path, as JAX gives it, by which it is named.

        A parameter that is not trained is in the state, and has the same name as if it were trained.
        """
        return path[1:] if field == "state" and path[0].key == "params" else path

    @property
    def overwritten(self) -> tuple[str, ...]:
        """The names of the entries of the state that are replaced by their gradients."""
        return (_OVERWRITTEN,)

    def initialize(self, key: jax.Array, input: Any) -> tuple[Any, Any]:
        """(params, state) as `module.init(key, input)` makes them in inference mode. Compiled."""
        return _split_variables(_initialized(self, key, input), None if self.trained is None else self.trained.value)

    def restore(self, params: Any, state: Any, training: bool) -> tuple[Any, Any]:
        """(module, variables), with these values."""
        return self.module.value, None if params is None else self._variables(params, state)

    def __repr__(self) -> str:
        return f"<forward pass of {type(self.module.value).__name__}>"


def is_box(part: Any) -> bool:
    """Whether `part` is a box of flax that says how its value is divided, such as `flax.linen.Partitioned`."""
    return hasattr(type(part), "get_partition_spec") and hasattr(type(part), "unbox")


def spec_of(box: Any) -> PartitionSpec:
    """What a box says of its value, by its own logical axis rules, else by flax's rules of now.

    Where there are no rules at all, logical names stay as they are: whoever knows the mesh finds that it lacks them.
    """
    spec = box.get_partition_spec()
    if not hasattr(box, "rules"):
        return spec
    from flax import linen

    rules = linen.get_logical_axis_rules() if box.rules is None else box.rules
    if not rules:
        return spec
    translated: Any = linen.logical_to_mesh_axes(spec, rules)  # pyright: ignore[reportPrivateImportUsage] it is public
    return translated


def _is_sown(value: Any) -> bool:
    """Whether a part of a collection holds only what `sow` makes, which are tuples."""
    return all(map(_is_sown, value.values())) if isinstance(value, Mapping) else isinstance(value, tuple)


@contextlib.contextmanager
def _explained(training: bool) -> Iterator[None]:
    """Adds to the error of a missing random stream how to provide it."""
    from flax.errors import InvalidRngError

    try:
        yield
    except InvalidRngError as error:
        error.add_note(
            "jaxloop: give a key, as model.forward(input, loop.step_key('model')) or model.call(function, key)."
            if training
            else "jaxloop: in inference a linen module has only the random streams that are named, as "
            "Model.from_linen(module, rngs=('noise',)); dropout is told `deterministic` or `train` instead."
        )
        raise


def _merged(one: Any, other: Any) -> Any:
    """Nested mappings with the entries of both."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one
    shared = {name: _merged(one[name], other[name]) for name in one if name in other}
    return {**one, **other, **shared}


@functools.partial(jax.jit, static_argnums=0)
def _initialized(apply: LinenApply, key: jax.Array, input: Any) -> Any:
    module = apply.module.value
    return module.init(key, input, **apply.modes.told(module.__call__, training=False))
