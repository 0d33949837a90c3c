"""An evaluation: one phase of validation outside of a fit."""

from typing import Any

from jaxloop.engine.leaving import leaving
from jaxloop.engine.run import Run
from jaxloop.events import VALIDATION, Event
from jaxloop.measured import as_number
from jaxloop.metrics import is_scalar
from jaxloop.noting import note


def evaluated(run: Run, *, fresh: bool) -> dict[str, Any]:
    """Each metric over the batches of the run's session, by name: a number, or what a metric that is no scalar gives.

    Args:
      run: of an evaluation.
      fresh: whether FIT_START is still to come, at which callbacks make room for what they remember.
    """
    loop, feed = run.session.loop, run.session.feeds.only
    several = run.progress.agreement.several
    with leaving(several), run.progress.latest.told(lambda error: note(error, "jaxloop: while it evaluated `batches`")):
        loop = run.event(loop, Event.FIT_START) if fresh else loop
        loop = run.phase(loop, VALIDATION, feed)
    found: dict[str, Any] = {}
    for metric in run.session.spec.metrics:  # the plan may be of another training loop's loop
        if is_scalar(metric):
            found[metric.name] = as_number(loop.stats[VALIDATION.stat(metric.name)])
        else:
            found[metric.name] = metric.compute(run.session.placement.fetch(loop.metrics[metric.name]))
    return found
