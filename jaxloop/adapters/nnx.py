"""The adapter of flax nnx modules."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from jaxloop.adapters.by_value import ByValue
from jaxloop.adapters.modes import Modes, Told, modes_of, speaks
from jaxloop.adapters.selection import is_trainable
from jaxloop.noting import note

_WHERE = "Model.from_nnx"
#: Names of metadata of axes, of flax's versions.
_AXES = ("out_sharding", "sharding_names", "sharding")
#: Whether `placed_later` holds back what flax would do by itself.
_held_back: ContextVar[bool] = ContextVar("_held_back", default=False)


def split(module: Any, *, trained: Any = None, modes: Any = None) -> tuple["NNXApply", Any, Any]:
    """(apply, params, state) of a `flax.nnx.Module`, which is not changed; see `Model.from_nnx`.

    Raises:
      TypeError, ValueError: an argument is not as `Model.from_nnx` requires.
    """
    from flax import nnx  # here and below, so that `import jaxloop` does not import flax

    told = modes_of(modes, module if callable(module) else None, _WHERE)
    module = nnx.merge(*nnx.split(module))  # a copy: `pop` changes it
    nnx.pop(module, nnx.Intermediate)  # what an earlier call has sown is not state
    if _held_back.get():
        _as_if_placed(module)
    chosen = nnx.All(nnx.Param if trained is None else trained, _can_be_trained)
    training, params, state = nnx.split(_in_mode(module, training=True), chosen, ...)
    if trained is not None and not nnx.to_flat_state(params):
        raise ValueError(
            f"{_WHERE}: `trained`, {trained!r}, chooses none of the variables that can be trained: {_listed(state)}."
        )
    inference = nnx.split(_in_mode(module, training=False))[0]
    in_params, in_state = (frozenset(path for path, _ in nnx.to_flat_state(part)) for part in (params, state))
    graphs = ByValue((inference, training))  # in the order of False and True: `training` is their index
    frozen = frozenset(path for path, variable in nnx.to_flat_state(state) if isinstance(variable, nnx.Param))
    apply = NNXApply(graphs, in_params, in_state, told, type(module).__name__, frozen)
    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def values_of(module: Any) -> tuple[Any, frozenset[tuple[Any, ...]]]:
    """The values of all variables of a `flax.nnx.Module` as nested mappings, and the paths of its random streams.

    What was sown is left out.
    """
    from flax import nnx

    state = nnx.state(module, nnx.Not(nnx.Intermediate))
    return nnx.to_pure_dict(state), _streams(state)


def with_values(module: Any, values: Any) -> Any:
    """A copy of a `flax.nnx.Module`, in its mode, with other values, given as `values_of` gives them."""
    from flax import nnx

    graph, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, values)
    return nnx.merge(graph, state, copy=True)


def _streams(state: Any) -> frozenset[tuple[Any, ...]]:
    """The paths of the keys and counters of random streams."""
    from flax import nnx

    return frozenset(path for path, one in nnx.to_flat_state(state) if isinstance(one, nnx.RngState))


@contextlib.contextmanager
def placed_later() -> Iterator[None]:
    """Variables that are made in it keep their partitioning metadata, and flax places none of them.

    Flax places a variable that has such metadata as soon as it is made. It needs `jax.set_mesh` for that, and raises
    without it. In a program whose outputs have shardings nothing is left for it to do. Imports nothing: what makes
    variables has done so.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not nnx.using_eager_sharding():
        yield
        return
    token = _held_back.set(True)
    try:
        with nnx.use_eager_sharding(False):
            yield
    finally:
        _held_back.reset(token)


def _as_if_placed(module: Any) -> None:
    """Tells the variables that flax has placed them, as it does elsewhere: what they say of it is part of the graph."""
    from flax import nnx

    for _, variable in nnx.iter_graph(module):
        if isinstance(variable, nnx.Variable) and not variable.get_metadata("eager_sharding", True):
            variable.set_metadata(eager_sharding=True)


def _can_be_trained(path: Any, variable: Any) -> bool:
    """Whether a variable holds floats or complex numbers.

    Raises:
      ValueError: it holds a mapping, which looks like a part of the module once the module is split.
    """
    value = _value(variable)
    if isinstance(value, dict):
        raise ValueError(
            f"{_WHERE}: the variable {_dotted(path)} holds a mapping of {', '.join(map(repr, value))}. Make a variable "
            "of each, in an nnx.Dict."
        )
    return is_trainable(value)


def _value(variable: Any) -> Any:
    from flax import nnx

    return variable.get_value() if isinstance(variable, nnx.Variable) else variable


def _dotted(path: Any) -> str:
    return ".".join(map(str, path))


def _listed(state: Any) -> str:
    from flax import nnx

    found = [f"{_dotted(path)} ({type(one).__name__})" for path, one in nnx.to_flat_state(state) if is_trainable(one)]
    return ", ".join(found) or "there is none"


def _in_mode(module: Any, training: bool) -> Any:
    """A copy of the module in a mode, set by its own methods `train` and `eval` if it defines them."""
    from flax import nnx

    copy = nnx.with_attributes(
        module,
        deterministic=not training,
        use_running_average=not training,
        raise_if_not_found=False,
    )
    name = "train" if training else "eval"
    own = getattr(type(copy), name, None)
    if own is getattr(nnx.Module, name) or not inspect.isfunction(own) or not _needs_nothing(getattr(copy, name)):
        return copy
    copy = nnx.merge(*nnx.split(copy))  # its variables are still those of `module`
    getattr(copy, name)()
    return copy


