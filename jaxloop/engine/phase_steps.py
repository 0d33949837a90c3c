"""The programs of one phase's steps: which there are, how many steps each takes, and what they cost."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxloop.asking import argument
from jaxloop.chips import StepCost
from jaxloop.engine.place import Place
from jaxloop.engine.sameness import check_same_program
from jaxloop.engine.session import Session
from jaxloop.errors import StateMismatchError
from jaxloop.events import Phase, Split
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.kinds import kind_name
from jaxloop.loop import Loop
from jaxloop.measured import looks_into_values
from jaxloop.programs.canonical import other_layouts
from jaxloop.programs.flops import flops_of, loops_in
from jaxloop.programs.fusing import Fusing, steps_ahead, steps_per_dispatch
from jaxloop.programs.programs import Program
from jaxloop.wire import Wire, WireLayout

#: Is told of each program that was compiled, and for what.
Tell = Callable[[Program, str], None]


@dataclass(frozen=True)
class PhaseSteps:
    """The steps of one phase.

    Attributes:
      session: that they belong to.
      layout: of the wire.
      split: the phase, and the set that it runs over.
      feed: its batches.
    """

    session: Session
    layout: WireLayout
    split: Split
    feed: Feed

    @property
    def phase(self) -> Phase:
        """The phase."""
        return self.split.phase

    @property
    def cancels(self) -> bool:
        """Whether a compiled callback can cancel in them."""
        return self.phase in self.session.trace.cancels

    @functools.cached_property
    def donates(self) -> bool:
        """Whether they write over the wire they are given. They do not if they can raise while they run."""
        return self.phase not in self.session.trace.raises and not looks_into_values()

    @functools.cached_property
    def given(self) -> Any:
        """What the programs take besides wire and batches: the samples, and on several processes that none asks."""
        placement = self.session.placement
        return (self.feed.resident, argument(placement, 0)) if placement.several_processes else self.feed.resident

    def fusing(self, wire: Wire) -> Fusing:
        """How many steps a dispatch takes, and why; decided once for all such phases, by their whole length."""
        steps = self.session.steps_per_dispatch
        if steps != "auto":
            return Fusing(steps, "as given")
        place = self.session.place
        if place is not None and place.elsewhere and self.split in place.fused:
            return Fusing(place.fused[self.split], "as where the run comes from")
        if not self.feed.agreed.one_signature:
            return Fusing(1, "batches of several shapes")
        return self.session.memo.get(self._key("fusing", len(self.feed)), lambda: self._decided(wire))

    def check_fused(self, place: Place, fused: int) -> None:
        """Refuses to go on in the phase with another number of steps in a dispatch, or with rows of another form.

        Raises:
          StateMismatchError: the run had another number, or other names in its rows.
        """
        before = place.fused[self.split]
        if before != fused:
            raise StateMismatchError(
                f"fit: the run took {before} steps in a dispatch of {self.split.name}, and this one would take "
                f"{fused}. Results could differ then. Give steps_per_dispatch={before}, and the callbacks of the run."
            )
        if list(place.names) != list(self.layout.names):
            raise StateMismatchError(
                f"fit: a row of the run held {', '.join(place.names)}; a row of this one holds "
                f"{', '.join(self.layout.names)}. Give the metrics and callbacks that the run had."
            )

    def ahead(self, wire: Wire) -> int:
        """How many single steps may be sent before the host waits for the first of them; decided once, from FLOPs."""
        if not self.donates or not self.feed.agreed.one_signature:
            return 1
        key = self._key("ahead", self.feed.agreed.batch_size)
        return self.session.memo.get(key, lambda: steps_ahead(self.flops(wire, self.feed.expected(1))))

    def flops(self, wire: Wire, chunk: ChunkSpec) -> float:
        """FLOPs of one step, counted in the program for `chunk`."""
        jaxpr = self.program(chunk).jaxpr(wire, chunk.abstract, self.given)
        return flops_of(jaxpr) / chunk.steps

    def cost(self, wire: Wire, fused: int) -> StepCost:
        """What a step takes of the devices, for loggers that show how well these are used.

        FLOPs are counted in training only, and only where the largest FLOP/s of the chip is known.

        Args:
          wire: as the steps take it.
          fused: how many steps a dispatch takes.
        """
        placement = self.session.placement
        counted = self.phase is Phase.TRAINING and self.feed.agreed.one_signature
        if placement.peak_flops is None or not counted:
            return StepCost(None, placement.peak_memory)
        key = self._key("cost", fused)
        return StepCost(self.session.memo.get(key, lambda: self._seconds_at_peak(wire, fused)), placement.peak_memory)

    def program(self, chunk: ChunkSpec) -> Program:
        """The program for a chunk; it may not be compiled yet."""
        session, preparation = self.session, self.feed.preparation
        return session.programs.steps(
            session.spec,
            self.layout,
            self.split,
            chunk,
            placement=session.placement,
            prepare=None if preparation is None else preparation.prepare,
            donates=self.donates,
        )

    def announced(self, steps: int) -> list[ChunkSpec]:
        """The chunks of each length that the data announce, `steps` batches at once and one by one."""
        if not self.feed.agreed.lengths:
            return []
        by_count = [self.feed.announced(count) for count in sorted({steps, 1}, reverse=True)]
        return [chunk for chunks in zip(*by_count, strict=True) for chunk in chunks]

    def compiled(self, chunk: ChunkSpec, wire: Wire, batches: Any, tell: Tell, *, announced: bool = False) -> Program:
        """The program for a chunk, compiled. If it was not compiled before, `tell` is called before and after."""
        program = self.program(chunk)
        if program.compile_seconds is None:
            shapes = ", ".join(map(kind_name, jax.tree.leaves(batches)))
            what = f" for {shapes}" if announced else ""
            tell(program, what)
            program.compile(wire, batches, self.given)
            check_same_program(self.session.placement, program)
            tell(program, what)
        return program

    def _decided(self, wire: Wire) -> Fusing:
        """Traces the program of the largest possible number of steps: mostly it is the one that is needed."""
        placement = self.session.placement
        decide = functools.partial(
            steps_per_dispatch,
            batch_bytes=self.feed.agreed.ready.nbytes,
            batch_count=len(self.feed),
            platform=placement.platform,
            parts=1 if placement.is_cpu else placement.parts,  # devices of a CPU share its cores
        )
        chunk = self.feed.expected(decide(flops=1).steps)
        jaxpr = self.program(chunk).jaxpr(wire, chunk.abstract, self.given)
        slow_in_loops = placement.is_cpu and bool(other_layouts(jaxpr))
        return decide(flops=flops_of(jaxpr) / chunk.steps, slow_in_loops=slow_in_loops)

    def _seconds_at_peak(self, wire: Wire, fused: int) -> float | None:
        """How long a step would take at the largest FLOP/s; None if it has a loop whose length only its values tell."""
        chunk, peak = self.feed.expected(fused), self.session.placement.peak_flops
        jaxpr = self.program(chunk).jaxpr(wire, chunk.abstract, self.given)
        return None if peak is None or "while" in loops_in(jaxpr) else flops_of(jaxpr) / chunk.steps / peak

    def _key(self, what: str, count: int) -> Any:
        session, preparation = self.session, self.feed.preparation
        prepare = None if preparation is None else preparation.prepare
        return what, session.spec, self.layout, self.split, session.placement, prepare, count


@dataclass(frozen=True)
class Entered:
    """A phase of a run at its start, before any step.

    Attributes:
      loop: that has entered it.
      steps: the steps that follow.
      wire: the loop as they take it; arrays, or their shapes and dtypes.
    """

    loop: Loop
    steps: PhaseSteps
    wire: Wire

    @property
    def split(self) -> Split:
        """The phase, and the set that it runs over."""
        return self.steps.split

    @property
    def phase(self) -> Phase:
        """The phase."""
        return self.split.phase
