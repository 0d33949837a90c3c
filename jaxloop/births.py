"""How a model is born in place: by one program that makes all its arrays where they are to lie."""

import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from jaxloop.adapters import nnx
from jaxloop.kinds import kind_name, strong
from jaxloop.long_work import long_work
from jaxloop.loop import Loop
from jaxloop.model import Model, adapted, as_model, is_module
from jaxloop.tracers import tracers_in

Beginning = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Birth:
    """A model that is not there yet.

    Attributes:
      model: with `jax.ShapeDtypeStruct`s in place of its arrays. Its `apply` is the one that the model will have.
      make: makes the model of `arguments`. It can be traced, and is to be jitted.
      arguments: what the first batch and the key of a linen module are; else nothing.
    """

    model: Model
    make: Callable[..., Model]
    arguments: tuple[Any, ...]


def is_factory(given: Any) -> bool:
    """Whether `given` makes a model when it is called without arguments: a function, a method, a partial of them.

    What can be called and is a model is no factory: a module, or a pytree with arrays.

    Raises:
      TypeError: it is a class; or a function that needs arguments.
    """
    if isinstance(given, type):
        raise TypeError(
            f"model: expected an instance of a model, or a function that makes one, got the class {given.__name__}. "
            f"Write lambda: {given.__name__}(...)."
        )
    if not _is_function(given):
        return False
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # a built-in function can be without a signature
        return True
    try:
        signature.bind()
    except TypeError:
        raise TypeError(
            f"model: a function that makes the model is called without arguments, and {_name(given)} needs some: "
            f"{signature}. Wrap it: lambda: make(config). Wrap a function that computes outputs as "
            "jaxloop.Model(apply, params, state), a module that takes one example as "
            "jaxloop.Model.from_callable(module, batched=False)."
        ) from None
    return True


def birth(factory: Callable[[], Any], beginning: Beginning | None = None) -> Birth:
    """How `factory` makes its model. It is called once, and traced: no array is made.

    All leaves will be strong arrays. Flax does not place what has partitioning metadata: who runs `make` does.

    Args:
      factory: makes what `as_model` takes.
      beginning: as in `as_model`, for a linen module without variables. The key and the input may be abstract.

    Raises:
      TypeError: the factory gives no model; or it leaves an array where it outlives the program that makes the model.
    """
    model, make = _traced(lambda: _model_of(factory), _name(factory))
    initialize: Any = getattr(model.apply, "initialize", None)
    if initialize is None or model.params is not None or beginning is None:
        return Birth(as_model(model), make, ())  # which refuses a linen module that nothing initializes
    given, tree = jax.tree.flatten(beginning())

    def initialized(*leaves: Any) -> Model:
        return as_model(model, lambda: jax.tree.unflatten(tree, leaves))

    return Birth(*_traced(initialized, _name(factory), *given), tuple(given))


def abstract(factory: Callable[[], Any], beginning: Beginning | None = None) -> Model:
    """The model that `factory` makes, with `jax.ShapeDtypeStruct`s in place of its arrays. See `birth`."""
    return birth(factory, beginning).model


def born(
    factory: Callable[[], Any],
    beginning: Beginning | None = None,
    shardings: Callable[[Model], Any] | None = None,
) -> Model:
    """The model that `factory` makes, each array of which has only ever been where it lies.

    The values are those of `factory()`, up to the rounding of a program in which XLA fuses operations.

    Args:
      factory, beginning: as in `birth`. What is abstract of the input is zeros; the key is not abstract.
      shardings: gives, for the abstract model, the `out_shardings` of the program: a sharding, or a model with
        shardings or None in place of arrays. Without it JAX's default device has the model.
    """
    coming = birth(factory, beginning)
    out_shardings = None if shardings is None else shardings(coming.model)
    with long_work():
        return jax.jit(coming.make, out_shardings=out_shardings)(*map(_filled, coming.arguments))


def _filled(leaf: Any) -> Any:
    return np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf


def _traced(function: Callable[..., Model], name: str, *arguments: Any) -> tuple[Model, Callable[..., Model]]:
    """The abstract result of `function`, and the program that it was traced to.

    The function is traced once, since what it does besides (drawing from NumPy's global generator, printing) would
    happen once if it were called.
    """
    leaves: list[weakref.ref[Tracer]] = []

    def born(*arguments: Any) -> Model:
        model = function(*arguments)
        leaves.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(model) if isinstance(leaf, Tracer))
        return jax.tree.map(strong, model)

    with long_work():
        jaxpr, model = jax.make_jaxpr(born, return_shape=True)(*arguments)
    _refuse_leaks(model, leaves, name)
    tree = jax.tree.structure(model)

    def make(*arguments: Any) -> Model:
        return jax.tree.unflatten(tree, jaxpr_as_fun(jaxpr)(*arguments))

    make.__name__ = make.__qualname__ = "born"
    return model, make


def _model_of(factory: Callable[[], Any]) -> Model:
    """What the factory gives, as a model; a linen module has no variables yet."""
    name = _name(factory)
    with nnx.placed_later():
        try:
            given = factory()
        except Exception as error:
            error.add_note(
                f"jaxloop: {name} is called inside of jax.jit, so that the model is born in place. What it changes, "
                "such as nnx.Rngs, must be made in it, and Python cannot see the numbers of its arrays. To make the "
                "model outside, call it and give what it returns."
            )
            raise
        if given is None:
            raise TypeError(f"model: {name} returned None, and it is called to make the model. Write `return model`.")
        if isinstance(given, Loop):
            raise TypeError(
                f"model: {name} returned a jaxloop.Loop, and it is called to make a model. Return loop.model, or give "
                "the loop itself."
            )
        try:
            return adapted(given)
        except Exception as error:
            error.add_note(f"jaxloop: {name} returned it.")
            raise


def _refuse_leaks(model: Model, leaves: list["weakref.ref[Tracer]"], name: str) -> None:
    """Refuses a model that holds arrays of its own making where no program can give them back.

    Raises:
      TypeError: as `birth` says.
    """
    held = next(tracers_in(model.apply), None)
    if held is not None:
        raise TypeError(
            f"model: {name} makes an array, {kind_name(held[1])}, that the forward pass holds outside of the params "
            f"and the state: as apply{held[0]}. The model is born inside of jax.jit, where that array is lost. Make it "
            "by NumPy, or in the forward pass, or put it into the state (in flax nnx as an nnx.Variable)."
        )
    if any(leaf() is not None for leaf in leaves):
        gc.collect()  # a cycle of the module's own is no leak
    if any(leaf() is not None for leaf in leaves):
        raise TypeError(
            f"model: {name} leaves an array of the model in a place that outlives the call: a global, an attribute, a "
            "cache. In a model made in place it has no value there. Only return the model, and take what else is "
            "needed of the loop that fit returns."
        )


def _is_function(given: Any) -> bool:
    """Whether `given` is called for what it returns, and holds no arrays."""
    if isinstance(given, Model) or not callable(given) or is_module(given, "flax."):
        return False
    if any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(given)):
        return False
    wraps = isinstance(given, functools.partial) or hasattr(given, "__wrapped__")  # as jax.jit and functools.cache do
    return wraps or inspect.isroutine(given)


def _name(factory: Any) -> str:
    """Its name, for messages."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    name = getattr(factory, "__name__", type(factory).__name__)
    return "the function" if name == "<lambda>" else name
