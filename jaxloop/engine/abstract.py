"""The training steps of a fit over shapes and dtypes: they can be compiled, and no array is made, moved or computed."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.dtypes import canonicalize_dtype

from jaxloop.engine.phase_steps import PhaseSteps
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from jaxloop.events import Event, Phase, Plan
from jaxloop.feeding.checks import check_epoch
from jaxloop.feeding.feed import Feed, Feeds
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.feeding.source import EpochSource
from jaxloop.kinds import Widening, strong
from jaxloop.loop import Loop, new_loop
from jaxloop.measured import unmeasured
from jaxloop.model import as_model
from jaxloop.phases import begin_epoch, begin_fit, between_steps, enter
from jaxloop.placement import Placement
from jaxloop.programs.fit_trace import TraceReport, trace_fit
from jaxloop.programs.memo import Memo, Residents
from jaxloop.programs.programs import Program, Programs
from jaxloop.step_spec import StepSpec
from jaxloop.wire import Wire, WireLayout, layout_of


@dataclass(frozen=True)
class AbstractSteps:
    """The training steps of one batch size.

    Attributes:
      steps: of the first training phase.
      wire: at its start, as shapes and dtypes.
      chunk: the batches of a dispatch; if they have several lengths, of the longest.
    """

    steps: PhaseSteps
    wire: Wire
    chunk: ChunkSpec

    def compile(self) -> Program:
        """The program of a dispatch, compiled."""
        program = self.steps.program(self.chunk)
        program.compile(self.wire, self.chunk.abstract, self.steps.feed.resident)
        return program


class AbstractFit:
    """A fit of one epoch without validation and host callbacks, of which nothing is run.

    Args:
      setup: of the training loop. It keeps nothing of what is found out and compiled here.
      given: a model or a loop.
      place: where the fit would run; a machine that is not there will do.

    Raises:
      What the data raise when their first batch is read, and what is wrong with it.
    """

    def __init__(self, setup: Setup, given: Any, place: Placement):
        self._setup = replace(setup, residents=_Shapes())
        self._given, self._place = given, place
        self._source = EpochSource(setup.training)
        batches = self._source.at(int(given.epoch) if isinstance(given, Loop) else 0)
        check_epoch(batches.batches)
        feed = self._setup.training_feed(batches, place)
        self._feed = feed.begun(short="refused", on_recompile=setup.on_recompile)
        batches.close()

    @property
    def batch_size(self) -> int:
        """Of the data, as they were given."""
        return self._feed.agreed.batch_size

    @property
    def can_be_resized(self) -> bool:
        """Whether all arrays of a batch count examples along their first axis."""
        first = self._feed.agreed.first
        return bool(first.leaves) and len({shape[0] for _, shape, _ in first.leaves}) == 1

    def steps(self, batch_size: int) -> AbstractSteps:
        """The steps over batches of this size. Tracing shows what is wrong with model, loss and callbacks.

        Raises:
          ValueError, TypeError: something is.
        """
        setup = replace(self._setup, programs=Programs(), memo=Memo())  # those of one size hold for it alone
        feed = self._feed.agreeing(first=self._feed.agreed.first.resized(batch_size))
        batch = feed.agreed.ready.abstract
        if feed.preparation is not None:
            batch = jax.eval_shape(feed.preparation.prepare, feed.resident, batch)
        callbacks = setup.sorted_out
        plan = Plan(1, len(feed), tuple(metric.name for metric in setup.spec.metrics), setup.report)
        spec = setup.spec_for(callbacks, plan)
        loop = self._begun(spec, plan if callbacks.uses_plan else None, plan, batch)
        loop, trace = _traced(spec, loop, batch)
        layouts: list[WireLayout] = []
        loop = jax.eval_shape(functools.partial(_entered, spec, len(feed), trace, layouts), loop)
        session = Session(
            spec=spec,
            callbacks=callbacks,
            plan=plan,
            placement=self._place,
            source=self._source,
            feeds=Feeds(lambda _: feed, None),
            loop=loop,
            programs=setup.programs,
            memo=setup.memo,
            steps_per_dispatch=setup.steps_per_dispatch,
            on_recompile=setup.on_recompile,
            trace=trace,
        )
        steps = PhaseSteps(session, layouts[0], Phase.TRAINING, feed)
        wire = _wire(layouts[0], loop)
        return AbstractSteps(steps, wire, _longest(feed, steps.fusing(wire).steps))

    def _begun(self, spec: StepSpec, bound: Plan | None, plan: Plan, batch: Any) -> Loop:
        """The loop at the start of the fit."""

        def begun(batch: Any) -> Loop:
            given, key = self._given, jax.random.key(0)
            if isinstance(given, Loop):
                loop = jax.tree.map(strong, between_steps(given, None))
            else:
                model = jax.tree.map(strong, as_model(given, lambda: (key, batch[0])))
                loop = new_loop(model, jax.tree.map(strong, spec.optimizer.init(model.params)), key)
            return begin_fit(spec, loop, plan).replace(plan=bound)

        return jax.eval_shape(begun, batch)


class _Shapes(Residents):
    """Samples that would lie on a device, as shapes and dtypes."""

    def on(self, placement: Placement, samples: Any) -> Any:
        """The shapes and dtypes of the samples."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, canonicalize_dtype(leaf.dtype)), samples)


def _traced(spec: StepSpec, loop: Loop, batch: Any) -> tuple[Loop, TraceReport]:
    """The loop with floats as wide as a step makes them, and what a trace of its fit shows."""
    while True:
        try:
            return loop, trace_fit(spec, loop, batch, None)[0]
        except Widening as widening:
            loop = jax.eval_shape(widening.apply, loop)


def _entered(spec: StepSpec, batch_count: int, trace: TraceReport, layouts: list[WireLayout], loop: Loop) -> Loop:
    """The loop in its first training phase. Its layout is put into `layouts`: the kind of a key shows only here."""
    dtypes = {name: value.dtype for name, value in loop.stats.items()} | dict(trace.stats)
    loop = loop.replace(stats={name: unmeasured(dtype) for name, dtype in sorted(dtypes.items())})
    loop = begin_epoch(spec, spec.fire(loop, Event.FIT_START))
    loop = enter(spec, spec.fire(loop, Event.EPOCH_START), Phase.TRAINING, np.int32(batch_count))
    loop = jax.tree.map(strong, spec.fire(loop, Event.TRAINING_START))
    layouts.append(layout_of(loop))
    return loop


def _wire(layout: WireLayout, loop: Loop) -> Wire:
    """The wire of an abstract loop."""
    vector = jax.ShapeDtypeStruct((layout.size,), np.int32)
    pairs = zip(layout.slots, layout.kinds, jax.tree.leaves(loop), strict=True)
    others = [
        leaf if kind.key is None else jax.eval_shape(jax.random.key_data, leaf)
        for slot, kind, leaf in pairs
        if slot is None
    ]
    return vector, others


def _longest(feed: Feed, steps: int) -> ChunkSpec:
    """What a dispatch is given; if batches have several lengths, of the longest."""
    announced = feed.announced(steps) if feed.agreed.lengths else []
    return max(announced, key=lambda chunk: chunk.batch.nbytes, default=feed.expected(steps))
