"""`Model`: what is trained, as a pytree of parameters and state with one pure function, `apply`."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.adapters import linen, nnx
from jaxloop.adapters import pytree as callables
from jaxloop.adapters.selection import is_trainable
from jaxloop.pickling import IN_PLACE_OF_A_MODEL, check_can_be_pickled
from jaxloop.shown import amount, array_rows, name_of_function, table


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
      params: PyTree of arrays, which are differentiated and updated. A complex array is trained as its real and
        imaginary parts would be.
      state: PyTree of arrays that the forward pass changes (batch statistics, streams of random numbers).
      training: the mode of `model(input)` and `model.forward`: training or inference; static.

    `from_nnx`, `from_linen` and `from_callable` turn the modules of other libraries into models. A library without
    such a method needs an `apply`. For haiku it is two lines, with a `network(images, training)`:

    >>> transformed = hk.transform_with_state(network)
    >>> def apply(params, state, images, *, training, key):
    ...     return transformed.apply(params, state, key, images, training)
    >>> model = Model(apply, *transformed.init(jax.random.key(0), images, True))

    Example:
      >>> model = Model(lambda params, state, x, *, training, key: (x @ params["w"], state), {"w": w}, {})
      >>> logits = model(images)
    """

    apply: Callable[..., tuple[Any, Any]]
    params: Any
    state: Any = dataclasses.field(default_factory=dict)
    training: bool = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        check_can_be_pickled(self.apply, "Model: this model, or a loop with it,", IN_PLACE_OF_A_MODEL)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Model({amount(self.params)}; {name_of_function(self.apply)})"

    def _repr_html_(self) -> str:
        return table(repr(self), array_rows(self.params), header=("parameter", "array", "elements"))

    def __copy__(self) -> "Model":
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: Any) -> "Model":
        return Model(**{name: copy.deepcopy(value, memo) for name, value in vars(self).items()})

    def __call__(self, input: Any, key: jax.Array | None = None) -> Any:
        """The output for `input`, in the model's mode, which is inference unless `training` is set. Compiled."""
        return _output(self, input, key)

    def forward(self, input: Any, key: jax.Array | None = None) -> tuple[Any, "Model"]:
        """The output, and the model with the state after the forward pass. Not compiled.

        Args:
          input: PyTree of arrays, as in a batch.
          key: key[], for a function or a linen module that draws random numbers in training.
        """
        result = self.apply(self.params, self.state, input, training=self.training, key=key)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            what = "one array" if hasattr(result, "dtype") else f"a {type(result).__name__}"
            raise TypeError(
                f"model: `apply` must return (output, state), got {what}. End it with `return output, state`."
            )
        output, state = result
        return output, dataclasses.replace(self, state=state)

    def call(self, function: Callable[[Any], Any], key: jax.Array | None = None) -> tuple[Any, "Model"]:
        """The result of `function(module)`, and the model with the state after it: for methods and several arguments.

        The module has the model's mode and values. If a method that `function` calls takes an argument for the mode,
        such as `train`, and `function` does not pass it, it is passed here, as it is to `__call__` (see `from_nnx`).
        This does not reach nnx modules inside of a list or another container: pass the mode there, as
        `model.training`. This method is not compiled. Call it in something that is, such as a `differentiable_step`.

        Args:
          function: takes what was given to `from_nnx`, `from_linen` or `from_callable`. A linen module is bound to its
            variables, and what it has sown is in `module.variables["intermediates"]`.
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
        """What the model was made from, with its present values. It is a copy: changing it does not change the model.

        In a `differentiable_step` use `call`, which keeps the state that a pass changes. An nnx module is in the mode
        of the model: `model.replace(training=True).unwrap()` is in training mode.

        Returns:
          An nnx module in the model's mode, `(module, variables)` of a linen module, a callable pytree, or this model.
        """
        restore = getattr(self.apply, "restore", None)
        return self if restore is None else restore(self.params, self.state, self.training)

    @staticmethod
    def from_nnx(module: Any, *, trained: Any = None, modes: Mapping[str, tuple[Any, Any]] | None = None) -> "Model":
        """A model from a `flax.nnx.Module`. The module itself is not changed.

        The module is split once. Every `nnx.Param` of floats or complex numbers is a parameter. Everything else is
        state: batch statistics, streams of random numbers, quantized weights. Training and inference differ as
        `module.train()` and `module.eval()` do. In addition the call gets the mode by those of these arguments that
        it takes: `train`, `training` and `is_training` are True in training; `deterministic`, `inference` and
        `use_running_average` are False in training.
        Random numbers come from the `nnx.Rngs` that the module was made with, which are kept in the state. A change
        that a pass makes to a parameter is lost: only the optimizer changes parameters.

        Args:
          module: a module that is called as `module(input)`.
          trained: an nnx filter, such as `nnx.LoRAParam`, for the variables that are parameters. The others are state
            and keep their bits.
          modes: which arguments say the mode, in place of those above: maps the name of each to its values in training
            and in inference.

        Raises:
          TypeError, ValueError: `trained` chooses nothing; or `modes` does not fit the call; or, without `modes`, it is
            not clear whether an argument says the mode, since it is not a bool.

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

        Floats and complex numbers in the collection `params` are the parameters. All else is state, such as batch
        statistics: training changes it, and inference does not. The values of the collection
        `_overwrite_with_gradient` (scales of 8-bit floats) become their gradients at each step, as flax defines it.
        What the module sows is dropped. The call gets the mode as in `from_nnx`. In training the random stream
        `dropout` has the key `key`, and every other stream has a key derived from it.

        Args:
          module: is called with one input: an array or PyTree of arrays, batch first.
          variables: mapping of collections, as `module.init` gives it. With None, `fit`, `start` and the others make it
            from the first batch, by `module.init(jax.random.key(seed), input)` in inference mode.
          trained: which parameters are trained: `(path, leaf) -> bool`, with paths such as `"Dense_0/kernel"`; or a
            tree of bools like `variables["params"]` or its upper part. The others are state and keep their bits.
          modes: as in `from_nnx`.
          rngs: the names of random streams that the module needs in inference too, such as `("noise",)`.

        Raises:
          TypeError: `module` is not a linen module with a `__call__`, or `variables` is not a mapping.
          ValueError: `variables` holds no `params`; or as in `from_nnx`.

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

        Arrays of floats or complex numbers among its leaves are parameters, named by their path. Other arrays
        (integers, bools, keys) are state, and never change. All other leaves are static. Two pytrees that differ only
        in their arrays share their programs. If the call accepts `key`, it gets the key of the step, in both modes. If
        an argument says the mode, it is passed as in `from_nnx`. A module with a state of its own, such as equinox's
        batch norm, needs `Model(apply, params, state)` instead.

        Args:
          pytree: called as `pytree(input)`, or `pytree(input, key=key)`.
          batched: whether it takes a batch. With False it takes one example, as equinox's layers do. Then it is mapped
            over the first axis of the input by `jax.vmap`, with a key for each example. (`jax.vmap(module)` itself is a
            function, in which arrays cannot be found.)
          inference: the pytree that is called in inference, with the values of `pytree`. Attributes that say the mode
            are never guessed: give for instance `equinox.nn.inference_mode(module)`.
          trained: which arrays are trained: `(path, leaf) -> bool`, with paths such as `"layers[0].weight"`; or a tree
            of bools like `pytree` or its upper part. The others are state and keep their bits.
          modes: as in `from_nnx`.

        Raises:
          TypeError: `pytree` cannot be called.
          ValueError: it has no array of floats; or `inference` is another pytree; or as in `from_nnx`.

        Example:
          >>> mlp = equinox.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
          >>> model = Model.from_callable(mlp, batched=False, inference=equinox.nn.inference_mode(mlp))
        """
        split = callables.split(pytree, batched=batched, inference=inference, trained=trained, modes=modes)
        return Model(*split)


def overwritten_state(model: Model) -> dict[str, Any]:
    """The entries of the state that are replaced by their own gradients; see `Model.from_linen`."""
    names = getattr(model.apply, "overwritten", ())
    return {name: model.state[name] for name in names if name in model.state}


@functools.partial(jax.jit, inline=True)
def _output(model: Model, input: Any, key: jax.Array | None) -> Any:
    return model.forward(input, key)[0]


def as_model(given: Any, beginning: Callable[[], tuple[jax.Array, Any]] | None = None) -> Model:
    """`given` as a `Model`: itself, or what one of its `from_` methods makes of it.

    Args:
      given: a model, a flax nnx or linen module, or a callable pytree with an array of floats.
      beginning: gives the key, key[], and the input that initialize a linen module without variables.

    Raises:
      TypeError: it is not a kind of model that is known.
      ValueError: it has no variables, and there is nothing to make them from; or a parameter has no gradient.
    """
    model = adapted(given)
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


def adapted(given: Any) -> Model:
    """As `as_model`, except that the params of a linen module without variables are None."""
    model = _adapted(given)
    _check_params(model.params)
    return model


def _check_params(params: Any) -> None:
    """Refuses parameters that have no gradient. JAX would refuse them too, but without their name."""
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
    if is_module(given, "flax.nnx"):
        return Model.from_nnx(given)
    if is_module(given, "flax.linen"):
        return Model.from_linen(given)
    if isinstance(given, tuple) and len(given) == 2 and is_module(given[0], "flax.linen"):  # as `unwrap` gives it
        return Model.from_linen(*given)
    if callables.has_trainable(given):
        return Model.from_callable(given)
    if isinstance(given, tuple) and given and all(hasattr(given[0], name) for name in ("model", "opt_state")):
        raise TypeError("model: expected a model or a loop, got a tuple: `fit` gives (loop, history). Take [0].")
    raise TypeError(
        "model: expected a jaxloop.Model, a jaxloop.Loop, a flax.nnx.Module, a flax.linen.Module or a callable pytree "
        f"with arrays of floats (an equinox.Module), got {type(given).__name__}. Wrap a function as "
        "jaxloop.Model(apply, params, state), a module that takes one example as "
        "jaxloop.Model.from_callable(module, batched=False), variables of linen as "
        "jaxloop.Model.from_linen(module, variables)."
    )


def is_module(given: Any, package: str) -> bool:
    """Whether `given` is a module of this package. It imports nothing: a caller with such a module has done so."""
    return any(kind.__name__ == "Module" and kind.__module__.startswith(package) for kind in type(given).__mro__)
