"""What is found out before a run: by one abstract trace of it, and by a look into its data."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxloop.engine.advice import advise_on, advise_on_prints
from jaxloop.engine.binding import bindings_of, bound_spec, note_binding, with_metrics_of
from jaxloop.engine.opening import shown
from jaxloop.engine.session import Session
from jaxloop.events import TRAINING, VALIDATION, Split
from jaxloop.feeding.contract import Contract
from jaxloop.feeding.feed import Feed, Feeds
from jaxloop.feeding.inspection import Inspection
from jaxloop.feeding.specification import Batch, signature_of
from jaxloop.kinds import Widening
from jaxloop.loop import Loop
from jaxloop.phases import enter
from jaxloop.programs.fit_trace import TraceReport, trace_fit
from jaxloop.programs.memo import Memo
from jaxloop.programs.programs import Programs
from jaxloop.programs.step_trace import TracedStep, calls_python
from jaxloop.step import output_of
from jaxloop.step_spec import StepSpec, UnboundMetrics
from jaxloop.telling import warn
from jaxloop.wire import layout_of


@dataclass(frozen=True)
class Seen:
    """The data of one phase, of which the first batch was seen.

    Attributes:
      feed: of the phase.
      first: gives the first batch as the step will see it, on the host. It is read only if its numbers matter.
      given: the batches as the user gave them; for training, epochs of them.
    """

    feed: Feed
    first: Callable[[], Batch]
    given: Sequence[Any]

    @property
    def kind(self) -> Batch:
        """A batch like the first, as the step will see it: shapes and dtypes, or numbers if a map must be run."""
        return self.feed.agreed.ready.abstract if self.feed.preparation is None else self.first()

    @property
    def key(self) -> Hashable:
        """What a trace over such a batch is kept by."""
        return self.feed.agreed if self.feed.preparation is None else signature_of(self.first())


def rehearsed(session: Session, inspection: Inspection, data: Mapping[Split, Seen]) -> Session:
    """The session with the report of one abstract trace, its data checked, its validation filled up if it can be.

    Args:
      session: before it begins.
      inspection: of the data.
      data: of each phase that there is, training first.

    Raises:
      ValueError, TypeError: the data, the model, the loss or a callback is not what it must be.
    """
    for seen in data.values():
        for given in seen.given:
            inspection.numbers(given, seen.first, seen.feed.reader.where)
    session = _traced(session, data)
    raises = [split.phase for split, seen in data.items() if _prepare_raises(session.programs, seen.feed)]
    trace = session.trace
    if raises:
        trace = replace(trace, raises=trace.raises.union(raises))
    for split, seen in data.items():
        _warn_of_weights_without_effect(session.spec, trace, split, seen.feed)
        for given in seen.given if split not in trace.relabelled else ():  # what the loss sees is not what was given
            inspection.targets(given, seen.first, trace.output, seen.feed.reader.where)
    advise_on_prints(trace.prints)
    seen = next(iter(data.values()))
    where = seen.feed.reader.where
    advise_on(trace.ends, session.spec.loss_fn, seen.first, seen.feed.agreed.ready.abstract, where)
    return replace(session, trace=trace, feeds=_found(session, inspection, trace))


def _warn_of_weights_without_effect(spec: StepSpec, trace: TraceReport, split: Split, feed: Feed) -> None:
    """Warns of weights that change no loss, since `loss_fn` gives a scalar."""
    weighted = feed.preparation is None and feed.agreed.first.weight is not None
    if weighted and spec.differentiable_step is None and split not in trace.examples:
        warn(
            f"{feed.reader.where}: its batches have weights, but `loss_fn` gives a scalar, which no weight changes. "
            "Let it give one loss per example or token, of which jaxloop takes the weighted mean, or leave them out.",
        )


def kept_contract(memo: Memo, contract: Contract) -> Contract:
    """The first of all equal contracts: it keeps what it has computed about itself."""
    return memo.get(("contract", contract), lambda: contract)


def _traced(session: Session, data: Mapping[Split, Seen]) -> Session:
    """The session with the report of one abstract trace, and a loop whose floats are as wide as a step makes them."""
    about = (session.layout_of(session.loop), *((split, seen.key) for split, seen in data.items()))
    bindings = bindings_of(session.memo, session.spec)
    if about in bindings:
        return _traced(_bound(session, bindings[about]), data)
    key = ("trace", session.spec, *about)
    steps: dict[Split, TracedStep] = {}

    def find() -> TraceReport:
        trace, found = trace_fit(session.spec, session.loop, {split: seen.kind for split, seen in data.items()})
        steps.update(found)
        return trace

    try:
        trace = session.memo.get(key, find)
    except Widening as widening:
        return _traced(replace(session, loop=widening.apply(session.loop)), data)
    except UnboundMetrics as found:
        bindings[about] = bound_spec(session.memo, session.spec, found.metrics)
        return _traced(_bound(session, bindings[about]), data)
    session.programs.hold(session.spec, steps)
    return replace(session, trace=trace)


def _bound(session: Session, spec: StepSpec) -> Session:
    """The session with a spec whose metrics are bound."""
    note_binding(session.memo, spec)
    return replace(session, spec=spec, loop=with_metrics_of(spec, session.loop))


def _prepare_raises(programs: Programs, feed: Feed) -> bool:
    """Whether what makes the batches inside of the step's program calls Python while it runs."""
    if feed.preparation is None:
        return False
    program = programs.preparing(feed.preparation.prepare)
    return calls_python(program.jaxpr(feed.resident, feed.agreed.ready.abstract))


