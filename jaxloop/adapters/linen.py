"""The adapter of flax linen modules."""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.adapters.by_value import ByValue

#: Arguments of `__call__` that say the mode, and what they are in training.
_MODES = {"train": True, "training": True, "deterministic": False}


def split(module: Any, variables: Any) -> tuple["LinenApply", Any, Any]:
    """(apply, params, state) of a `flax.linen.Module`; without variables, params and state are None.

    Raises:
      TypeError, ValueError: it is no such module, or `variables` is not what `module.init` gives.
    """
    if isinstance(module, type) or not hasattr(module, "apply") or not callable(module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"Model.from_linen: `module` must be a flax.linen.Module with a `__call__`, got {got}.")
    apply = LinenApply(ByValue(module), _modes_of(module))
    if variables is None:
        return apply, None, None
    if not isinstance(variables, Mapping):
        raise TypeError(
            "Model.from_linen: `variables` must be a mapping of collections, as module.init(key, input) gives it, "
            f"got {type(variables).__name__}."
        )
    if "params" not in variables:
        raise ValueError(
            "Model.from_linen: `variables` must hold the collection 'params', got "
            f"{', '.join(map(repr, variables)) or 'none'}. Give all that module.init(key, input) gives: "
            "{'params': params, ...}."
        )
    return apply, *_split_variables(variables)


def _modes_of(module: Any) -> tuple[str, ...]:
    """Names of the arguments by which the module is told its mode."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(type(module).__call__).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.name in _MODES and parameter.kind in named)


def _split_variables(variables: Mapping[str, Any]) -> tuple[Any, Any]:
    from flax.core import unfreeze

    state = {name: unfreeze(values) for name, values in variables.items()}
    state.pop("intermediates", None)  # what an earlier call has sown is no state
    return state.pop("params", {}), state


@dataclass(frozen=True, repr=False)
class LinenApply:
    """The forward pass of a linen module; equal for equal modules.

    Attributes:
      module: as it was given.
      modes: names of the arguments by which it is told its mode.
    """

    module: ByValue
    modes: tuple[str, ...]

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        module = self.module.value
        if params is None:
            raise ValueError(
                f"Model.from_linen: {type(module).__name__} has no variables yet. Give it to `fit`, which makes them "
                "from the first batch, or write Model.from_linen(module, module.init(key, input))."
            )
        variables = {"params": params, **state}
        if not training:
            return module.apply(variables, input, **self._mode(training)), state
        rngs = None if key is None else {"dropout": key}
        output, changed = module.apply(variables, input, rngs=rngs, mutable=list(state), **self._mode(training))
        return output, {**state, **changed}

    def initialize(self, key: jax.Array, input: Any) -> tuple[Any, Any]:
        """(params, state) as `module.init(key, input)` makes them in inference mode. Compiled."""
        return _split_variables(_initialized(self, key, input))

    def restore(self, params: Any, state: Any) -> tuple[Any, Any]:
        """(module, variables), with these values."""
        return self.module.value, None if params is None else {"params": params, **state}

    def _mode(self, training: bool) -> dict[str, bool]:
        return {name: _MODES[name] is training for name in self.modes}

    def __repr__(self) -> str:
        return f"<forward pass of {type(self.module.value).__name__}>"


@functools.partial(jax.jit, static_argnums=0)
def _initialized(apply: LinenApply, key: jax.Array, input: Any) -> Any:
    return apply.module.value.init(key, input, **apply._mode(training=False))
