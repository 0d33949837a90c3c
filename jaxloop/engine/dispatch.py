"""The steps of one phase over the wire: batches go out, rows come back late."""

import time
from contextlib import closing
from typing import Any

import numpy as np

from jaxloop.asking import scopes_of
from jaxloop.engine.boundary import Boundaries, WireBoundary
from jaxloop.engine.delivery import Delivery, Patient, Prompt
from jaxloop.engine.host import Host
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.phase_steps import PhaseSteps, Tell
from jaxloop.engine.place import Place
from jaxloop.engine.session import Progress
from jaxloop.events import should_run
from jaxloop.loop import Loop
from jaxloop.programs.fusing import MOST_STEPS
from jaxloop.wire import Wire


def dispatched(
    steps: PhaseSteps, host: Host, progress: Progress, tell: Tell, loop: Loop, place: Place | None = None
) -> Boundaries:
    """Sends the batches of a phase; gives the boundary before the first dispatch and after each.

    Rows are read one dispatch late, those of small single steps later on a busy machine; see `delivery`. The phase ends
    after a step that cancelled it. If it is closed early, it tells the rows of what was sent.

    Args:
      steps: the programs.
      host: whose observers are given the rows, and what they cancel.
      progress: of the run.
      tell: is told of each program that was compiled.
      loop: in the phase, with scalars of NumPy; it is used up.
      place: where the phase goes on, with the rows that were in flight there; None at its start.
    """
    wire = steps.layout.to_wire(loop)
    several = progress.agreement.several
    if several:
        progress.agreement.begin_phase()
        wire = steps.session.placement.put(wire[0]), wire[1]
    # Of several processes, a signal on one must not keep it from what the others do.
    fused = prepared(steps, wire, tell, None if several else progress.interrupts)
    delivery = _delivery(steps, host, progress, wire, fused)
    if place is not None:
        steps.check_fused(place, fused)
        delivery.go_on(place.rows)
    start, sharding = 0 if place is None else place.position, steps.session.placement.sharding
    boundary = WireBoundary(steps.layout, wire, start, delivery, fused, sharding)
    return _sent(steps, host, boundary, progress, tell)


def _sent(steps: PhaseSteps, host: Host, boundary: WireBoundary, progress: Progress, tell: Tell) -> Boundaries:
    yield boundary
    # What each step needs is a local name, since on small steps the host's time decides.
    ledger, clock, given, deliver = progress.ledger, time.perf_counter, steps.given, boundary.delivery
    several, fused = progress.agreement.several, boundary.fused
    on_cpu, seconds, wire = steps.session.placement.is_cpu, ledger.seconds, boundary.wire
    hold = progress.latest.phase(steps.layout, wire, donated=steps.donates)
    known: Any = None
    program: Any = None
    reading = True
    try:
        with closing(steps.feed.chunks(fused, boundary.position)) as chunks:
            for chunk, batch in chunks:
                reading = False
                now = clock()
                seconds["data"] += now - ledger.since
                ledger.since = now
                if chunk is not known:
                    if chunk != known:
                        program = steps.compiled(chunk, wire, batch, tell).call
                    known = chunk
                if several:
                    given = steps.feed.resident, progress.agreement.sent(host.requests | progress.asked)
                hold(after := program(wire, batch, given))
                boundary.wire, rows = after
                wire = boundary.wire
                if not on_cpu:
                    rows.copy_to_host_async()
                now = clock()
                seconds["dispatch"] += now - ledger.since
                ledger.since = now
                boundary.position += chunk.steps
                if not deliver(rows):
                    break
                reading = True
                yield boundary
    except BaseException:
        deliver.finish(failed=not reading)  # if the data failed, what was sent counts and is told
        raise
    deliver.finish()


def prepared(steps: PhaseSteps, wire: Wire, tell: Tell, interrupts: Interrupts | None = None) -> int:
    """How many steps a dispatch takes; the programs that the data announce are compiled by then.

    A signal that waits is seen at the first boundary. So nothing more is compiled once one has come.
    """
    fused = steps.fusing(wire).steps
    steps.cost(wire, fused)  # before compiling, which lets go of the trace that FLOPs are counted in
    for chunk in steps.announced(fused):
        if interrupts is not None and interrupts.pending:
            break
        steps.compiled(chunk, wire, chunk.abstract, tell, announced=True)
    return fused


def _delivery(steps: PhaseSteps, host: Host, progress: Progress, wire: Wire, fused: int) -> Delivery:
    """What hands the rows of dispatches to the observers, and says whether the phase goes on.

    To call observers between two small steps costs a fifth of such a step, since the processor's caches hold nothing of
    them then. So the rows of single steps wait for each other, as many as the largest dispatch has. They do not wait if
    a compiled callback can cancel, since then each row may end the phase, or if an observer wants them at once. On
    several devices they do not wait either: devices of a CPU that run ahead of each other may wait for ever.
    """
    phase, lap, agreement = steps.phase, progress.ledger.lap, progress.agreement
    read = steps.layout.reader(steps.split, steps.feed.agreed.batch_size, steps.cost(wire, fused))
    hand_over = host.delivery(phase)

    def tell(rows: np.ndarray) -> bool:
        columns, stop = read(rows)
        if columns is not None:
            hand_over(columns)
        stop |= scopes_of(agreement.told(rows)) if agreement.several else host.requests
        return stop == 0 or bool(should_run(stop, phase))

    if fused > 1 or steps.cancels or not host.rows_may_wait(phase) or not steps.session.placement.single:
        return Prompt(tell, lap)
    return Patient(tell, lap, ahead=steps.ahead(wire), at_once=MOST_STEPS)