def _found(session: Session, inspection: Inspection, trace: TraceReport) -> Feeds:
    """The feeds with what was found: the number of examples, what is filled up, and who looks into each batch."""

    def found(feed: Feed, split: Split) -> Feed:
        feed = as_traced(feed, split, trace)
        as_seen = functools.partial(shown, session.programs, feed)
        targets = split not in trace.relabelled
        watch = inspection.watching(trace.output, feed.reader.where, as_seen, targets=targets)
        return replace(feed, contract=kept_contract(session.memo, feed.agreed), watch=watch)

    feeds = session.feeds
    validation = {split: found(feed, split) for split, feed in feeds.validation.items()}
    return Feeds(lambda batches: found(feeds.training(batches), TRAINING), validation)


def as_traced(feed: Feed, split: Split, trace: TraceReport) -> Feed:
    """The feed of a phase with what the trace has shown of its batches: their examples, and whether they fill up."""
    if split != TRAINING and not trace.maskable and feed.agreed.first.leaves:  # of nothing, none is short
        feed = feed.agreeing(short="alone")
    return replace(feed, contract=replace(feed.agreed, examples=trace.examples.get(split)))


def look_into(inspection: Inspection, memo: Memo, spec: StepSpec, loop: Loop, batches: Batch, *, stacked: bool) -> None:
    """Refuses wild numbers in a batch that a user gives to a step, or in several stacked, with `check="all"`.

    A traced batch has no numbers, and passes.
    """
    if inspection.check != "all":
        return
    leaves = jax.tree.leaves(batches)
    if not all(isinstance(leaf, (np.ndarray, jax.Array)) and not isinstance(leaf, Tracer) for leaf in leaves):
        return

    def output(loop: Loop, batch: Batch) -> Any:
        return output_of(spec, enter(spec, loop, VALIDATION, np.int32(1)), batch)

    count = len(leaves[0]) if stacked else 1
    first = jax.tree.map(lambda leaf: leaf[0], batches) if stacked else batches
    key = ("output", spec, layout_of(loop), signature_of(first))
    shape = memo.get(key, lambda: jax.eval_shape(output, loop, first))
    watch = inspection.watching(shape, "batches" if stacked else "batch", lambda batch: batch)
    assert watch is not None
    watch(0, count, first if count == 1 else batches)
