"""The steps of one phase over the wire: batches go out, rows come back late."""

import functools
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloop.engine.delivery import Delivery, Patient, Prompt
from jaxloop.engine.host import Host
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.latest import Latest
from jaxloop.engine.ledger import Ledger
from jaxloop.events import Phase, should_run
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.specification import Batch, signature_of, stacked
from jaxloop.kinds import kind_name
from jaxloop.programs.canonical import other_layouts
from jaxloop.programs.flops import flops_of
from jaxloop.programs.fusing import MOST_STEPS, Fusing, fixed, steps_ahead, steps_per_dispatch
from jaxloop.programs.programs import Program, Programs
from jaxloop.step_spec import StepSpec
from jaxloop.wire import Wire, WireLayout


@dataclass(frozen=True)
class Dispatches:
    """Sends the batches of one phase to the programs of its steps.

    Attributes:
      spec: what the steps are made of.
      layout: of the wire.
      phase: the phase.
      feed: its batches.
      cancels: whether a compiled callback can cancel in its steps.
      programs: kept by the training loop.
      host: whose observers are given the rows.
      ledger: where the time goes.
      interrupts: asked after each dispatch.
      tell: is told of each program that was compiled.
      latest: holds the wire behind the last dispatch that was sent, for when one fails.
      donates: whether steps write over the wire they are given, as they do unless they can raise while they run.
    """

    spec: StepSpec
    layout: WireLayout
    phase: Phase
    feed: Feed
    cancels: bool
    programs: Programs
    host: Host
    ledger: Ledger
    interrupts: Interrupts
    tell: Callable[..., None]
    latest: Latest
    donates: bool = True

    def run(self, wire: Wire, steps: Any) -> Wire:
        """The wire behind all batches, or behind those up to a cancel.

        Rows are read one dispatch late, those of small single steps later on a busy machine; see `delivery`.

        Args:
          wire: is donated.
          steps: how many at once, or `"auto"`.
        """
        known: dict[Any, Any] = {}  # all that each step needs at hand: here the host's time decides
        lap, check = self.ledger.lap, self.interrupts.check
        many_signatures, resident, on_cpu = (
            self.feed.many_signatures,
            self.feed.resident,
            self.feed.device.platform == "cpu",
        )
        fused = self.prepared(wire, steps)
        deliver = self._delivery(wire, fused)
        chunks = self.feed.chunks(fused)
        reading = True
        sent = self.latest.phase(self.layout, wire, donated=self.donates)
        lap("data")
        try:
            with closing(chunks):
                for count, batch in chunks:
                    reading = False
                    lap("data")
                    key = (count, signature_of(batch)) if many_signatures else count
                    if key not in known:
                        known[key] = self._compiled(count, wire, batch).jitted
                    sent(after := known[key](wire, batch, resident))
                    wire, rows = after
                    if not on_cpu:
                        rows.copy_to_host_async()
                    lap("dispatch")
                    if not deliver(rows):
                        break
                    reading = True
                    check()
        except BaseException:
            deliver.finish(failed=not reading)  # where the data failed, what was sent counts and is told
            raise
        deliver.finish()
        return wire

    def prepared(self, wire: Wire, steps: Any) -> int:
        """How many steps a dispatch takes; the programs that the data announce are compiled by then."""
        steps = self.fusing(wire, steps).steps
        for batch in self.feed.announced() if self.feed.lengths else ():
            for count in sorted({steps, 1}, reverse=True):
                self._compiled(count, wire, stacked(batch, count), announced=True)
        return steps

    def fusing(self, wire: Wire, steps: Any) -> Fusing:
        """How many steps a dispatch takes, and why; decided once for all phases alike."""
        if steps != "auto":
            return fixed(steps, "as given")
        if self.feed.many_signatures or self.feed.short_last:
            return fixed(1, "batches of several shapes")
        key = ("fusing", self.spec, self.layout, self.phase, self.feed.device, self.feed.prepare, len(self.feed))
        return self.programs.get(key, lambda: self._decided(wire))

    def flops(self, wire: Wire, batch: Batch, count: int) -> float:
        """Of one step over a batch like `batch`, as the program of `count` steps has them."""
        program, batches = self._over(batch, count)
        return flops_of(program.jaxpr(wire, batches, self.feed.resident)) / count

    def ahead(self, wire: Wire, batch: Batch, count: int) -> Program:
        """The program of `count` steps over batches like `batch`, compiled."""
        program, batches = self._over(batch, count)
        if program.compiled is None:
            program.compile(wire, batches, self.feed.resident)
        return program

    def _over(self, batch: Batch, count: int) -> tuple[Program, Batch]:
        """The program of `count` steps, and that many batches like `batch` as it takes them, abstract."""
        batches = self.feed.travelling(batch, count)
        return self.program(count, batches), batches

    def _decided(self, wire: Wire) -> Fusing:
        """Traces the program of as many steps as there could be at most: mostly it is the one that is needed."""
        batch, platform = self.feed.first(), self.feed.device.platform
        decide = functools.partial(
            steps_per_dispatch,
            batch_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(batch)),
            batch_count=len(self.feed),
            platform=platform,
        )
        most = decide(flops=1).steps
        program, batches = self._over(batch, most)
        jaxpr = program.jaxpr(wire, batches, self.feed.resident)
        slow_in_loops = platform == "cpu" and bool(other_layouts(jaxpr))
        fusing = decide(flops=flops_of(jaxpr) / most, slow_in_loops=slow_in_loops)
        self.ledger.lap("compile")
        return fusing

    def program(self, count: int, batch: Batch | None = None) -> Program:
        """The program of `count` steps, of those for batches of several shapes the one for `batch`."""
        kind = signature_of(batch) if self.feed.many_signatures else None
        device, prepare, packing = self.feed.device, self.feed.prepare, self.feed.packing if count == 1 else None
        return self.programs.steps(
            self.spec,
            self.layout,
            self.phase,
            count,
            device=device,
            kind=kind,
            prepare=prepare,
            packing=packing,
            donates=self.donates,
        )

    def _compiled(self, count: int, wire: Wire, batch: Batch, *, announced: bool = False) -> Program:
        program = self.program(count, batch)
        if program.compile_seconds is None:
            program.compile(wire, batch, self.feed.resident)
            shapes = ", ".join(map(kind_name, jax.tree.leaves(batch)))
            self.tell(program, f" for {shapes}" if announced else "")
        return program

    def _delivery(self, wire: Wire, steps: int) -> Delivery:
        """What hands the rows of dispatches to the observers, and says whether the phase goes on.

        To turn to observers between two small steps costs a fifth of such a step, since nothing of them is in the
        processor's caches then. So single steps' rows wait for each other, as many as one dispatch would have at most,
        where no compiled callback can cancel, so that each row might end the phase, and no observer wants them at once.
        """
        host, phase = self.host, self.phase
        hand_over, read = host.delivery(phase), self.layout.reader(phase, self.feed.batch_size)

        def tell(rows: np.ndarray) -> bool:
            columns, stop = read(rows)
            if columns is not None:
                hand_over(columns)
            stop |= host.requests
            return stop == 0 or bool(should_run(stop, phase))

        if steps > 1 or self.cancels or not host.rows_may_wait(phase):
            return Prompt(tell, self.ledger.lap)
        return Patient(tell, self.ledger.lap, ahead=self._ahead(wire) if self.donates else 1, at_once=MOST_STEPS)

    def _ahead(self, wire: Wire) -> int:
        """How many single steps may be sent before the host waits for the first of them; decided once, from FLOPs."""
        feed = self.feed
        if feed.many_signatures or feed.short_last:
            return 1
        key = ("ahead", self.spec, self.layout, self.phase, feed.device, feed.prepare, feed.batch_size)
        return self.programs.get(key, lambda: steps_ahead(self.flops(wire, feed.first(), 1)))
