"""The adapter of flax nnx modules."""

from dataclasses import dataclass, field
from typing import Any

from jaxloop.adapters.by_value import ByValue


def split(module: Any) -> tuple["NNXApply", Any, Any]:
    """(apply, params, state) of a `flax.nnx.Module`, which is left as it is; see `Model.from_nnx`."""
    from flax import nnx

    module = nnx.merge(*nnx.split(module))
    nnx.pop(module, nnx.Intermediate)  # what an earlier call has sown is no state
    training, params, state = nnx.split(_in_mode(module, training=True), nnx.Param, ...)
    inference = nnx.split(_in_mode(module, training=False))[0]
    apply = NNXApply(ByValue((inference, training)), ByValue(nnx.split(module)[0]), type(module).__name__)
    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def _in_mode(module: Any, training: bool) -> Any:
    from flax import nnx

    return nnx.with_attributes(
        module,
        deterministic=not training,
        use_running_average=not training,
        raise_if_not_found=False,
    )


@dataclass(frozen=True, repr=False)
class NNXApply:
    """The forward pass of an nnx module, by its graph in each mode; equal for equal modules.

    Attributes:
      graphs: of the module in inference and in training.
      given: the graph in the mode in which the module came.
      name: of its class.
    """

    graphs: ByValue
    given: ByValue
    name: str = field(compare=False)

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        from flax import nnx

        module = nnx.merge(self.graphs.value[training], params, state, copy=True)
        output = module(input)
        changed = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.Intermediate)))
        return output, nnx.to_pure_dict(changed)

    def restore(self, params: Any, state: Any) -> Any:
        """The module with these values, in the mode in which it was given."""
        from flax import nnx

        return nnx.merge(self.given.value, params, state, copy=True)

    def __repr__(self) -> str:
        return f"<forward pass of {self.name}>"
