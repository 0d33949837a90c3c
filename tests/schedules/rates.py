"""Segments in short, and the rates of their schedule."""

import numpy as np

from jaxloop.schedules import ScheduleSegment, make_schedule
from jaxloop.schedules.shapes import linear

STEPS = np.arange(1000, dtype=np.int32)


def rates_of(segments, total_steps):
    """The rate at each step, of one call; of always as many steps, so that nothing compiles for each test anew."""
    return np.broadcast_to(make_schedule(segments)(total_steps)(STEPS), STEPS.shape)[:total_steps]


def segment(shape, start, end, count=None):
    return ScheduleSegment(shape, start_rate=start, end_rate=end, step_count=count)


WARMUP = [segment(linear, 0.0, 1.0, 10), segment(linear, None, 0.0)]
