"""`Model`: what is trained, as a pytree of parameters and state behind one pure `apply`."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "state"],
    meta_fields=["apply", "training"],
)
@dataclass(frozen=True)
class Model:
    """A pure function with the arrays it needs. Immutable; a pytree.

    Attributes:
      apply: `apply(params, state, input, *, training: bool, key) -> (output, state)`. Static: two models
        whose `apply` are equal share their compiled programs.
      params: PyTree of arrays, what is differentiated and updated.
      state: PyTree of arrays that the forward pass changes (batch statistics, streams of random numbers).
      training: the mode in which `model(input)` and `model.forward` run; static.

    Example:
      >>> model = Model(lambda params, state, x, *, training, key: (x @ params["w"], state), {"w": w}, {})
      >>> logits = model(images)
    """

    apply: Callable[..., tuple[Any, Any]]
    params: Any
    state: Any = dataclasses.field(default_factory=dict)
    training: bool = False

    def __call__(self, input: Any, key: jax.Array | None = None) -> Any:
        """The output for `input`, in the model's mode; inference unless it says otherwise. Compiled."""
        return _output(self, input, key)

    def forward(self, input: Any, key: jax.Array | None = None) -> tuple[Any, "Model"]:
        """The output, and the model with the state that the forward pass left."""
        output, state = self.apply(self.params, self.state, input, training=self.training, key=key)
        return output, dataclasses.replace(self, state=state)

    def replace(self, **fields: Any) -> "Model":
        """This model with other values in `fields`."""
        return dataclasses.replace(self, **fields)

    def unwrap(self) -> Any:
        """What the model was made from, with the values it has now: an nnx module, or this model."""
        restore = getattr(self.apply, "restore", None)
        return self if restore is None else restore(self.params, self.state)

    @staticmethod
    def from_nnx(module: Any) -> "Model":
        """A model from a `flax.nnx.Module`. The module itself is left as it is.

        The module is split once: every `nnx.Param` is a parameter, all else (batch statistics, streams of
        random numbers) is state. Training and inference differ as `module.train()` and `module.eval()` do.
        Randomness is the module's own, by the `nnx.Rngs` it was made with, and carried in the state.

        Args:
          module: a module that is called as `module(input)`.
        """
        from flax import nnx

        module = nnx.merge(*nnx.split(module))
        nnx.pop(module, nnx.Intermediate)  # what an earlier call has sown is no state
        training_graph, params, state = nnx.split(_in_mode(module, training=True), nnx.Param, ...)
        inference_graph = nnx.split(_in_mode(module, training=False))[0]
        return Model(
            _NNXApply(training_graph, inference_graph, nnx.split(module)[0], type(module).__name__),
            nnx.to_pure_dict(params),
            nnx.to_pure_dict(state),
        )


@functools.partial(jax.jit, inline=True)
def _output(model: Model, input: Any, key: jax.Array | None) -> Any:
    return model.forward(input, key)[0]


def _in_mode(module: Any, training: bool) -> Any:
    from flax import nnx

    return nnx.with_attributes(
        module,
        deterministic=not training,
        use_running_average=not training,
        raise_if_not_found=False,
    )


class _NNXApply:
    """The forward pass of an nnx module, by its graph in each mode; equal for equal modules."""

    def __init__(self, training_graph: Any, inference_graph: Any, graph: Any, name: str):
        self._graphs = {True: training_graph, False: inference_graph}
        self._graph = graph
        self._name = name
        try:
            self._hash: int | None = hash((training_graph, inference_graph))
        except TypeError:  # an attribute of the module is not hashable: then only itself is equal
            self._hash = None

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        from flax import nnx

        module = nnx.merge(self._graphs[training], params, state, copy=True)
        output = module(input)
        changed = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.Intermediate)))
        return output, nnx.to_pure_dict(changed)

    def restore(self, params: Any, state: Any) -> Any:
        """The module with these values, in the mode in which it was given."""
        from flax import nnx

        return nnx.merge(self._graph, params, state, copy=True)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, _NNXApply) or self._hash is None or self._hash != other._hash:
            return False
        return self._graphs == other._graphs and self._graph == other._graph

    def __hash__(self) -> int:
        return id(self) if self._hash is None else self._hash

    def __repr__(self) -> str:
        return f"<forward pass of {self._name}>"


def as_model(given: Any) -> Model:
    """`given` as a `Model`: itself, or a flax nnx module that was split.

    Raises:
      TypeError: it is no model that is known.
    """
    if isinstance(given, Model):
        return given
    if _is_nnx_module(given):
        return Model.from_nnx(given)
    raise TypeError(
        f"model: expected a jaxloop.Model, a jaxloop.Loop or a flax.nnx.Module, got {type(given).__name__}. "
        "Wrap a function as jaxloop.Model(apply, params, state)."
    )


def _is_nnx_module(given: Any) -> bool:
    """Asked without importing flax, which whoever has such a module has imported already."""
    return any(kind.__name__ == "Module" and kind.__module__.startswith("flax.nnx") for kind in type(given).__mro__)
