"""`Model`: what is trained, as a pytree of parameters and state behind one pure `apply`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.adapters import linen, nnx
from jaxloop.adapters import pytree as callables
from jaxloop.adapters.selection import is_trainable


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

    def call(self, function: Callable[[Any], Any], key: jax.Array | None = None) -> tuple[Any, "Model"]:
        """What `function(module)` gives, and the model with the state it leaves: for methods and several arguments.

        The module is in the model's mode, and holds its values. Methods that `function` calls are told the mode where
        they take it and are not given it, as `__call__` is (see `from_nnx`); of an nnx module in a list or the like
        say it yourself, by `model.training`. Not compiled: it is for what is, such as a `differentiable_step`.

        Args:
          function: takes what was given to `from_nnx`, `from_linen` (bound to its variables; what it has sown stands in
            `module.variables["intermediates"]`) or `from_callable`.
          key: key[], for the random streams of a linen module.

        Raises:
          TypeError: this model was made from a function, not a module.

        Example:
          >>> (mean, codes), model = model.call(lambda module: module.encode(images, labels))
        """
        call = getattr(self.apply, "call", None)
        if call is None:
            raise TypeError(
                "Model.call: this model was made of a function, apply(params, state, input), so there is no module to "
                "call. Call model.forward(input, key), where `input` may be any PyTree of arrays."
            )
        result, state = call(function, self.params, self.state, training=self.training, key=key)
        return result, dataclasses.replace(self, state=state)

    def replace(self, **fields: Any) -> "Model":
        """This model with other values in `fields`."""
        return dataclasses.replace(self, **fields)

    def unwrap(self) -> Any:
        """What the model was made from, with the values it has now: a copy, whose changes do not reach the model.

        In a `differentiable_step` use `call`, which keeps the state that a pass changes.

        Returns:
          An nnx module in the model's mode, `(module, variables)` of a linen module, a callable pytree, or this model.
        """
        restore = getattr(self.apply, "restore", None)
        return self if restore is None else restore(self.params, self.state, self.training)

    @staticmethod
    def from_nnx(module: Any, *, trained: Any = None, modes: Mapping[str, tuple[Any, Any]] | None = None) -> "Model":
        """A model from a `flax.nnx.Module`. The module itself is left as it is.

        The module is split once: every `nnx.Param` of floats or complex numbers is a parameter, all else (batch
        statistics, streams of random numbers, quantized weights) is state. Training and inference differ as
        `module.train()` and `module.eval()` do. Besides, the call is told the mode by its arguments `train`, `training`
        and `is_training` (True in training), `deterministic`, `inference` and `use_running_average` (False in
        training), whichever it has.
        Randomness is the module's own, by the `nnx.Rngs` it was made with, and carried in the state. What a pass does
        to a parameter itself is lost; parameters change by the optimizer alone.

        Args:
          module: a module that is called as `module(input)`.
          trained: an nnx filter, such as `nnx.LoRAParam`, of the variables that are parameters; the others are state.
          modes: what the call is told instead: by the name of an argument what it is in training and in inference.

        Raises:
          TypeError, ValueError: `trained` chooses nothing; `modes` does not fit the call, or, without it, an argument
            may say the mode or not, since it is no bool.

        Example:
          >>> model = Model.from_nnx(network, trained=nnx.LoRAParam, modes={"dropout_rate": (0.1, 0.0)})
        """
        return Model(*nnx.split(module, trained=trained, modes=modes))

    @staticmethod
    def from_linen(
        module: Any,
        variables: Any = None,
        *,
        trained: Any = None,
        modes: Mapping[str, tuple[Any, Any]] | None = None,
        rngs: Sequence[str] = (),
    ) -> "Model":
        """A model from a `flax.linen.Module`, called as `module.apply(variables, input)`.

        The collection `params` holds the parameters, those of floats or complex numbers; all others (batch statistics)
        are state, which training changes and inference does not. The values of `_overwrite_with_gradient` (scales of
        8-bit floats) become their gradients at each step, as flax has it. What is sown is dropped. The call is told the
        mode as in `from_nnx`. In training every random stream has a key that is derived from `key`; `dropout` has `key`
        itself.

        Args:
          module: is called with one input: an array or PyTree of arrays, batch first.
          variables: mapping of collections, as `module.init` gives it. None leaves it to `fit` and its kin:
            `module.init(jax.random.key(seed), input)` of the first batch, in inference mode.
          trained: `(path, leaf) -> bool`, with paths as `"Dense_0/kernel"`, or a tree of bools like
            `variables["params"]` or its upper part; the other parameters are state.
          modes: what the call is told instead: by the name of an argument what it is in training and in inference.
          rngs: names of random streams that it has in inference too, such as `("noise",)`.

        Raises:
          TypeError: `module` is no linen module with a `__call__`, or `variables` no mapping.
          ValueError: `variables` holds no `params`, or as `from_nnx`.

        Example:
          >>> model = Model.from_linen(network, network.init(jax.random.key(0), images, train=False))
          >>> network, variables = training_loop.fit(model, epochs=12)[0].model.unwrap()
        """
        return Model(*linen.split(module, variables, trained=trained, modes=modes, rngs=rngs))

    @staticmethod
    def from_callable(
        pytree: Any,
        *,
        batched: bool = True,
        inference: Any = None,
        trained: Any = None,
        modes: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> "Model":
        """A model from a pytree that can be called, such as an `equinox.Module` or a `jax.tree_util.Partial`.

        Leaves that are arrays of floats or complex numbers are parameters, named by their path; other arrays
        (integers, bools, keys) are state, which stays as it is; all else is static. Two that differ in arrays
        alone share their programs. Where it accepts `key`, the key of the step is passed, in both modes; where an
        argument says the mode, it is told as in `from_nnx`.

        Args:
          pytree: called as `pytree(input)`, or `pytree(input, key=key)`.
          batched: whether it takes a batch. With False it takes one example, as equinox's layers do, and is mapped
            over the first axis of the input by `jax.vmap`, the key split. (`jax.vmap(module)` itself is a
            function whose arrays cannot be seen.)
          inference: what is called in inference instead, with the values of `pytree`: attributes that say the mode
            are never guessed.
          trained: `(path, leaf) -> bool`, with paths as `"layers[0].weight"`, or a tree of bools like `pytree` or its
            upper part; other arrays are state.
          modes: what the call is told instead: by the name of an argument what it is in training and in inference.

        Raises:
          TypeError: `pytree` cannot be called.
          ValueError: it has no array of floats, `inference` is another pytree, or as `from_nnx`.

        Example:
          >>> mlp = equinox.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
          >>> model = Model.from_callable(mlp, batched=False, inference=equinox.nn.inference_mode(mlp))
        """
        split = callables.split(pytree, batched=batched, inference=inference, trained=trained, modes=modes)
        return Model(*split)


def overwritten_state(model: Model) -> dict[str, Any]:
    """The entries of the state whose new value is the gradient of the loss by them; see `Model.from_linen`."""
    names = getattr(model.apply, "overwritten", ())
    return {name: model.state[name] for name in names if name in model.state}


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
      ValueError: it has no variables, and there is nothing to make them from; or a parameter has no gradient.
    """
    model = _adapted(given)
    _check_params(model.params)
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


def _check_params(params: Any) -> None:
    """Refuses parameters that have no gradient, which JAX would refuse without their name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not is_trainable(leaf):
            shape = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else f"{type(leaf).__name__}, {leaf!r}"
            raise ValueError(
                f"model: params{jax.tree_util.keystr(path)} is {shape}, which has no gradient: only arrays of floats "
                "and complex numbers are trained. Put it into the state, as jaxloop.Model(apply, params, state)."
            )


def _adapted(given: Any) -> Model:
    if isinstance(given, Model):
        return given
    if _is_module(given, "flax.nnx"):
        return Model.from_nnx(given)
    if _is_module(given, "flax.linen"):
        return Model.from_linen(given)
    if callables.has_trainable(given):
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
