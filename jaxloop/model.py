"""`Model`: what is trained, as a pytree of parameters and state behind one pure `apply`."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.adapters import linen, nnx
from jaxloop.adapters import pytree as callables


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

    `from_nnx`, `from_linen` and `from_callable` make models of what other libraries call one.

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
        """What the model was made from, with the values it has now.

        Returns:
          An nnx module, `(module, variables)` of a linen module, a callable pytree, or this model.
        """
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
        return Model(*nnx.split(module))

    @staticmethod
    def from_linen(module: Any, variables: Any = None) -> "Model":
        """A model from a `flax.linen.Module`, called as `module.apply(variables, input)`.

        The collection `params` holds the parameters; all others (batch statistics) are state, which training
        changes and inference does not. The mode goes to the argument `train` or `training` (True in training) or
        `deterministic` (False in training) of the module's `__call__`, whichever it has. `key` is the key of
        dropout, in training alone.

        Args:
          module: is called with one input: an array or PyTree of arrays, batch first.
          variables: mapping of collections, as `module.init` gives it. None leaves it to `fit` and its kin:
            `module.init(jax.random.key(seed), input)` of the first batch, in inference mode.

        Raises:
          TypeError: `module` is no linen module with a `__call__`, or `variables` no mapping.
          ValueError: `variables` holds no `params`.

        Example:
          >>> model = Model.from_linen(network, network.init(jax.random.key(0), images, train=False))
          >>> network, variables = training_loop.fit(model, epochs=12)[0].model.unwrap()
        """
        return Model(*linen.split(module, variables))

    @staticmethod
    def from_callable(pytree: Any, *, batched: bool = True, inference: Any = None) -> "Model":
        """A model from a pytree that can be called, such as an `equinox.Module` or a `jax.tree_util.Partial`.

        Leaves that are arrays of floats or complex numbers are parameters, named by their path; other arrays
        (integers, bools, keys) are state, which stays as it is; all else is static. Two that differ in arrays
        alone share their programs. Where it accepts `key`, the key of the step is passed, in both modes.

        Args:
          pytree: called as `pytree(input)`, or `pytree(input, key=key)`.
          batched: whether it takes a batch. With False it takes one example, as equinox's layers do, and is mapped
            over the first axis of the input by `jax.vmap`, the key split. (`jax.vmap(module)` itself is a
            function whose arrays cannot be seen.)
          inference: what is called in inference instead, with the values of `pytree`: the mode is never guessed.

        Raises:
          TypeError: `pytree` cannot be called.
          ValueError: it has no array of floats, or `inference` is another pytree.

        Example:
          >>> mlp = equinox.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
          >>> model = Model.from_callable(mlp, batched=False, inference=equinox.nn.inference_mode(mlp))
        """
        return Model(*callables.split(pytree, batched=batched, inference=inference))


@functools.partial(jax.jit, inline=True)
def _output(model: Model, input: Any, key: jax.Array | None) -> Any:
    return model.forward(input, key)[0]


def as_model(given: Any, beginning: Callable[[], tuple[jax.Array, Any]] | None = None) -> Model:
    """`given` as a `Model`: itself, or what one of its `from_` methods makes of it.

    Args:
      given: a model, a flax nnx or linen module, or a callable pytree with an array of floats.
      beginning: gives the key, key[], and the input with which a linen module without variables is initialized.

    Raises:
      TypeError: it is no model that is known.
      ValueError: it has no variables, and there is nothing to make them from.
    """
    model = _adapted(given)
    initialize = getattr(model.apply, "initialize", None)
    if initialize is None or model.params is not None:
        return model
    if beginning is None:
        raise ValueError(
            "model: this linen module has no variables yet. Write "
            "jaxloop.Model.from_linen(module, module.init(key, input))."
        )
    params, state = initialize(*beginning())
    return model.replace(params=params, state=state)


def _adapted(given: Any) -> Model:
    if isinstance(given, Model):
        return given
    if _is_module(given, "flax.nnx"):
        return Model.from_nnx(given)
    if _is_module(given, "flax.linen"):
        return Model.from_linen(given)
    if callables.is_trainable(given):
        return Model.from_callable(given)
    raise TypeError(
        "model: expected a jaxloop.Model, a jaxloop.Loop, a flax.nnx.Module, a flax.linen.Module or a callable pytree "
        f"with arrays of floats (an equinox.Module), got {type(given).__name__}. Wrap a function as "
        "jaxloop.Model(apply, params, state), a module that takes one example as "
        "jaxloop.Model.from_callable(module, batched=False)."
    )


def _is_module(given: Any, package: str) -> bool:
    """Asked without importing flax, which whoever has such a module has imported already."""
    return any(kind.__name__ == "Module" and kind.__module__.startswith(package) for kind in type(given).__mro__)
