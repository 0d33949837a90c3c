"""The steps of a fit over shapes and dtypes: they can be compiled, and no array is made, moved or computed."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.dtypes import canonicalize_dtype

from jaxloop.births import abstract, is_factory
from jaxloop.engine.binding import bound_spec, with_metrics_of
from jaxloop.engine.phase_steps import Entered, PhaseSteps
from jaxloop.engine.rehearsal import as_traced
from jaxloop.engine.session import Session
from jaxloop.engine.setup import Setup
from jaxloop.events import TRAINING, Event, Plan, Split
from jaxloop.feeding.checks import check_epoch
from jaxloop.feeding.feed import Feed, Feeds
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.feeding.source import EpochSource
from jaxloop.kinds import Widening, strong
from jaxloop.loop import Loop, new_loop
from jaxloop.measured import unmeasured
from jaxloop.model import as_model
from jaxloop.phases import begin_epoch, begin_fit, between_steps, enter, leave_phase
from jaxloop.placement import Placement
from jaxloop.programs.fit_trace import TraceReport, trace_fit
from jaxloop.programs.memo import Memo, Residents
from jaxloop.programs.programs import Program, Programs
from jaxloop.programs.step_trace import TracedStep
from jaxloop.step_spec import StepSpec, UnboundMetrics
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
    """A fit without host callbacks, of which nothing is run.

    Args:
      setup: of the training loop. It keeps the programs of `session`, and nothing of what `steps` finds out.
      given: a model, a function that makes one, or a loop.
      place: where the fit would run; a machine that is not there will do.
      epochs: of the fit; it matters only if a callback depends on the plan.

    Raises:
      What the data raise when their first batch is read, and what is wrong with it.
    """

    def __init__(self, setup: Setup, given: Any, place: Placement, epochs: int = 1):
        self._setup = replace(setup, residents=_Shapes())
        self._given, self._place, self._epochs = given, place, epochs
        self._source = EpochSource(setup.training)
        self._first = int(given.epoch) if isinstance(given, Loop) else 0
        batches = self._source.at(self._first)
        check_epoch(batches.batches)
        begun = functools.partial(Feed.begun, on_recompile=setup.on_recompile)
        validation = self._setup.supply.validation_feeds(place)  # seen first, as in a fit
        self._validation = {split: begun(feed, short="filled") for split, feed in validation.items()}
        self._feed = begun(self._setup.supply.feed(batches, "training", place), short="refused")
        for feed in (self._feed, *self._validation.values()):
            feed.batches.close()

    @property
    def batch_size(self) -> int:
        """Of the data, as they were given."""
        return self._feed.agreed.batch_size

    @property
    def can_be_resized(self) -> bool:
        """Whether all arrays of a batch count examples along their first axis."""
        first = self._feed.agreed.first
        return bool(first.leaves) and len({shape[0] for _, shape, _ in first.leaves}) == 1

    def session(self) -> Session:
        """The session of the fit, with shapes and dtypes in place of its arrays.

        Raises:
          ValueError, TypeError: tracing shows that something is wrong with model, loss or callbacks.
        """
        return self._session(self._setup, self._feed)

    def steps(self, batch_size: int) -> AbstractSteps:
        """The training steps over batches of this size; else as `session`."""
        setup = replace(self._setup, programs=Programs(), memo=Memo())  # those of one size hold only for it
        feed = self._feed.agreeing(first=self._feed.agreed.first.resized(batch_size))
        entered = next(phases_of(self._session(setup, feed)))
        steps, wire = entered.steps, entered.wire
        return AbstractSteps(steps, wire, _longest(steps.feed, steps.fusing(wire).steps))

    def _session(self, setup: Setup, feed: Feed) -> Session:
        callbacks = setup.sorted_out
        plan = setup.plan(self._source, self._first, self._epochs)
        spec = setup.spec_for(callbacks, plan, self._place)
        batches = {split: _batch_of(one) for split, one in {TRAINING: feed, **self._validation}.items()}
        loop = self._begun(spec, plan if callbacks.uses_plan else None, plan, batches[TRAINING])
        spec, loop, trace, traced = _traced(setup.memo, spec, loop, batches)
        setup.programs.hold(spec, traced)
        validation = {split: as_traced(one, split, trace) for split, one in self._validation.items()}
        feeds = Feeds(lambda _: as_traced(feed, TRAINING, trace), validation)
        session = setup.session(callbacks, plan, self._place, self._source, feeds, loop)
        return replace(session, spec=spec, trace=trace)

    def _begun(self, spec: StepSpec, bound: Plan | None, plan: Plan, batch: Any) -> Loop:
        """The loop at the start of the fit."""
        given = self._given
        if not isinstance(given, Loop) and is_factory(given):
            given = abstract(given, lambda: (jax.eval_shape(jax.random.key, 0), batch[0]))

        def begun(given: Any, batch: Any) -> Loop:
            if isinstance(given, Loop):
                loop = jax.tree.map(strong, between_steps(given, None))
            else:
                key = jax.random.key(0)
                model = jax.tree.map(strong, as_model(given, lambda: (key, batch[0])))
                loop = new_loop(model, jax.tree.map(strong, spec.optimizer.init(model.params)), key)
            return begin_fit(spec, loop, plan).replace(plan=bound)

        if given is not self._given:
            return jax.eval_shape(begun, given, batch)
        return jax.eval_shape(functools.partial(begun, given), batch)  # a module is no pytree of arrays


class _Shapes(Residents):
    """Samples that would lie on a device, as shapes and dtypes."""

    def on(self, placement: Placement, samples: Any) -> Any:
        """The shapes and dtypes of the samples."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, canonicalize_dtype(leaf.dtype)), samples)


