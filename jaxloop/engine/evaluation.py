"""An evaluation: one phase of validation outside of a fit."""

from jaxloop.engine.latest import note
from jaxloop.engine.leaving import leaving
from jaxloop.engine.run import Run
from jaxloop.events import VALIDATION, Event
from jaxloop.measured import as_number


def evaluated(run: Run, *, fresh: bool) -> dict[str, float]:
    """Each metric over the batches of the run's session, by name.

    Args:
      run: of an evaluation.
      fresh: whether FIT_START is still to come, at which callbacks make room for what they remember.
    """
    loop, feed = run.session.loop, run.session.feeds.only
    several = run.progress.agreement.several
    with leaving(several), run.progress.latest.told(lambda error: note(error, "jaxloop: while it evaluated `batches`")):
        loop = run.event(loop, Event.FIT_START) if fresh else loop
        loop = run.phase(loop, VALIDATION, feed)
    names = [metric.name for metric in run.session.spec.metrics]  # the plan may be of another training loop's loop
    return {name: as_number(loop.stats[VALIDATION.stat(name)]) for name in names}
