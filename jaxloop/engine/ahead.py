"""A fit before it runs, for those who look ahead: on a machine that is there or not."""

from collections.abc import Iterator
from typing import Any

from jaxloop.engine.abstract import AbstractFit, phases_of
from jaxloop.engine.phase_steps import Entered
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from jaxloop.placement import On, resolve


def look_ahead(setup: Setup, given: Any, epochs: int, on: On) -> tuple[Session, Iterator[Entered]]:
    """The session of a fit, and the phases of its first epoch. No step is taken.

    On a machine that is there the model is put where the fit will have it. For one that is not, only shapes and dtypes
    are known: no array is made, and the numbers of the data are not looked into.

    Args:
      setup: of the training loop.
      given, epochs, on: as in `TrainingLoop.fit`.
    """
    place = resolve(on)
    if not place.is_there:
        session = AbstractFit(setup, given, place, epochs).session()
        return session, phases_of(session)
    run = setup.run(setup.fit(given, epochs, on=on))
    walk = run.walk()
    return run.session, (Entered(loop, steps, steps.layout.to_wire(loop)) for _, loop, steps in walk)
