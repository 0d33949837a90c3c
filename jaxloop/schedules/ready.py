"""Common schedules, as ready lists of segments for a fit of any length."""

import numbers

from jaxloop.schedules.segments import ScheduleSegment
from jaxloop.schedules.shapes import AnyShape, Rate, cosine, linear


def one_cycle(
    peak_rate: Rate,
    *,
    start_rate: Rate | None = None,
    end_rate: Rate | None = None,
    rise: int | float = 0.45,
    fall: int | float = 0.45,
    shape: AnyShape = linear,
) -> list[ScheduleSegment]:
    """The segments of one cycle: up to `peak_rate`, back down, and a last decay far below until the end of the fit.

    Smith and Topin: Super-Convergence, Very Fast Training of Neural Networks Using Large Learning Rates, 2017. In
    Smith: A Disciplined Approach to Neural Network Hyper-Parameters, 2018, the momentum falls while the rate rises:
    `hyperparameter_scheduler("momentum", make_schedule(one_cycle(0.85, start_rate=0.95, end_rate=0.95)))`.

    Args:
      peak_rate: the rate in the middle of the cycle.
      start_rate: the rate at both ends of the cycle; by default `peak_rate / 25`.
      end_rate: the rate at the end of the fit; by default `start_rate / 10_000`.
      rise, fall: the lengths of the way up and the way down, each as a number of steps, at least 2, or as a share of
        the fit.
      shape: the shape of the three segments.

    Raises:
      TypeError, ValueError: an argument has a wrong type, or is outside of its bounds; the message names it.

    Example:
      >>> schedule = jl.make_schedule(jl.one_cycle(0.5))
    """
    _check_length("one_cycle", "rise", rise)
    _check_length("one_cycle", "fall", fall)
    if _is_share(rise) and _is_share(fall) and rise + fall >= 1:
        raise ValueError(
            f"one_cycle: `rise` and `fall` must leave a share for the decay that follows, got {rise} + {fall}. "
            "Make them smaller, such as 0.45 each."
        )
    low = peak_rate / 25 if start_rate is None else start_rate
    last = low / 10_000 if end_rate is None else end_rate
    return [
        ScheduleSegment(shape, start_rate=low, end_rate=peak_rate, step_count=rise),
        ScheduleSegment(shape, end_rate=low, step_count=fall),
        ScheduleSegment(shape, end_rate=last),
    ]


def warmup_cosine(
    peak_rate: Rate, warmup: int | float, *, start_rate: Rate = 0.0, end_rate: Rate = 0.0
) -> list[ScheduleSegment]:
    """The segments of a linear warm-up to `peak_rate`, and of a cosine decay from there to the end of the fit.

    Args:
      peak_rate: the rate at the end of the warm-up.
      warmup: the length of the warm-up, as a number of steps with both ends included, at least 2; or as a share of the
        fit.
      start_rate, end_rate: the rates at the first and at the last step.

    Raises:
      TypeError, ValueError: an argument has a wrong type, or is outside of its bounds; the message names it.

    Example:
      >>> schedule = jl.make_schedule(jl.warmup_cosine(1e-3, warmup=0.05))
    """
    _check_length("warmup_cosine", "warmup", warmup)
    return [
        ScheduleSegment(linear, start_rate=start_rate, end_rate=peak_rate, step_count=warmup),
        ScheduleSegment(cosine, end_rate=end_rate),
    ]


def _check_length(where: str, name: str, length: int | float) -> None:
    """Refuses a length that the segment would refuse, and a single step, in which the rate could not change."""
    whole = isinstance(length, numbers.Integral) and length >= 2
    if not (whole or (_is_share(length) and 0 < length < 1)):
        raise ValueError(
            f"{where}: `{name}` must be a whole number of at least 2 steps, or a share of the fit between 0.0 and 1.0, "
            f"got {length!r}."
        )


def _is_share(length: int | float) -> bool:
    return isinstance(length, numbers.Real) and not isinstance(length, numbers.Integral)
