"""The shapes of a way from one rate to another: `linear`, `cosine`, `exponential`, `polynomial`, or any curve."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = [
    "Shape",
    "cosine",
    "exponential",
    "linear",
    "polynomial",
]


def __dir__() -> list[str]:
    return sorted(__all__)


#: A real number, or a scalar array, which may be traced.
Rate = float | jax.Array


class AnyShape(Protocol):
    """What a segment takes as its shape."""

    def between(self, start: Rate, end: Rate, width: int, /) -> optax.Schedule:
        """The rates from `start` at step 0 to `end` at step `width`, which is at least 1. It makes no array."""
        ...


@dataclass(frozen=True)
class Shape:
    """The shape of any curve on [0, 1], stretched so that it leads from the start rate to the end rate.

    `end + (start - end) * (curve(1) - curve(x)) / (curve(1) - curve(0))`, where x goes from 0 to 1 over the segment.
    The curve is called on the host, once for each step, when the schedule is made. The program holds its values.

    Args:
      curve: takes a float from 0 to 1 and gives a real number; in plain Python or NumPy.

    Raises:
      ValueError: it has the same value at 0 and at 1, or a value that is not finite.
      TypeError: it gives something that is not a number.

    Example:
      >>> smooth = jl.shapes.Shape(lambda x: x * x * (3 - 2 * x))
      >>> jl.ScheduleSegment(smooth, start_rate=0.0, end_rate=0.1, step_count=100)
    """

    curve: Callable[[float], Any]

    def __post_init__(self) -> None:
        if not callable(self.curve):
            raise TypeError(f"Shape: `curve` must be a function, got {self.curve!r}. Write Shape(lambda x: x * x).")
        first, last = _sampled(self.curve, [0.0, 1.0])
        if first == last:
            raise ValueError(
                f"Shape: the curve must have different values at 0 and at 1, so that it can be stretched; both are "
                f"{first:g}. For a constant rate write linear with equal rates."
            )

    def between(self, start: Rate, end: Rate, width: int) -> optax.Schedule:
        samples = _sampled(self.curve, [step / width for step in range(width + 1)])
        left = ((samples[-1] - samples) / (samples[-1] - samples[0])).astype(np.float32)
        return lambda step: end + (start - end) * jnp.asarray(left)[jnp.asarray(step).astype(jnp.int32)]


@dataclass(frozen=True)
class _Formula:
    """A shape that the program computes at each step. Two of the same name are equal."""

    name: str
    between: Callable[[Rate, Rate, int], optax.Schedule] = field(compare=False)

    def __repr__(self) -> str:
        return self.name


def polynomial(power: float) -> AnyShape:
    """The shape `end + (start - end) * (1 - x)**power`, as in `optax.polynomial_schedule`.

    With a power above 1 the rate changes most at the beginning, with a power below 1 at the end.

    Args:
      power: above 0.

    Raises:
      ValueError: `power` is not above 0, or not finite.

    Example:
      >>> segment = jl.ScheduleSegment(jl.shapes.polynomial(2), start_rate=0.1, end_rate=0.0)
    """
    if isinstance(power, bool) or not isinstance(power, numbers.Real) or not 0 < power < math.inf:
        raise ValueError(f"polynomial: `power` must be a number above 0, got {power!r}. Write polynomial(2).")
    exponent = int(power) if power == int(power) else float(power)
    return _Formula(
        f"polynomial({exponent})", lambda start, end, width: optax.polynomial_schedule(start, end, exponent, width)
    )


def _cosine(start: Rate, end: Rate, width: int) -> optax.Schedule:
    left = optax.cosine_decay_schedule(1.0, width)
    return lambda step: (
        end + (start - end) * left(jnp.asarray(step, float))
    )  # strict dtype promotion takes no integer there


def _exponential(start: Rate, end: Rate, width: int) -> optax.Schedule:
    # `optax.exponential_decay` tests whether its decay rate is 0. A traced rate cannot be tested.
    return lambda step: start * jnp.power(end / start, step / width)


linear: AnyShape = _Formula("linear", optax.linear_schedule)
"""The straight line, `end + (start - end) * (1 - x)`, where x goes from 0 to 1 over the segment."""

cosine: AnyShape = _Formula("cosine", _cosine)
"""Half a wave, `end + (start - end) * (1 + cos(pi x)) / 2`: flat at both ends (Loshchilov and Hutter: SGDR, 2017)."""

exponential: AnyShape = _Formula("exponential", _exponential)
"""The same factor at each step, `start * (end / start)**x`; both rates must be of one sign, and not 0."""


def _sampled(curve: Callable[[float], Any], places: Sequence[float]) -> np.ndarray:
    """float64[places]: the curve's values, computed at once, even if the schedule is made inside of a trace."""
    with jax.ensure_compile_time_eval():
        given = [curve(place) for place in places]
        try:
            values = np.array([float(value) for value in given])
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Shape: the curve must give a number for each number from 0 to 1, got {given[0]!r} at {places[0]:g}."
            ) from error
    wild = np.flatnonzero(~np.isfinite(values))
    if len(wild):
        raise ValueError(
            f"Shape: the curve must be finite from 0 to 1; at {places[wild[0]]:g} it is {values[wild[0]]}."
        )
    return values
