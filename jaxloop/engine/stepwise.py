"""The steps of one phase one by one, their stages apart, with the host callbacks in between."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from jaxloop.engine.boundary import Boundaries, StepBoundary
from jaxloop.engine.host import Host
from jaxloop.engine.phase_steps import PhaseSteps, Tell
from jaxloop.engine.place import Place
from jaxloop.engine.session import Progress
from jaxloop.events import should_run
from jaxloop.forward import hold, with_model_state
from jaxloop.loop import Loop
from jaxloop.ownership import on_device
from jaxloop.programs.programs import Program


def taken_apart(
    steps: PhaseSteps, host: Host, progress: Progress, tell: Tell, loop: Loop, place: Place | None = None
) -> Boundaries:
    """Takes the steps of a phase one by one; gives the boundary before the first and after each.

    Args: as `dispatch.dispatched` has them.
    """
    session, phase, feed, ledger = steps.session, steps.phase, steps.feed, progress.ledger
    hand_over, read = host.delivery(phase), steps.layout.reader(steps.split, feed.agreed.batch_size)
    loop = on_device(loop, session.placement)
    start = 0
    if place is not None:
        steps.check_fused(place, 1)
        start = place.position
    boundary = StepBoundary(loop, start)
    yield boundary
    with closing(feed.chunks(1, start)) as chunks:  # however it ends, the data are let go
        for chunk, batch in chunks:
            ledger.lap("data")
            batch = batch if chunk.packing is None else chunk.packing.split(batch)
            if feed.preparation is not None:
                batch = _called(session.programs.preparing(feed.preparation.prepare), tell, feed.resident, batch)
            loop, counted = _step(steps, host, progress, tell, loop, batch)
            columns, _ = read(steps.layout.row_of(loop, counted))
            progress.latest.between(loop)
            ledger.lap("device")
            if columns is not None:
                hand_over(columns)
            loop = progress.agreement.stopped(host.take_requests(loop))
            boundary.held = loop
            boundary.position += 1
            progress.hear()
            if not should_run(int(loop.stop), phase):
                break
            yield boundary


def _step(steps: PhaseSteps, host: Host, progress: Progress, tell: Tell, loop: Loop, batch: Any) -> tuple[Loop, bool]:
    session, phase = steps.session, steps.phase
    counted: Any = np.bool_(True)
    state = loop.model.state
    loop = hold(loop, batch)
    for program, event in session.programs.stages(session.spec, phase, host.cuts(phase), session.placement):
        loop, counted = _called(program, tell, loop, counted)
        progress.ledger.lap("dispatch")
        if event is None or (event is phase.step_event and not bool(counted["reached"])):
            continue  # cancelled before that event; what is cancelled at it, all callbacks still see
        loop = progress.agreement.stopped(host.fire(loop, event, phase))
        if event is phase.step_event and not should_run(int(loop.stop), phase):
            loop = with_model_state(loop, state)  # no update: what the forward pass left goes too
    return loop, bool(counted)


def _called(program: Program, tell: Callable[..., None], *arguments: Any) -> Any:
    first = program.compile_seconds is None
    if first:
        tell(program, "")
    result = program(*arguments)
    if first:
        jax.block_until_ready(result)
        tell(program, "")
    return result
