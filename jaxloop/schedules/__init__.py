"""Schedules: a rate over the steps of a fit, as segments that become one optax schedule."""

from jaxloop.schedules.ready import one_cycle as one_cycle
from jaxloop.schedules.ready import warmup_cosine as warmup_cosine
from jaxloop.schedules.segments import ScheduleSegment as ScheduleSegment
from jaxloop.schedules.segments import SegmentedSchedule as SegmentedSchedule
from jaxloop.schedules.segments import make_schedule as make_schedule

__all__ = [
    "ScheduleSegment",
    "SegmentedSchedule",
    "make_schedule",
    "one_cycle",
    "warmup_cosine",
]


def __dir__() -> list[str]:
    return sorted(__all__)
