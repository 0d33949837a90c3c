"""Setting up: from what a user gives to a session that is ready to begin."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxloop import placement
from jaxloop.callback import Callbacks, bound, name_of, sort_out, within_steps
from jaxloop.callbacks.checkpoint import checkpoints_among
from jaxloop.data import one_epoch
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.arguments import checked_start
from jaxloop.engine.host import Host
from jaxloop.engine.identity import identity_of_run
from jaxloop.engine.leaving import leaving
from jaxloop.engine.opening import Opening
from jaxloop.engine.rehearsal import Seen, look_into, rehearsed
from jaxloop.engine.resuming import resumed
from jaxloop.engine.run import Run
from jaxloop.engine.sameness import check_same_run, said
from jaxloop.engine.session import Progress, Session
from jaxloop.engine.supply import Supply
from jaxloop.events import TRAINING, VALIDATION, Plan, Split
from jaxloop.feeding.checks import check_batches
from jaxloop.feeding.contract import OnRecompile
from jaxloop.feeding.feed import Feeds
from jaxloop.feeding.identity import identity_of
from jaxloop.feeding.inspection import Check, Inspection, Passed
from jaxloop.feeding.source import EpochSource, Peekable
from jaxloop.feeding.specification import Batch
from jaxloop.loop import Loop
from jaxloop.lying import placement_of
from jaxloop.measured import unmeasured
from jaxloop.metrics import is_scalar
from jaxloop.ownership import on_device
from jaxloop.phases import begin_fit, enter
from jaxloop.pickling import IN_PLACE_OF_A_TRAINING_LOOP, check_can_be_pickled
from jaxloop.placement import Placement
from jaxloop.programs.memo import ByIdentity, Memo, Residents
from jaxloop.programs.programs import Programs
from jaxloop.shown import name_of_function, said_by
from jaxloop.step_spec import StepSpec


@dataclass(frozen=True)
class Setup:
    """The constants of a training loop, what was compiled for it and what was found out.

    Attributes:
      training, validation, callbacks, batch_keys, report, steps_per_dispatch, on_recompile, check: as `TrainingLoop`
        was given them; `validate_at_start` too.
      spec: of the steps, without callbacks.
      programs: that were compiled, kept from fit to fit.
      memo: what was found out, kept from fit to fit.
      residents: samples on devices.
      placements: of several devices, on which something has run.
    """

    training: Any
    validation: Any
    callbacks: tuple[Any, ...]
    batch_keys: Sequence[str] | None
    report: Literal["batch", "epoch"]
    steps_per_dispatch: int | Literal["auto"]
    on_recompile: OnRecompile
    check: Check
    spec: StepSpec
    programs: Programs = field(default_factory=Programs)
    memo: Memo = field(default_factory=Memo)
    residents: Residents = field(default_factory=Residents)
    placements: list[Placement] = field(default_factory=list[Placement])
    validate_at_start: bool = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        check_can_be_pickled((self.spec, self.callbacks), "TrainingLoop: it", IN_PLACE_OF_A_TRAINING_LOOP)
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> "Setup":
        return Setup(**{each.name: copy.deepcopy(getattr(self, each.name), memo) for each in fields(self)})

    def parts(self) -> list[tuple[str, str]]:
        """What it is made of, for a person. It reads no data, and touches no device."""
        spec = self.spec
        data = [(TRAINING.name, self.training), *((split.name, batches) for split, batches in self.supply.sets.items())]
        return [
            *((name, said_by(batches)) for name, batches in data),
            ("loss", name_of_function(spec.loss_fn or spec.differentiable_step)),
            ("metrics", ", ".join(metric.name for metric in spec.metrics)),
            ("callbacks", ", ".join(map(name_of, self.callbacks)) or "none"),
        ]

    def fit(
        self,
        given: Any,
        epochs: int | None,
        *,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
        on: Any = None,
        seed: int = 0,
        limit: int | None = None,
        optimizer: Literal["loop", "mine"] = "loop",
        resume_from: str | Path | None = None,
        validate_at_start: bool | None = None,
    ) -> Session:
        """The session of a fit of so many epochs or steps, from a model, a loop, or the checkpoints in a folder."""
        place = self._placed(on)
        with leaving(place.several_processes), Agreement(place).together():
            sorted_out = self.sorted_out if callbacks == () else sort_out(self.callbacks, callbacks)
            epoch = int(given.epoch) if isinstance(given, Loop) else 0
            data = self.supply.of_fit(epoch, epochs, steps, limit=limit, place=place)
            opening = Opening(self.spec, self.programs, self.memo, place)
            loop = opening.loop(given, seed, data.training.feed)
            loop, notices = opening.going_on(loop, optimizer) if isinstance(given, Loop) else (loop, ())
            notices = (*filter(None, [placement.left_unused(on)]), *notices)
            plan = self.plan(data.source, epoch, data.count)
            session = self.session(sorted_out, plan, place, data.source, data.feeds, loop, notices)
            first = self.validate_at_start if validate_at_start is None else validate_at_start
            session = replace(session, validates_first=checked_start(first, data.validation))
            own = None if isinstance(given, Loop) else int(seed)
            identity = functools.partial(self._identity, session, data.training, limit=limit, seed=own)
            if resume_from is not None or checkpoints_among(sorted_out.host):
                data.watched()
                session = replace(session, identity=identity)
            if place.several_processes:
                feeds = [seen.feed for seen in data.seen.values()]
                same = identity() | {"training": identity_of(self.training), "host callbacks": said(sorted_out.host)}
                check_same_run(place, "fit", same, feeds)
            session = self._begun(session, data.seen)
            return session if resume_from is None else resumed(session, resume_from)

    def evaluation(self, given: Any, batches: Any, *, on: Any = None) -> Session:
        """The session of an evaluation of a model or a loop; a loop stays in the fit that it is in."""
        place = self._place_for(given, on)
        with leaving(place.several_processes), Agreement(place).together():
            check_batches(batches, "evaluate")
            session, seen = self._on_batches(given, batches, place)
            if isinstance(given, Loop):
                return rehearsed(session, self.inspection, {VALIDATION: seen})
            return self._begun(session, {VALIDATION: seen})

    def prediction(self, given: Any, batches: Any, *, on: Any = None) -> Session:
        """The session of predictions of a model or a loop. Nothing is traced: there may be no target."""
        place = self._place_for(given, on)
        with leaving(place.several_processes), Agreement(place).together():
            check_batches(batches, "predict", inputs_alone=True)
            session, _ = self._on_batches(given, batches, place, inputs_alone=True)
        loop = session.loop if isinstance(given, Loop) else _in_new_fit(session)
        loop = enter(session.spec, loop, VALIDATION, np.int32(len(session.feeds.only)))
        return replace(session, loop=on_device(loop, session.placement))

    def run(self, session: Session, host: Host | None = None, progress: Progress | None = None) -> Run:
        """The run of a session, without host callbacks unless a `host` is given."""
        progress = progress or Progress(agreement=Agreement(session.placement))
        return Run(session, progress, host or Host((), session.placement, ledger=progress.ledger))

    def spec_for(self, given: Callbacks, plan: Plan | None, place: Placement | None = None) -> StepSpec:
        """The spec with the compiled callbacks among `given`, bound; the same object for the same callbacks.

        Args:
          given: all callbacks.
          plan: they are bound to it.
          place: where the run lives; None for one device.
        """
        plan = plan if given.uses_plan else None
        several = None if place is None or place.single else place
        key = ("spec", tuple(map(ByIdentity, given.compiled)), plan, several)
        return self.memo.get(key, lambda: replace(self.spec, callbacks=bound(given.compiled, plan), placement=several))

    def placement_of(self, loop: Loop) -> Placement | None:
        """The placement of several devices on which a loop lies; None if it is on one, or traced."""
        return placement_of(loop, reversed(self.placements))

    def lend(self, session: Session, callbacks: Sequence[Any]) -> None:
        """Lets go of what was made for callbacks that only an earlier fit was given, as a fit begins."""
        to_one_fit = bool(callbacks and sort_out(callbacks).compiled)
        self.memo.forget(self.programs.lend(session.spec, to_one_fit=to_one_fit))

    def look_into(self, spec: StepSpec, loop: Loop, batches: Batch, *, stacked: bool) -> None:
        """See `rehearsal.look_into`."""
        look_into(self.inspection, self.memo, spec, loop, batches, stacked=stacked)

    def on_trial(self, training: Any, **changes: Any) -> "Setup":
        """A setup like it over other epochs, without validation and host callbacks; compiled ones act only in steps.

        They share programs.
        """
        callbacks = tuple(
            self.memo.get(("within steps", ByIdentity(callback)), functools.partial(within_steps, callback))
            for callback in self.sorted_out.compiled
        )
        changes |= {"training": training, "validation": None, "validate_at_start": False}
        return replace(self, callbacks=callbacks, **changes)

    def split_of(self, name: str | None) -> Split:
        """The set of validation of this name; None for the only one, which may have no name.

        Raises:
          ValueError: there is none of the name, or there are several and none is named.
        """
        names = self.spec.validation_sets
        if name is None and names == (VALIDATION.name,):
            return VALIDATION
        if name is None or name not in names:
            got = "none was named" if name is None else f"got {name!r}"
            raise ValueError(f"validation_set: say which, of {', '.join(map(repr, names))}; {got}.")
        return Split.named(name)

    @property
    def supply(self) -> Supply:
        """What makes feeds of its data."""
        return Supply(
            self.training, self.validation, self.batch_keys, self.on_recompile, self.programs, self.memo, self.residents
        )

    @functools.cached_property
    def sorted_out(self) -> Callbacks:
        """The callbacks, the compiled apart from those on the host."""
        return sort_out(self.callbacks)

    @property
    def inspection(self) -> Inspection:
        """The checks of data. What has passed once is known from fit to fit."""
        passed = self.memo.get("passed", Passed)
        return Inspection(self.check, self.spec.loss_fn, self.spec.metrics, self.batch_keys, passed)

    def _identity(self, session: Session, training: Seen, **options: Any) -> dict[str, Any]:
        return identity_of_run(session, self.training, self.supply.sets, training.feed, training.first, **options)

    def _placed(self, on: Any) -> Placement:
        """The placement that `on` means, remembered if it is several devices."""
        place = placement.resolve(on)
        place.check_is_there()
        if not place.single and place not in self.placements:
            self.placements.append(place)
        return place

    def _place_for(self, given: Any, on: Any) -> Placement:
        """The placement that `on` means; for None that of a loop which lies on several devices."""
        there = self.placement_of(given) if on is None and isinstance(given, Loop) else None
        return there or self._placed(on)

    def plan(self, source: EpochSource, first: int, count: int) -> Plan:
        """The plan of a fit of `count` epochs, of which `source` was asked for the first."""
        lengths = source.lengths(first, count)
        return self._plan(count, len(source.at(first)), None if lengths is None else sum(lengths))

    def _plan(self, epochs: int, batch_count: int, total: int | None) -> Plan:
        metrics = tuple(metric.name for metric in self.spec.metrics if is_scalar(metric))
        sets = self.spec.validation_sets
        return Plan(int(epochs), batch_count, metrics, self.report, int(total or 0), total is None, sets)

    def session(
        self,
        callbacks: Callbacks,
        plan: Plan,
        place: Placement,
        source: EpochSource,
        feeds: Feeds,
        loop: Loop,
        notices: tuple[str, ...] = (),
    ) -> Session:
        """The session of what it is given, and of what is constant here."""
        return Session(
            spec=self.spec_for(callbacks, plan, place),
            callbacks=callbacks,
            plan=plan,
            placement=place,
            source=source,
            feeds=feeds,
            loop=loop,
            programs=self.programs,
            memo=self.memo,
            steps_per_dispatch=self.steps_per_dispatch,
            on_recompile=self.on_recompile,
            notices=notices,
        )

    def _on_batches(
        self, given: Any, batches: Any, place: Placement, *, inputs_alone: bool = False
    ) -> tuple[Session, Seen]:
        """A model or a loop, in no phase and with nothing cancelled, over the batches of one phase."""
        peekable = Peekable(one_epoch(batches, "batches"))
        feed = self.supply.feed(peekable, "batches", place, inputs_alone=inputs_alone)
        seen = self.supply.seen(feed, [peekable.batches], evaluates=True)
        check_same_run(place, "evaluate" if not inputs_alone else "predict", {}, [seen.feed])
        loop = Opening(self.spec, self.programs, self.memo, place).loop(given, 0, seen.feed)
        loop = loop.replace(stop=np.int32(0))
        plan = loop.plan or self._plan(1, len(feed), len(feed))
        feeds = Feeds(lambda batches: seen.feed, {VALIDATION: seen.feed})
        return self.session(self.sorted_out, plan, place, EpochSource(()), feeds, loop), seen

    def _begun(self, session: Session, data: dict[Split, Seen]) -> Session:
        """The session with a loop that begins a new fit, and with what a rehearsal shows."""
        session = replace(session, loop=_in_new_fit(session))
        session = rehearsed(session, self.inspection, data)
        loop = session.loop
        dtypes = {name: value.dtype for name, value in loop.stats.items()} | dict(session.trace.stats)
        stats = {name: unmeasured(dtype) for name, dtype in sorted(dtypes.items())}
        return replace(session, loop=loop.replace(stats=stats))


def _in_new_fit(session: Session) -> Loop:
    """The loop at the start of a new fit, with the plan where a compiled callback is bound to it."""
    loop = begin_fit(session.spec, session.loop, session.plan)
    return loop.replace(plan=session.plan if session.callbacks.uses_plan else None)
