"""Segments, and the schedule that they make when the number of steps is known."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxloop.schedules.shapes import AnyShape, Rate, exponential, polynomial
from jaxloop.whole_number import MOST

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ScheduleSegment:
    """A part of a schedule, from one rate to another. It includes both its ends.

    Args:
      shape: one of `jaxloop.shapes`.
      start_rate: the rate at its first step; by default the end rate of the segment before, and 0 for the first one.
      end_rate: the rate at its last step.
      step_count: the number of its steps with both ends included, at least 1; or, as a float between 0 and 1, its share
        of the fit. Only the last segment may leave it out: it ends with the fit.

    Raises:
      TypeError, ValueError: an argument has a wrong type, or is outside of its bounds; the message names it.

    Example:
      >>> jl.ScheduleSegment(jl.shapes.linear, start_rate=0.0, end_rate=0.1, step_count=10)
    """

    shape: AnyShape
    _: KW_ONLY
    start_rate: Rate | None = None
    end_rate: Rate
    step_count: int | float | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.shape, "between"):
            fix = "Call it: polynomial(2)." if self.shape is polynomial else "Write shapes.Shape(curve)."
            raise TypeError(f"ScheduleSegment: `shape` must be one of jaxloop.shapes, got {self.shape!r}. {fix}")
        _check_rate("end_rate", self.end_rate)
        if self.start_rate is not None:
            _check_rate("start_rate", self.start_rate)
        count = self.step_count
        whole = isinstance(count, numbers.Integral) and not isinstance(count, bool) and count >= 1
        share = isinstance(count, numbers.Real) and not isinstance(count, numbers.Integral) and 0 < count < 1
        if not (count is None or whole or share):
            raise ValueError(
                "ScheduleSegment: `step_count` must be a whole number of at least 1, or the share of the fit's steps "
                f"between 0.0 and 1.0, got {count!r}. Leave it out to run to the end."
            )


@dataclass(frozen=True)
class SegmentedSchedule:
    """The result of `make_schedule`: segments, which become an optax schedule when the number of steps is given.

    Two are equal if their segments are equal. A call with `total_steps` gives a function of the step, counted from 0.
    Steps after the last keep the last rate.

    Example:
      >>> schedule = jl.make_schedule(jl.warmup_cosine(0.1, warmup=0.1))
      >>> float(schedule(1000)(999)) < 0.001
      True
    """

    segments: tuple[ScheduleSegment, ...]

    def __call__(self, total_steps: int) -> optax.Schedule:
        """The schedule of a fit of `total_steps` steps. It makes no array.

        Raises:
          ValueError: the segments end before the fit does, or `total_steps` is no whole number from 1 to 2**31 - 1.
        """
        opening, pieces = self._laid_out(total_steps)
        if not pieces:
            return optax.constant_schedule(opening)
        schedules = [optax.constant_schedule(opening), *(piece.after_its_joint() for piece in pieces)]
        return optax.join_schedules(schedules, [piece.joint + 1 for piece in pieces])

    def plot(self, total_steps: int) -> "Figure":
        """A figure of the rate at each of `total_steps` steps, with marks at the ends of the segments.

        Raises:
          ModuleNotFoundError: matplotlib is not installed.
          ValueError: as in a call.

        Example:
          >>> schedule.plot(total_steps=1000).savefig("schedule.png")
        """
        try:
            import matplotlib.figure  # noqa: F401 - first, so that it is what is missed

            from jaxloop.shown_figure import ShownFigure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "make_schedule(...).plot: it needs matplotlib, which is not installed. Install jaxloop with its extra "
                "`plot`, as in `pip install 'jaxloop[plot]'`, or only matplotlib."
            ) from error
        _, pieces = self._laid_out(total_steps)
        steps = np.arange(total_steps)
        rates = np.broadcast_to(self(total_steps)(steps), steps.shape)
        ends = [0, *(piece.joint + piece.width for piece in pieces if piece.joint + piece.width < total_steps)]
        figure = ShownFigure(figsize=(6.4, 3.2), layout="constrained")
        panel = figure.subplots()
        panel.plot(steps, rates, color="#0072B2", linewidth=1.8)
        panel.plot(ends, rates[ends], "o", color="#0072B2", markersize=5)
        panel.set(xlabel="step", ylabel="rate")
        panel.spines[["top", "right"]].set_visible(False)
        return figure

    def _laid_out(self, total_steps: int) -> "tuple[Rate, list[_Piece]]":
        """The rate at step 0, and the segments of more than one step, each in its place."""
        if isinstance(total_steps, bool) or not isinstance(total_steps, numbers.Integral) or total_steps < 1:
            raise ValueError(f"make_schedule: `total_steps` must be a Python int of at least 1, got {total_steps!r}.")
        if total_steps > MOST:
            raise ValueError(
                f"make_schedule: `total_steps` must be at most {MOST:,}, to which a loop counts its steps, got "
                f"{total_steps:,}. Give the fit fewer epochs, or an optax schedule, which needs no number of steps."
            )
        ends = _ends(self.segments, int(total_steps))
        if ends[-1] < total_steps - 1:
            raise ValueError(_too_short(self.segments, ends, int(total_steps)))
        rates = _start_rates(self.segments)
        pieces = [
            _Piece(segment.shape, start, segment.end_rate, joint, end - joint)
            for segment, start, joint, end in zip(self.segments, rates, [0, *ends], ends, strict=False)
            if end > joint
        ]
        return rates[0], pieces


def make_schedule(segments: Sequence[ScheduleSegment]) -> SegmentedSchedule:
    """A schedule of segments, one after the other, for `callbacks.learning_rate_scheduler`.

    Neighbours share the step at which they meet: segments of 10 and 5 steps cover the steps 0 to 9 and 9 to 13. The
    shared step has the rate of the earlier segment, even if the later one starts from another rate. A segment of one
    step only sets the rate from which the next one starts, to its own start rate. Its end rate is not used.

    Args:
      segments: one or more. They must last until the end of the fit, and may last longer.

    Returns:
      A `SegmentedSchedule`. A call with the number of steps gives an optax schedule, and `plot(total_steps=...)` draws
      it.

    Raises:
      ValueError: there is no segment; or one that is not the last has no `step_count`; or an exponential one touches 0.
      TypeError: an item is not a segment.

    Example:
      >>> schedule = jl.make_schedule([
      ...     jl.ScheduleSegment(jl.shapes.linear, start_rate=0.0, end_rate=1.0, step_count=10),
      ...     jl.ScheduleSegment(jl.shapes.linear, end_rate=0.0),
      ... ])
      >>> float(schedule(30)(19))
      0.5
    """
    if not isinstance(segments, Sequence) or not segments:
        raise ValueError(
            f"make_schedule: `segments` must be a list of one or more ScheduleSegment, got {segments!r}. "
            "Write make_schedule([ScheduleSegment(...)])."
        )
    for index, segment in enumerate(segments):
        if not isinstance(segment, ScheduleSegment):
            raise TypeError(
                f"make_schedule: segment {index} (counted from 0) must be a ScheduleSegment, got {segment!r}."
            )
        if segment.step_count is None and index < len(segments) - 1:
            raise ValueError(
                f"make_schedule: segment {index} of {len(segments)} (counted from 0) has no step_count; only the last "
                "may run to the end of the fit. Give it one."
            )
    for index, (segment, start) in enumerate(zip(segments, _start_rates(segments), strict=True)):
        if segment.shape == exponential and segment.step_count != 1:
            _check_exponential(index, start, segment.end_rate)
    return SegmentedSchedule(tuple(segments))


class _Piece(NamedTuple):
    """A segment in its place: the `width` steps after `joint`, the step that it shares with the segment before."""

    shape: AnyShape
    start: Rate
    end: Rate
    joint: int
    width: int

    def after_its_joint(self) -> optax.Schedule:
        """Its rate, counted from the step after the joint."""
        schedule = self.shape.between(self.start, self.end, self.width)

        def rate(count: Any) -> Any:
            # `optax.join_schedules` computes every segment at every step, and selects. Outside of its own steps a
            # segment must stay finite too: a gradient multiplies it by 0.
            inside = schedule(jnp.clip(count + 1, 0, self.width))
            rate = jnp.where(count + 1 >= self.width, self.end, inside)  # the end is exact, without a rounded division
            return rate.astype(float)  # the same dtype in all segments

        return rate


def _ends(segments: Sequence[ScheduleSegment], total_steps: int) -> list[int]:
    """The last step of each segment.

    Shares are shares of the way from the first step to the last. They are added up before they are rounded, so that
    shares with the sum 1 end with the fit. Each is at least one step long: a short warm-up does not vanish in a short
    fit.
    """
    ends, end, place = [], 0, 0.0
    for segment in segments:
        count = segment.step_count
        if count is None:
            end = place = max(total_steps - 1, end)
        elif isinstance(count, numbers.Integral):
            end = place = end + int(count) - 1
        else:
            place += float(count) * (total_steps - 1)
            end = max(round(place), end + 1)
        ends.append(end)
    return ends


def _start_rates(segments: Sequence[ScheduleSegment]) -> list[Rate]:
    """The rate from which each segment starts."""
    starts, rate = [], 0.0
    for segment in segments:
        start = rate if segment.start_rate is None else segment.start_rate
        starts.append(start)
        rate = start if segment.step_count == 1 else segment.end_rate
    return starts


def _too_short(segments: Sequence[ScheduleSegment], ends: Sequence[int], total_steps: int) -> str:
    counts = [end - joint + 1 for joint, end in zip([0, *ends], ends, strict=False)]
    total = " + ".join(map(str, counts))
    if len(counts) > 1:
        shared = len(counts) - 1
        total = f"{total} - {shared} shared step{'s' if shared > 1 else ''} = {ends[-1] + 1}"
    needed = counts[-1] + total_steps - 1 - ends[-1]
    return (
        f"make_schedule: the segments end before the fit does; they cover {total} of its {total_steps} steps. "
        f"Leave out the last one's step_count, or make it {needed}."
    )


def _check_rate(name: str, rate: Any) -> None:
    """Refuses a rate that is not a finite real number. Of a traced rate only the shape can be checked."""
    if isinstance(rate, jax.Array):
        fits = rate.shape == () and (isinstance(rate, Tracer) or bool(np.isfinite(rate)))
    else:
        fits = isinstance(rate, numbers.Real) and not isinstance(rate, bool) and math.isfinite(rate)
    if not fits:
        raise ValueError(f"ScheduleSegment: `{name}` must be a finite number, got {rate!r}.")


def _check_exponential(index: int, start: Any, end: Any) -> None:
    if isinstance(start, Tracer) or isinstance(end, Tracer):
        return
    start, end = float(start), float(end)
    if min(start, end) > 0 or max(start, end) < 0:
        return
    raise ValueError(
        f"make_schedule: segment {index} (counted from 0) is exponential and goes from {start:g} to {end:g}; a rate "
        "that is multiplied at each step neither touches 0 nor changes its sign. Write a small rate such as 1e-8, or "
        "take the shape polynomial(2)."
    )
