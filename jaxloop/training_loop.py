"""`TrainingLoop`: what is trained on what, by which rule; and the three ways to run it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxloop import placement
from jaxloop.callback import Callbacks, bound, sort_out
from jaxloop.callbacks import ProgressBar
from jaxloop.data import Batches
from jaxloop.engine.feed import EpochSource, Feed, Feeds, kind_of, limited, parts_of
from jaxloop.engine.host import Host
from jaxloop.engine.probe import Findings, probe
from jaxloop.engine.programs import Program, Programs, Same
from jaxloop.engine.run import Run
from jaxloop.events import Event, Phase, Plan, Scope, leave
from jaxloop.history import History, Recorder
from jaxloop.loop import Loop, new_loop
from jaxloop.metrics import Metric, resolve
from jaxloop.model import as_model
from jaxloop.phases import begin_fit, close_epoch, in_phase, open_epoch
from jaxloop.placement import Device
from jaxloop.steps import DifferentiableStep, LossFn, Parts, run_steps, step
from jaxloop.wire import handed_over, layout_of, opened, opened_by_copy


class TrainingLoop:
    """Trains models: `fit` runs it all, `train_step` and its kin are the parts, `run_steps` is the program.

    Making one touches no device. It holds no state of a run, only the programs that were compiled for it.

    Args:
      training: epochs of batches: `TrainingEpochs`, or any iterable of sized iterables of batches. A batch is
        (input, target), (input, target, weight), or a mapping, see `batch_keys`.
      validation: batches to validate on after each epoch, a sized iterable; or None.
      optimizer: an optax transformation. Wrapped by `optax.inject_hyperparams` its learning rate is logged.
      loss_fn: `loss_fn(output, target)`: one loss per example or token, or a scalar.
      metrics: names or `Metric` objects; the loss is always measured.
      callbacks: compiled and host callbacks, called in this order.
      progress: whether the console shows the fit.
      report: `"batch"`: statistics at each batch; `"epoch"`: at the last batch of a phase alone.
      steps_per_dispatch: how many steps one program takes, at least 1; `"auto"` leaves it to jaxloop, for now 1.
      batch_keys: where batches are mappings, the keys of input, target and, if there is one, weight.
      differentiable_step: `(model, loop) -> (loss, loop)` in place of forward pass and loss, for several inputs or
        losses: it sets `output`, and `model` to what `model.forward` gave back; evaluation calls it too.

    Raises:
      TypeError, ValueError: an argument is not what it must be; the message names it.

    Example:
      >>> epochs = jl.TrainingEpochs((images, labels), batch_size=128)
      >>> loss_fn = jl.losses.softmax_cross_entropy
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optax.sgd(0.1), loss_fn=loss_fn)
      >>> loop, history = training_loop.fit(model, epochs=12)
    """

    def __init__(
        self,
        training: Any,
        validation: Any = None,
        *,
        optimizer: optax.GradientTransformation,
        loss_fn: LossFn | None = None,
        metrics: Sequence[str | Metric] = (),
        callbacks: Sequence[Any] = (),
        progress: bool = True,
        report: Literal["batch", "epoch"] = "batch",
        steps_per_dispatch: int | Literal["auto"] = "auto",
        batch_keys: Sequence[str] | None = None,
        differentiable_step: DifferentiableStep | None = None,
    ):
        _check_arguments(optimizer, loss_fn, differentiable_step, report, steps_per_dispatch)
        if isinstance(training, Batches):
            raise TypeError(
                "TrainingLoop: `training` must be epochs of batches, got the batches of one epoch. "
                "Give TrainingEpochs(samples, batch_size), or [batches] * epochs for the same order each time."
            )
        self.training = training
        self.validation = validation
        sort_out(callbacks)
        self.callbacks = tuple(callbacks)
        self.progress = progress
        self.report: Literal["batch", "epoch"] = report
        self.steps_per_dispatch = 1 if steps_per_dispatch == "auto" else steps_per_dispatch
        self.batch_keys = batch_keys
        self._parts = Parts(optimizer, loss_fn, differentiable_step, resolve(metrics))
        self._programs = Programs()

    def fit(
        self,
        model_or_loop: Any,
        epochs: int,
        *,
        callbacks: Sequence[Any] = (),
        on: Device | str | None = None,
        seed: int = 0,
        limit_batches: int | None = None,
    ) -> tuple[Loop, History]:
        """Trains for `epochs` epochs, validating after each. What it is given stays as it was.

        Args:
          model_or_loop: a model, or a loop to go on from: then position, statistics and what callbacks do not keep
            begin anew, while `step`, `epoch`, key, model and optimizer go on.
          epochs: how many more, at least 1.
          callbacks: for this fit alone, after those of the training loop.
          on: a device, a platform such as `"gpu"`, or None for the default device.
          seed: of the run's key; a loop brings its own.
          limit_batches: at most this many batches in each phase, to try things out.

        Returns:
          The trained loop and what was measured.

        Raises:
          ValueError, TypeError: an argument, the data or a callback is not what it must be.
        """
        start = self._start(model_or_loop, epochs, callbacks, on, seed, limit_batches)
        compile_seconds: dict[str, float] = {}
        recorder = Recorder(start.plan, compile_seconds)
        console = (ProgressBar(),) if self.progress else ()
        host = Host((recorder, *bound((*console, *start.callbacks.host), start.plan)), start.device)
        run = self._run(start, host, compile_seconds)
        try:
            host.notice(f"Training on {_name(start.device)}")
            loop = run.fit(start.loop, start.source, start.feeds, start.plan)
        finally:
            host.close()
        stopped = "cancelled" if loop.stop & Scope.FIT else "completed"
        loop = loop.replace(stop=leave(loop.stop, Scope.FIT))
        return handed_over(loop, start.device), recorder.history(stopped)

    def evaluate(self, model_or_loop: Any, batches: Any, *, on: Device | str | None = None) -> dict[str, float]:
        """Each metric over `batches`, by name. The last batch is padded and masked, so the means are exact.

        Compiled callbacks see the validation phase; host callbacks do not.

        Args:
          model_or_loop: a model, or a loop whose model is meant.
          batches: a sized iterable of batches, as `validation`.
          on: as in `fit`.
        """
        start = self._start_evaluation(model_or_loop, batches, on)
        run = self._run(start, Host((), start.device), {})
        loop = start.loop if isinstance(model_or_loop, Loop) else run.event(start.loop, Event.FIT_START)
        assert start.feeds.validation is not None
        loop = run.phase(loop, Phase.VALIDATION, start.feeds.validation)
        return {name: float(loop.stats[Phase.VALIDATION.stat(name)]) for name in start.plan.metrics}

    def start(self, model_or_loop: Any, *, epochs: int, on: Device | str | None = None, seed: int = 0) -> Loop:
        """The loop at the start of a fit, past FIT_START: for those who own the loop themselves.

        Args and errors are those of `fit`. Host callbacks are not called by what follows on it.

        Example:
          >>> loop = training_loop.start(model, epochs=12)
          >>> for epoch in range(12):
          ...     loop = training_loop.begin_epoch(loop)
          ...     for batch in data.training[epoch]:
          ...         loop = training_loop.train_step(loop, batch)
          ...     loop = training_loop.end_epoch(loop)
        """
        start = self._start(model_or_loop, epochs, (), on, seed, None)
        run = self._run(start, Host((), start.device), {})
        return handed_over(run.event(start.loop, Event.FIT_START), start.device)

    def begin_epoch(self, loop: Loop) -> Loop:
        """The loop in the training phase of its next epoch, past EPOCH_START and TRAINING_START."""
        return self._compiled(loop, open_epoch)(loop, self._batch_count(loop, Phase.TRAINING))

    def train_step(self, loop: Loop, batch: Any) -> Loop:
        """The loop after one training step. Pure, jitted, donates nothing; any phase may come in.

        A loop in validation, or in no phase, first enters training, with the events that belong to it.

        Args:
          loop: from `begin_epoch`, or from anywhere.
          batch: as in `training`.
        """
        return self._step(loop, batch, Phase.TRAINING)

    def eval_step(self, loop: Loop, batch: Any) -> Loop:
        """The loop after one evaluation step, as `train_step`; a loop in training first enters validation."""
        return self._step(loop, batch, Phase.VALIDATION)

    def end_epoch(self, loop: Loop) -> Loop:
        """The loop past the END of the phase at hand and EPOCH_END."""
        return self._compiled(loop, close_epoch)(loop)

    def run_steps(self, loop: Loop, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
        """Steps of the phase that `loop` is in as one pure program: to `vmap`, differentiate or export.

        Args:
          loop: from `begin_epoch` or in validation; in no phase, it enters training.
          batches: batches stacked: each leaf has a leading axis of K steps. For K = 1 the program is the step
            itself, for more a scan.

        Returns:
          The loop, and the rows: by name each of `loop.stats` as float32[K]; `step`, `epoch_index` and
          `batch_index` as int32[K]; and `counted`, bool[K], False for a step that was cancelled.
        """
        batches = parts_of(batches, self.batch_keys, "batches")
        return self._compiled(loop, _run_steps)(loop, self._batch_count(loop, Phase.TRAINING), batches)

    def _step(self, loop: Loop, batch: Any, phase: Phase) -> Loop:
        batch = parts_of(batch, self.batch_keys, "batch")
        function = _train_step if phase is Phase.TRAINING else _eval_step
        return self._compiled(loop, function)(loop, self._batch_count(loop, phase), batch)

    def _batch_count(self, loop: Loop, phase: Phase) -> Any:
        """How many batches `phase` has, as far as that is known without reading data."""
        if phase is Phase.VALIDATION:
            return np.int32(0 if self.validation is None else len(self.validation))
        indexable = hasattr(self.training, "__getitem__")
        return np.int32(len(self.training[0])) if indexable else loop.batch_count

    def _compiled(self, loop: Loop, function: Callable[..., Any]) -> Program:
        parts = self._bound(sort_out(self.callbacks), loop.plan)
        name = function.__name__.strip("_")
        return self._programs.get((name, parts), lambda: Program(name, functools.partial(function, parts)))

    def _start(
        self, given: Any, epochs: int, callbacks: Sequence[Any], on: Any, seed: int, limit: int | None
    ) -> "_Start":
        """All that a fit begins with, short of FIT_START; what can be checked has been."""
        _check_positive("epochs", epochs)
        if limit is not None:
            _check_positive("limit_batches", limit)
        device = placement.resolve(on)
        kinds = sort_out([*self.callbacks, *callbacks])
        source = EpochSource(self.training)
        loop = self._loop(given, seed, device)
        like_first: list[Any] = []
        training = functools.partial(self._feed, where="training", device=device, limit=limit, like_first=like_first)
        feed = training(source.at(int(loop.epoch)))
        validation = None
        if self.validation is not None:
            validation = self._feed(self.validation, where="validation", device=device, limit=limit, padded=True)
        plan = Plan(epochs, len(feed), tuple(metric.name for metric in self._parts.metrics), self.report)
        start = _Start(device, kinds, source, Feeds(training, validation), plan, self._bound(kinds, plan), loop)
        return self._begun(start, feed)

    def _start_evaluation(self, given: Any, batches: Any, on: Any) -> "_Start":
        device = placement.resolve(on)
        feed = self._feed(batches, where="batches", device=device, limit=None, padded=True)
        kinds = sort_out(self.callbacks)
        loop = self._loop(given, 0, device).replace(stop=np.int32(0), phase=None)
        plan = loop.plan or Plan(1, len(feed), tuple(metric.name for metric in self._parts.metrics), self.report)
        source, feeds = EpochSource(()), Feeds(lambda batches: feed, feed)
        start = _Start(device, kinds, source, feeds, plan, self._bound(kinds, plan), loop)
        return self._probed(start, None) if isinstance(given, Loop) else self._begun(start, None)

    def _begun(self, start: "_Start", training: Feed | None) -> "_Start":
        """With a loop that begins a new fit."""
        loop = begin_fit(start.parts, start.loop, start.plan)
        loop = loop.replace(plan=start.plan if start.callbacks.uses_plan else None)
        start = self._probed(replace(start, loop=loop), training)
        stats = {name: np.float32(np.nan) for name in sorted(start.findings.stats)}
        return replace(start, loop=loop.replace(stats=stats))

    def _probed(self, start: "_Start", training: Feed | None) -> "_Start":
        """With what one abstract trace finds, and validation padded if it can be."""
        validation = start.feeds.validation
        batch = None if training is None else training.first()
        validation_batch = None if validation is None else validation.first()
        key = ("probe", start.parts, layout_of(start.loop), kind_of(batch), kind_of(validation_batch))
        findings = self._programs.get(key, lambda: probe(start.parts, start.loop, batch, validation_batch))
        feeds = start.feeds
        if validation is not None:
            feeds = replace(feeds, validation=validation.with_padding(findings.maskable))
        return replace(start, findings=findings, feeds=feeds)

    def _run(self, start: "_Start", host: Host, compile_seconds: dict[str, float]) -> Run:
        return Run(
            parts=start.parts,
            host=host,
            programs=self._programs,
            active=start.findings.active,
            device=start.device,
            steps_per_dispatch=self.steps_per_dispatch,
            compile_seconds=compile_seconds,
        )

    def _loop(self, given: Any, seed: int, device: Device) -> Loop:
        """An open loop of the engine's own, from a loop or a model that stays the user's."""
        if isinstance(given, Loop):
            return opened_by_copy(given, device)
        model = jax.device_put(as_model(given), device, may_alias=False)
        init = self._programs.get("init", lambda: Program("init_optimizer", self._parts.optimizer.init))
        return opened(new_loop(model, init(model.params), jax.device_put(jax.random.key(seed), device)))

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
        like_first = [] if like_first is None else like_first
        feed = Feed(limited(batches, limit), where, self.batch_keys, padded, device, like_first)
        if len(feed) == 0:
            raise ValueError(f"{where}: there is no batch. Check the batch size against the number of samples.")
        return feed

    def _bound(self, given: Callbacks, plan: Plan | None) -> Parts:
        """The parts of a step with the compiled callbacks among `given`; the same object for the same callbacks."""
        plan = plan if given.uses_plan else None
        key = ("parts", tuple(map(Same, given.compiled)), plan)
        return self._programs.get(key, lambda: replace(self._parts, callbacks=bound(given.compiled, plan)))


@dataclass(frozen=True)
class _Start:
    """What a fit or an evaluation begins with."""

    device: Device
    callbacks: Callbacks
    source: EpochSource
    feeds: Feeds
    plan: Plan
    parts: Parts
    loop: Loop
    findings: Findings = Findings(frozenset(), frozenset(), False)


def _train_step(parts: Parts, loop: Loop, batch_count: Any, batch: Any) -> Loop:
    return step(parts, in_phase(parts, loop, Phase.TRAINING, batch_count), batch)[0]


def _eval_step(parts: Parts, loop: Loop, batch_count: Any, batch: Any) -> Loop:
    return step(parts, in_phase(parts, loop, Phase.VALIDATION, batch_count), batch)[0]


def _run_steps(parts: Parts, loop: Loop, batch_count: Any, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
    def one(loop: Loop, batch: Any) -> tuple[Loop, dict[str, jax.Array]]:
        position = {name: getattr(loop, name) for name in ("step", "epoch_index", "batch_index")}
        loop, counted = step(parts, loop, batch)
        return loop, loop.stats | position | {"counted": counted}

    loop = loop if loop.phase is not None else in_phase(parts, loop, Phase.TRAINING, batch_count)
    return run_steps(one, loop, batches, jax.tree.leaves(batches)[0].shape[0])


def _check_arguments(
    optimizer: Any, loss_fn: Any, differentiable_step: Any, report: str, steps_per_dispatch: Any
) -> None:
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"TrainingLoop: `optimizer` must be an optax transformation, got {optimizer!r}. Write optax.sgd(0.1)."
        )
    if loss_fn is None and differentiable_step is None:
        raise ValueError("TrainingLoop: give `loss_fn`, or `differentiable_step` in its place.")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"TrainingLoop: `loss_fn` must be a function of (output, target), got {loss_fn!r}.")
    if report not in ("batch", "epoch"):
        raise ValueError(f"TrainingLoop: `report` must be 'batch' or 'epoch', got {report!r}.")
    if steps_per_dispatch != "auto":
        _check_positive("steps_per_dispatch", steps_per_dispatch)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: it must be a whole number of at least 1, got {value!r}.")


def _name(device: Device) -> str:
    return f"{device.platform}:{device.id} ({device.device_kind})"
