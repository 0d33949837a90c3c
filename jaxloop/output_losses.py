"""Losses by output: one loss function made of one for each of a model's outputs, as their weighted sum."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.broadcasting import check_spread
from jaxloop.outputs import Key, keys_of, output_and_target, part_of, said
from jaxloop.precision import widened

LossFn = Callable[[Any, Any], jax.Array]
#: What a loss may be given as: one function, or for each output a function, a function and its weight, or None.
Losses = LossFn | Mapping[Any, LossFn | tuple[LossFn, float] | None]


@dataclass(frozen=True)
class OutputLoss:
    """The loss of one output.

    Attributes:
      key: of the output, and of its target.
      fn: `fn(output, target)`, one loss per example or token, or a scalar.
      weight: what it is multiplied by in the total loss.
    """

    key: Key
    fn: LossFn
    weight: float

    def __call__(self, output: Any, target: Any) -> jax.Array:
        """Its loss, without the weight, from the whole output and the whole target."""
        where = f"loss_fn: {self.key!r}"
        pair = output_and_target(where, output, target, self.key, None)
        check_spread(where, self.fn, *pair)
        return self.fn(*pair)


@dataclass(frozen=True)
class OutputLosses:
    """A loss function of several outputs: the weighted sum of their losses.

    Attributes:
      parts: the loss of each output that has one.
      without: the outputs that have none on purpose.
    """

    parts: tuple[OutputLoss, ...]
    without: tuple[Key, ...] = ()

    def __call__(self, output: Any, target: Any) -> jax.Array:
        """The total loss, of the shape that all losses have.

        Raises:
          ValueError: an output has no loss, or a loss has no output or no target, or the shapes of losses differ.
        """
        self._check(output)
        losses = {part.key: widened(part(output, target)) for part in self.parts}
        shapes = {key: loss.shape for key, loss in losses.items()}
        if len(set(shapes.values())) > 1:
            given = ", ".join(f"{key!r} {list(shape)}" for key, shape in shapes.items())
            raise ValueError(
                f"loss_fn: the losses of all outputs must have one shape, to be added and masked alike, got {given}. "
                "Let each give one per example, such as the mean over its tokens, or write a `differentiable_step`."
            )
        dtype = np.result_type(*(loss.dtype for loss in losses.values()))
        losses = {key: loss.astype(dtype) for key, loss in losses.items()}
        counted = [jnp.asarray(part.weight, dtype) * losses[part.key] for part in self.parts if part.weight]
        return functools.reduce(jnp.add, counted, jnp.zeros_like(losses[self.parts[0].key]))

    def _check(self, output: Any) -> None:
        found, given = keys_of(output), [part.key for part in self.parts]
        if found is None:
            shape = list(getattr(output, "shape", ()))
            raise ValueError(
                f"loss_fn: it gives losses for the outputs {said(given)}, but the model gives one array of shape "
                f"{shape}. Give one loss function, or let the model return a mapping of outputs."
            )
        for key in (*given, *self.without):
            part_of("loss_fn", "output", output, key)
        places = dict(enumerate(found))
        missing = [key for place, key in places.items() if not {key, place} & {*given, *self.without}]
        if missing:
            raise ValueError(
                f"loss_fn: the output {missing[0]!r} has no loss; the outputs are {said(found)}, and there are losses "
                f"for {said(given)}. Give it one, or {missing[0]!r}: None if it shall have none."
            )


def as_loss_fn(loss_fn: Any) -> LossFn | None:
    """`loss_fn` itself, or one function of a mapping from outputs to their losses.

    Raises:
      ValueError: the mapping is empty, or a weight is not a finite number.
      TypeError: a loss in it is no function.
    """
    if not isinstance(loss_fn, Mapping):
        return loss_fn
    parts = tuple(_part(key, given) for key, given in loss_fn.items() if given is not None)
    if not parts:
        raise ValueError(
            "TrainingLoop: `loss_fn` is a mapping without any loss. Give a loss for each output, as "
            '{"digit": jl.losses.softmax_cross_entropy}.'
        )
    return OutputLosses(parts, tuple(key for key, given in loss_fn.items() if given is None))


def _part(key: Any, given: Any) -> OutputLoss:
    """The loss of one output, from what the user gives for it."""
    if not isinstance(key, (str, int)) or isinstance(key, bool):
        raise TypeError(
            f"TrainingLoop: the keys of `loss_fn` must be names of outputs, or their places in a tuple, got {key!r}."
        )
    pair: Any = given if isinstance(given, tuple) else (given, 1.0)
    if len(pair) != 2 or not callable(pair[0]):
        raise TypeError(
            f"TrainingLoop: `loss_fn` must have for each output a function of (output, target), or the function and "
            f"its weight, got {given!r} for {key!r}. Write {{{key!r}: (jl.losses.softmax_cross_entropy, 0.5)}}."
        )
    weight = pair[1]
    if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not math.isfinite(weight):
        raise ValueError(f"TrainingLoop: in `loss_fn` the weight of {key!r} must be a finite number, got {weight!r}.")
    return OutputLoss(key, pair[0], float(weight))
