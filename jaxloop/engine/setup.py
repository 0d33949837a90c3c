"""Setting up a run: from what a user gives to a loop, data and programs that are ready to begin."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
from jax.core import Tracer

from jaxloop import placement
from jaxloop.callback import Callbacks, bound, sort_out
from jaxloop.data import Batches, in_batches, one_epoch
from jaxloop.engine.arguments import check_seed
from jaxloop.engine.going_on import check_opt_state, hyperparameters_of, kept_hyperparameters
from jaxloop.engine.host import Host
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.run import Run
from jaxloop.events import Phase, Plan
from jaxloop.feeding.checks import check_batches, check_epoch
from jaxloop.feeding.feed import Feed, Feeds, OnRecompile
from jaxloop.feeding.inspection import Check, Inspection, Passed, epochs_in_memory
from jaxloop.feeding.prepare import Prepare
from jaxloop.feeding.source import EpochSource, close, limited, peekable
from jaxloop.feeding.specification import Batch, signature_of
from jaxloop.kinds import Widening, strong
from jaxloop.loop import Loop, new_loop
from jaxloop.measured import unmeasured
from jaxloop.model import as_model
from jaxloop.phases import begin_fit, between_steps, enter
from jaxloop.placement import Device
from jaxloop.programs.fit_trace import TraceReport, trace_fit
from jaxloop.programs.programs import ByIdentity, Program, Programs
from jaxloop.programs.step_trace import TracedStep, calls_python
from jaxloop.step import output_of
from jaxloop.step_spec import StepSpec
from jaxloop.wire import layout_of, on_device, own_copy, with_host_scalars


@dataclass(frozen=True)
class Start:
    """What a fit or an evaluation begins with, short of FIT_START; what can be checked has been.

    Attributes:
      device: where it runs.
      callbacks: not bound to the plan yet.
      source: the epochs.
      feeds: what makes batches of them.
      plan: of the fit.
      spec: what the steps are made of, the compiled callbacks bound.
      loop: open, and the engine's own.
      findings: of the abstract trace.
      notices: what a person should know of it.
    """

    device: Device
    callbacks: Callbacks
    source: EpochSource
    feeds: Feeds
    plan: Plan
    spec: StepSpec
    loop: Loop
    trace: TraceReport = TraceReport({}, frozenset(), False)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """The constants of a training loop, and the programs that were compiled for it.

    Attributes:
      training, validation, callbacks, batch_keys, report, steps_per_dispatch, on_recompile, check: as `TrainingLoop`
        was given them.
      spec: of the steps, without callbacks.
      programs: kept from fit to fit.
    """

    training: Any
    validation: Any
    callbacks: tuple[Any, ...]
    batch_keys: Sequence[str] | None
    report: Literal["batch", "epoch"]
    steps_per_dispatch: int | Literal["auto"]
    on_recompile: OnRecompile
    spec: StepSpec
    programs: Programs
    check: Check = "memory"

    def fit(
        self,
        given: Any,
        epochs: int,
        *,
        callbacks: Sequence[Any],
        on: Any,
        seed: int,
        limit: int | None,
        optimizer: Literal["loop", "mine"] = "loop",
    ) -> Start:
        """What a fit of `epochs` epochs from a model or a loop begins with."""
        device = placement.resolve(on)
        kinds = sort_out([*self.callbacks, *callbacks])
        source = EpochSource(self.training)
        make = functools.partial(self._feed, device=device, limit=limit)
        training = functools.partial(make, where="training", like_first=[])
        epoch = int(given.epoch) if isinstance(given, Loop) else 0
        first = source.at(epoch)
        check_epoch(first)
        feed = training(first)
        loop = self._loop(given, seed, device, feed)
        loop, notices = self._going_on(loop, optimizer) if isinstance(given, Loop) else (loop, ())
        validation = None if self.validation is None else make(self.validation, where="validation", padded=True)
        lengths = source.lengths(epoch, epochs)
        total = None if lengths is None else sum(min(length, limit or length) for length in lengths)
        plan = self._plan(epochs, len(feed), total)
        spec = self.spec_for(kinds, plan)
        start = Start(device, kinds, source, Feeds(training, validation), plan, spec, loop, notices=notices)
        return self._begun(start, feed)

    def evaluation(self, given: Any, batches: Any, *, on: Any) -> Start:
        """What an evaluation of a model or a loop begins with; a loop stays in the fit that it is in."""
        check_batches(batches, "evaluate")
        start = self._on_batches(given, batches, on)
        return self._with_trace(start, None) if isinstance(given, Loop) else self._begun(start, None)

    def prediction(self, given: Any, batches: Any, *, on: Any) -> Start:
        """What predictions of a model or a loop begin with. Nothing is traced: there may be no target.

        Arrays are all examples: they are taken in batches.
        """
        if hasattr(batches, "shape") or isinstance(batches, Mapping):
            batches = in_batches(batches, 256)
        check_batches(batches, "predict", inputs_alone=True)
        start = self._on_batches(given, batches, on, inputs_alone=True)
        loop = start.loop if isinstance(given, Loop) else _in_new_fit(start)
        assert start.feeds.validation is not None
        loop = enter(start.spec, loop, Phase.VALIDATION, np.int32(len(start.feeds.validation)))
        return replace(start, loop=on_device(loop, start.device))

    def run(
        self,
        start: Start,
        host: Host,
        *,
        compile_seconds: dict[str, float] | None = None,
        interrupts: Interrupts | None = None,
    ) -> Run:
        """The run that `start` begins."""
        return Run(
            spec=start.spec,
            host=host,
            programs=self.programs,
            active=start.trace.active,
            cancels=start.trace.cancels,
            raises=start.trace.raises,
            device=start.device,
            steps_per_dispatch=self.steps_per_dispatch,
            on_recompile=self.on_recompile,
            ledger=host.ledger,
            interrupts=interrupts or Interrupts(),
            compile_seconds={} if compile_seconds is None else compile_seconds,
        )

    def spec_for(self, given: Callbacks, plan: Plan | None) -> StepSpec:
        """The parts with the compiled callbacks among `given`, bound; the same object for the same callbacks."""
        plan = plan if given.uses_plan else None
        key = ("spec", tuple(map(ByIdentity, given.compiled)), plan)
        return self.programs.get(key, lambda: replace(self.spec, callbacks=bound(given.compiled, plan)))

    def _plan(self, epochs: int, batch_count: int, total: int | None) -> Plan:
        metrics = tuple(metric.name for metric in self.spec.metrics)
        return Plan(epochs, batch_count, metrics, self.report, total or 0, total is None)

    def _on_batches(self, given: Any, batches: Any, on: Any, *, inputs_alone: bool = False) -> Start:
        """A model or a loop, in no phase and with nothing cancelled, over the batches of one phase."""
        device = placement.resolve(on)
        feed = self._feed(batches, where="batches", device=device, limit=None, padded=True)
        prepare = None if feed.prepare is None else replace(feed.prepare, inputs_alone=inputs_alone)
        feed = replace(feed, inputs_alone=inputs_alone, prepare=prepare)
        kinds = sort_out(self.callbacks)
        loop = self._loop(given, 0, device, feed).replace(stop=np.int32(0))
        plan = loop.plan or self._plan(1, len(feed), len(feed))
        feeds = Feeds(lambda batches: feed, feed)
        return Start(device, kinds, EpochSource(()), feeds, plan, self.spec_for(kinds, plan), loop)

    def _begun(self, start: Start, training: Feed | None) -> Start:
        """With a loop that begins a new fit."""
        start = self._with_trace(replace(start, loop=_in_new_fit(start)), training)
        dtypes = {name: value.dtype for name, value in start.loop.stats.items()} | dict(start.trace.stats)
        stats = {name: unmeasured(dtype) for name, dtype in sorted(dtypes.items())}
        return replace(start, loop=start.loop.replace(stats=stats))

    def _with_trace(self, start: Start, training: Feed | None) -> Start:
        """With what one abstract trace finds, and validation padded if it can be."""
        validation = start.feeds.validation
        feeds = [feed for feed in (training, validation) if feed is not None]
        firsts = {feed.where: feed.first() for feed in reversed(feeds)}  # training last, which goes on from there
        if training is not None and validation is not None:
            close(validation.batches)  # it is read when an epoch of training is over
        shown = {feed.where: self._shown(feed, firsts[feed.where]) for feed in feeds}
        inspection = self._inspection()
        looked_into = [(given, shown[feed.where], feed.where) for feed in feeds for given in self._given(feed)]
        for given, batch, where in looked_into:
            inspection.numbers(given, batch, where)
        start = self._traced(start, [None if feed is None else shown[feed.where] for feed in (training, validation)])
        raises = [
            phase for phase, feed in zip(Phase, (training, validation), strict=True) if self._prepare_raises(feed)
        ]
        trace = replace(start.trace, raises=start.trace.raises.union(raises))
        for given, batch, where in looked_into:
            inspection.targets(given, batch, trace.output, where)
        return replace(start, trace=trace, feeds=self._found(start.feeds, inspection, trace))

    def _traced(self, start: Start, batches: Sequence[Batch | None]) -> Start:
        """With the findings of one abstract trace, and a loop whose floats are as wide as a step makes them."""
        key = ("trace", start.spec, layout_of(start.loop), *map(signature_of, batches))
        steps: dict[Phase, TracedStep] = {}

        def find() -> TraceReport:
            trace, found = trace_fit(start.spec, start.loop, *batches)
            steps.update(found)
            return trace

        try:
            trace = self.programs.get(key, find)
        except Widening as widening:
            return self._traced(replace(start, loop=widening.apply(start.loop)), batches)
        self.programs.hold(start.spec, steps)
        return replace(start, trace=trace)

    def look_into(self, spec: StepSpec, loop: Loop, batches: Batch, stacked: bool) -> None:
        """Refuses wild numbers in a batch of one's own, or in several stacked, where each batch is to be looked into.

        Not in one that is traced, in which there are no numbers.
        """
        if self.check != "all":
            return
        leaves = jax.tree.leaves(batches)
        if not all(isinstance(leaf, (np.ndarray, jax.Array)) and not isinstance(leaf, Tracer) for leaf in leaves):
            return

        def output(loop: Loop, batch: Batch) -> Any:
            return output_of(spec, enter(spec, loop, Phase.VALIDATION, np.int32(1)), batch)

        count = len(leaves[0]) if stacked else 1
        first = jax.tree.map(lambda leaf: leaf[0], batches) if stacked else batches
        key = ("output", spec, layout_of(loop), signature_of(first))
        shape = self.programs.get(key, lambda: jax.eval_shape(output, loop, first))
        watch = self._inspection().watching(shape, "batches" if stacked else "batch", lambda batch: batch)
        assert watch is not None
        watch(0, count, first if count == 1 else batches)

    def _inspection(self) -> Inspection:
        """What looks into the data; what was looked into once is known from fit to fit."""
        passed = self.programs.get("passed", Passed)
        return Inspection(self.check, self.spec.loss_fn, self.spec.metrics, self.batch_keys, passed)

    def _given(self, feed: Feed) -> list[Any]:
        """The batches of a feed as they were given; of training all epochs that are at hand."""
        return epochs_in_memory(self.training, feed.given) if feed.where == "training" else [feed.given]

    def _found(self, feeds: Feeds, inspection: Inspection, trace: TraceReport) -> Feeds:
        """The feeds with what was found: validation padded if it can be, all looked into as read if that was asked."""

        def found(feed: Feed, phase: Phase) -> Feed:
            watch = inspection.watching(trace.output, feed.where, functools.partial(self._shown, feed))
            return replace(feed, examples=trace.examples.get(phase)).watched(watch)

        validation = feeds.validation
        if validation is not None:
            validation = found(validation.with_padding(trace.maskable), Phase.VALIDATION)
        return Feeds(lambda batches: found(feeds.training(batches), Phase.TRAINING), validation)

    def _prepare_raises(self, feed: Feed | None) -> bool:
        """Whether what makes the batches inside of the step's program calls Python while it runs."""
        if feed is None or feed.prepare is None:
            return False
        return calls_python(self.programs.preparing(feed.prepare).jaxpr(feed.resident, feed.first()))

    def _shown(self, feed: Feed, first: Batch) -> Batch:
        """The first batch as the step will see it, on the host."""
        if feed.prepare is None:
            return first
        return jax.device_get(self.programs.preparing(feed.prepare)(feed.resident, first))

    def _loop(self, given: Any, seed: int, device: Device, feed: Feed) -> Loop:
        """An open loop of the engine's own, from a loop or a model that stays the user's.

        A model without parameters yet is initialized from the first batch of `feed`, as the step will see it.
        """
        if isinstance(given, Loop):
            return own_copy(between_steps(given, None), device)
        check_seed(seed)
        key = _key(seed, device)
        model = as_model(given, lambda: (key, self._shown(feed, feed.first())[0]))
        model = jax.device_put(jax.tree.map(strong, model), device, may_alias=False)
        loop = with_host_scalars(new_loop(model, self._begin(model.params), key))
        self.programs.get("hyperparameters", lambda: jax.tree.map(np.array, hyperparameters_of(loop.opt_state)))
        return loop

    def _begin(self, params: Any) -> Any:
        """The state that the optimizer begins with."""
        init = self.spec.optimizer.init

        def begun(params: Any) -> Any:
            return jax.tree.map(strong, init(params))

        return self.programs.get("begin", lambda: Program("begin", begun))(params)

    def _going_on(self, loop: Loop, optimizer: Literal["loop", "mine"]) -> tuple[Loop, tuple[str, ...]]:
        """An open loop of the engine's own with the optimizer's state to go on with, and what is to be told of it."""
        if optimizer == "mine":
            return with_host_scalars(loop.replace(opt_state=self._begin(loop.model.params))), ()
        check_opt_state(self.spec.optimizer, loop, "fit")
        if not hyperparameters_of(loop.opt_state):
            return loop, ()
        init = self.spec.optimizer.init
        program = Program("hyperparameters", lambda params: hyperparameters_of(init(params)))
        made_with = self.programs.get("hyperparameters", lambda: jax.device_get(program(loop.model.params)))
        return loop, tuple(kept_hyperparameters(loop.opt_state, made_with))

    def _feed(
        self,
        batches: Any,
        *,
        where: str,
        device: Device,
        limit: int | None,
        padded: bool = False,
        like_first: list[Any] | None = None,
    ) -> Feed:
        batches = batches if where == "training" else one_epoch(batches, where)
        feed = Feed(
            limited(peekable(batches), limit),
            where,
            self.batch_keys,
            padded,
            device,
            [] if like_first is None else like_first,
            on_recompile=self.on_recompile,
        )
        feed = replace(feed, given=feed.batches)
        if len(feed) == 0:
            raise ValueError(f"{where}: there is no batch. Check the batch size against the number of samples.")
        return self._with_preparation(feed)

    def _with_preparation(self, feed: Feed) -> Feed:
        """The feed with what its batches leave to the program; samples that stay on the device are put there once."""
        batches = feed.batches
        if not isinstance(batches, Batches) or not (batches.compiled or batches.resident):
            return feed
        keys = None if self.batch_keys is None else tuple(self.batch_keys)
        prepare = Prepare(batches.resident, batches.compiled, keys, feed.where)
        resident = None
        if batches.resident:
            resident = self.programs.resident(batches.samples, feed.device)
        return replace(feed, batches=batches.uncompiled(), prepare=prepare, resident=resident)


def _key(seed: int, device: Device) -> jax.Array:
    """`jax.random.key(seed)` on a device; under JAX's defaults without the program that JAX compiles for it.

    Threefry's key is the seed's 64 bits, of which JAX keeps 32 while it has no 64-bit types.
    """
    config: Any = jax.config
    if config.jax_default_prng_impl != "threefry2x32" or config.jax_random_seed_offset:
        return jax.device_put(jax.random.key(seed), device)
    bits = int(np.int64(seed)) & (2**64 - 1 if config.jax_enable_x64 else 2**32 - 1)
    words = np.array(divmod(bits, 2**32), np.uint32)
    return jax.random.wrap_key_data(jax.device_put(words, device), impl="threefry2x32")


def _in_new_fit(start: Start) -> Loop:
    """The loop at the start of a new fit, with the plan where a compiled callback is bound to it."""
    loop = begin_fit(start.spec, start.loop, start.plan)
    return loop.replace(plan=start.plan if start.callbacks.uses_plan else None)