def _needs_nothing(method: Callable[..., Any]) -> bool:
    """Whether a method can be called without arguments."""
    try:
        inspect.signature(method).bind()
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _noted_streams(module: Any) -> Iterator[None]:
    """Notes on an exception of a module whose call takes `rngs` that it gets none, and how it may have them."""
    text = (
        f"jaxloop: {type(module).__name__} is called without `rngs`. Give its layers streams when they are made, as "
        'nnx.Dropout(0.1, rngs=rngs); or call it in a `differentiable_step`, with nnx.Rngs(loop.step_key("dropout")).'
    )
    try:
        yield
    except Exception as error:
        if callable(module) and "rngs" in inspect.signature(module).parameters:
            note(error, text)
        raise


@dataclass(frozen=True, repr=False)
class NNXApply:
    """The forward pass of an nnx module, by its graph in each mode; equal for equal modules.

    Attributes:
      graphs: the graphs of the module in inference and in training.
      params, state: the paths of the variables in each.
      modes: the arguments that say the mode, besides the attributes in the graphs.
      name: the name of its class.
      not_trained: the paths of the parameters that are in the state.
      dtype: in which batch norms compute that were not given another; see `computing_in`.
    """

    graphs: ByValue
    params: frozenset[tuple[Any, ...]]
    state: frozenset[tuple[Any, ...]]
    modes: Modes
    name: str = field(compare=False)
    not_trained: frozenset[tuple[Any, ...]] = frozenset()
    dtype: Any = None

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        module = self.restore(params, state, training)
        with _noted_streams(module):
            output = module(input, **self.modes.told(module, training))
        return output, self._state_of(module, state)

    def call(
        self, function: Callable[[Any], Any], params: Any, state: Any, *, training: bool, key: Any
    ) -> tuple[Any, Any]:
        """The result of `function(module)`, and the state after it."""
        from flax import nnx

        module = self.restore(params, state, training)
        own = [type(part) for _, part in nnx.iter_modules(module) if not type(part).__module__.startswith("flax.")]
        # Flax's own modules are left out: they follow the attributes that are set in `graphs`.
        any_speaks = any(speaks(kind, self.modes) for kind in own)
        result = function(Told(module, self.modes, training) if any_speaks else module)
        return result, self._state_of(module, state)

    def restore(self, params: Any, state: Any, training: bool) -> Any:
        """The module with these values, in this mode."""
        from flax import nnx

        module = nnx.merge(self.graphs.value[training], params, state, copy=True)
        if self.dtype is not None:
            for _, part in nnx.iter_modules(module):
                if isinstance(part, nnx.BatchNorm) and part.dtype is None:
                    part.dtype = self.dtype
        return module

    def place_of(self, field: str, path: Any) -> Any:
        """Where the module has a leaf of `params` or `state`: the path, as JAX gives it, by which it is named."""
        return path

    def streams(self, params: Any, state: Any) -> frozenset[tuple[Any, ...]]:
        """The paths of keys and counters of the random streams."""
        from flax import nnx

        return _streams(nnx.state(self.restore(params, state, training=False)))

    def computing_in(self, dtype: Any) -> "NNXApply":
        """The same for narrow parameters and a wide state.

        A batch norm would make its output as wide as its running averages, and all layers after it would compute so.
        """
        return replace(self, dtype=dtype)

    def frozen(self, state: Any) -> Any:
        """Whether each leaf of the state is a parameter that is not trained."""
        from flax.traverse_util import flatten_dict, unflatten_dict

        return unflatten_dict({path: path in self.not_trained for path in flatten_dict(state)})

    def partitioned(self, params: Any, state: Any) -> dict[tuple[Any, ...], PartitionSpec]:
        """The specification of each variable that has one, by its path; with flax's logical axis rules of now."""
        from flax import nnx

        variables = nnx.to_flat_state(nnx.state(self.restore(params, state, training=False)))
        return {path: _spec(one) for path, one in variables if _named(one) is not None}

    def _state_of(self, module: Any, before: Any) -> Any:
        """The state after a pass: everything except the parameters and what was sown.

        Raises:
          ValueError: this pass has made a new variable, which has no value at the start of a run.
        """
        from flax import nnx
        from flax.traverse_util import flatten_dict, unflatten_dict

        now = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Intermediate)))
        values = {path: _value(variable) for path, variable in now}
        made = [path for path in values if path not in self.params | self.state]
        made = [path for path in made if not isinstance(values[path], tuple)]  # tuples are what `sow` makes
        if made:
            raise ValueError(
                f"{_WHERE}: a pass of {self.name} makes the variable {_dotted(made[0])!r}, which it had not to begin "
                "with, so that it would be lost. Make it in the module's __init__."
            )
        old = flatten_dict(before)
        return unflatten_dict({path: _kept(old[path], values.get(path, old[path])) for path in self.state})

    def __repr__(self) -> str:
        return f"<forward pass of {self.name}>"


def _named(variable: Any) -> tuple[str, Any] | None:
    """What the metadata of a variable say of its axes, with the name that this version of flax has for it."""
    metadata = variable.get_metadata()
    return next(((name, metadata[name]) for name in _AXES if metadata.get(name) is not None), None)


def _spec(variable: Any) -> PartitionSpec:
    from flax import nnx

    name, axes = _named(variable) or ("", None)
    axes = getattr(axes, "sharding", axes)  # a `jax.experimental.layout.Format` has one
    if isinstance(axes, NamedSharding):
        variable = variable.replace(**{name: axes.spec})
    return nnx.get_partition_spec(variable).get_value() or PartitionSpec()


def _kept(old: Any, new: Any) -> Any:
    """The new value; the old one if something was sown to it, which makes its tuple longer."""
    return old if isinstance(old, tuple) and isinstance(new, tuple) and len(new) > len(old) else new