def phases_of(session: Session) -> Iterator[Entered]:
    """The phases of the first epoch of an abstract session, each at its start."""
    loop, training = session.loop, session.feeds.training(session.source.at(0))
    for split, feed in {TRAINING: training, **session.feeds.validation}.items():
        layouts: list[WireLayout] = []
        before = functools.partial(_first_entered, session)
        if split != TRAINING:
            before = functools.partial(_left, session.spec)
        loop = jax.eval_shape(functools.partial(_entered, session.spec, split, len(feed), before, layouts), loop)
        yield Entered(loop, PhaseSteps(session, layouts[0], split, feed), _wire(layouts[0], loop))


def _batch_of(feed: Feed) -> Any:
    """A batch as a step sees it."""
    batch = feed.agreed.ready.abstract
    if feed.preparation is None:
        return batch
    return jax.eval_shape(feed.preparation.prepare, feed.resident, batch)


def _traced(
    memo: Memo, spec: StepSpec, loop: Loop, batches: Mapping[Split, Any]
) -> tuple[StepSpec, Loop, TraceReport, dict[Split, TracedStep]]:
    """The spec with bound metrics, the loop with floats as wide as a step makes them, what a trace shows, the steps."""
    while True:
        try:
            return spec, loop, *trace_fit(spec, loop, batches)
        except Widening as widening:
            loop = jax.eval_shape(widening.apply, loop)
        except UnboundMetrics as found:
            spec = bound_spec(memo, spec, found.metrics)
            loop = jax.eval_shape(functools.partial(with_metrics_of, spec), loop)


def _first_entered(session: Session, loop: Loop) -> Loop:
    """The loop of a fit that begins, in its first epoch."""
    spec = session.spec
    dtypes = {name: value.dtype for name, value in loop.stats.items()} | dict(session.trace.stats)
    loop = loop.replace(stats={name: unmeasured(dtype) for name, dtype in sorted(dtypes.items())})
    return spec.fire(begin_epoch(spec, spec.fire(loop, Event.FIT_START)), Event.EPOCH_START)


def _left(spec: StepSpec, loop: Loop) -> Loop:
    """The loop after the phase that it is in."""
    assert loop.phase is not None
    return leave_phase(spec.fire(loop, loop.phase.end))


def _entered(
    spec: StepSpec,
    split: Split,
    batch_count: int,
    before: Callable[[Loop], Loop],
    layouts: list[WireLayout],
    loop: Loop,
) -> Loop:
    """The loop in a phase, after `before`. Its layout is put into `layouts`: the kind of a key shows only here."""
    loop = enter(spec, before(loop), split, np.int32(batch_count))
    loop = jax.tree.map(strong, spec.fire(loop, split.phase.start))
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
