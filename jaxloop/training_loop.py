"""`TrainingLoop`: what is trained on what, by which rule; and the three ways to run it."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

import jax
import numpy as np
import optax

from jaxloop.callback import name_of, sort_out, within_steps
from jaxloop.callbacks import ProgressBar
from jaxloop.data import one_epoch
from jaxloop.engine.arguments import check_choice, check_data, check_positive, check_step
from jaxloop.engine.compiled import Compiled, compiled
from jaxloop.engine.going_on import check_opt_state
from jaxloop.engine.host import Host, bound_or_closed
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.latest import Latest, note
from jaxloop.engine.ledger import Ledger
from jaxloop.engine.prediction import predicted
from jaxloop.engine.setup import Setup
from jaxloop.events import Event, Phase, Scope, leave
from jaxloop.feeding.checks import check_batches
from jaxloop.feeding.feed import OnRecompile
from jaxloop.feeding.inspection import Check
from jaxloop.feeding.source import length_at
from jaxloop.feeding.specification import parts_of
from jaxloop.history import History, Recorder
from jaxloop.loop import Loop
from jaxloop.measured import as_number, with_nan
from jaxloop.metrics import Metric, resolve
from jaxloop.phases import close_epoch, eval_step, open_epoch, run_phase, train_step
from jaxloop.placement import Device
from jaxloop.programs.programs import ByIdentity, Program, Programs
from jaxloop.step_spec import DifferentiableStep, LossFn, StepSpec
from jaxloop.wire import on_device


class TrainingLoop:
    """Trains models: `fit` runs it all, `train_step` and its kin are the parts, `run_steps` is the program.

    Making one touches no device. It holds no state of a run, only the programs that were compiled for it.

    Args:
      training: epochs of batches: `TrainingEpochs`, or any iterable of sized iterables of batches, each of which is run
        to its end, as `for` does; `steps(count)` for training without data. A batch is (input, target), (input, target,
        weight), or a mapping, see `batch_keys`. What has weight 0, an example or a token, does not matter, be it NaN or
        a label of -100: not in losses, gradients, statistics or checks.
      validation: batches to validate on after each epoch, a sized iterable; `repeat(batches, batch_count=20)` of what
        has no length; or None.
      optimizer: an optax transformation. Wrapped by `optax.inject_hyperparams` its learning rate is logged. Its update
        is given what its signature takes of `value`, the mean loss of the batch; `grad`, its gradient before any
        callback changed it; functions of parameters that run this batch again under the same key, mode, weight and
        state: `value_fn` and `obj_fn`, the mean loss; `grad_fn`, its gradient; `per_example_grad_fn`, the gradient of
        each example by itself, as a batch of one under a key of its own, with a leading axis of examples.
        `optax.MultiSteps` averages the gradients of its batches with equal weight, each the gradient of a mean over
        its own examples or tokens: where these are not as many in each batch, as with masked tokens, that is not the
        gradient of the mean over all.
      loss_fn: `loss_fn(output, target)`: one loss per example or token, or a scalar, in which no weight can count.
      metrics: names or `Metric` objects; the loss is always measured.
      callbacks: compiled and host callbacks, called in this order.
      progress: whether the console shows the fit.
      report: `"batch"`: statistics at each batch; `"epoch"`: at the last batch of a phase alone.
      steps_per_dispatch: how many steps one program takes, at least 1; `"auto"` decides it once for each phase, from
        the step's FLOPs as XLA counts them, the platform, and what host callbacks look into.
      batch_keys: where batches are mappings, the keys of input, target and, if there is one, weight.
      differentiable_step: `(model, loop) -> (loss, loop)` in place of forward pass and loss, for several inputs or
        losses: it sets `output`, and `model` to what `model.forward` or `model.call` gave back, without which batch
        statistics and random streams stay as they were; evaluation calls it too. Methods and several arguments go by
        `output, model = model.call(lambda module: module.encode(loop.input), loop.step_key("model"))`, in the mode of
        the phase; `model.unwrap()` gives a copy, whose changed state is lost.
        Of what has weight 0 it sees 0 for NaN and infinities, but labels as they are.
      on_recompile: what is done where a program would compile again after its first dispatch, since a batch or the loop
        has changed in shape, dtype or structure: `"raise"` an error that names the leaf, or `"warn"` of it.
      check: which data are looked into for labels outside of the classes, NaN, integers beyond int32, and for several
        classes where a metric takes one; what has weight 0 may be anything. `"first"`: the first batch of each phase;
        `"memory"`: before that all arrays in memory that steps see as they are, once; `"all"`: each batch too, as it
        is read, which takes time.

    Raises:
      TypeError, ValueError: an argument is not what it must be; the message names it. An optimizer that requires more
        than a step knows is refused here where its own signature shows it, and when a fit begins where it stands in a
        chain; so are `optax.lookahead`, and `optax.contrib.dpsgd` without the gradient of each example.

    Example:
      >>> epochs = jl.TrainingEpochs((images, labels), batch_size=128)
      >>> loss_fn = jl.losses.softmax_cross_entropy
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optax.sgd(0.1), loss_fn=loss_fn)
      >>> loop, history = training_loop.fit(model, epochs=12)
    """

    _setup: Setup
    _progress: bool

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
        on_recompile: OnRecompile = "raise",
        check: Check = "memory",
    ):
        check_data(training)
        check_batches(training, "training")
        check_batches(validation, "validation")
        check_step(optimizer, loss_fn, differentiable_step)
        check_choice("report", report, ("batch", "epoch"))
        check_choice("on_recompile", on_recompile, ("raise", "warn"))
        check_choice("check", check, ("first", "memory", "all"))
        if steps_per_dispatch != "auto":
            check_positive("steps_per_dispatch", steps_per_dispatch)
        sort_out(callbacks)
        setup = Setup(
            training=training,
            validation=validation,
            callbacks=tuple(callbacks),
            batch_keys=batch_keys,
            report=report,
            steps_per_dispatch=steps_per_dispatch,
            on_recompile=on_recompile,
            spec=StepSpec(optimizer, loss_fn, differentiable_step, resolve(metrics)),
            programs=Programs(),
            check=check,
        )
        vars(self).update(_setup=setup, _progress=progress)

    @property
    def training(self) -> Any:
        """The epochs it was made with."""
        return self._setup.training

    @property
    def validation(self) -> Any:
        """The batches of validation it was made with, or None."""
        return self._setup.validation

    @property
    def progress(self) -> bool:
        """Whether the console shows the fit."""
        return self._progress

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"TrainingLoop: `{name}` cannot be set once it is made, since checks and programs hold what it was made "
            "with. Make another, as TrainingLoop(training, validation, optimizer=..., loss_fn=...)."
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"TrainingLoop: `{name}` cannot be deleted. Make another TrainingLoop.")

    def fit(
        self,
        model_or_loop: Any,
        epochs: int,
        *,
        callbacks: Sequence[Any] = (),
        on: Device | str | None = None,
        seed: int = 0,
        limit_batches: int | None = None,
        optimizer: Literal["loop", "mine"] = "loop",
    ) -> tuple[Loop, History]:
        """Trains for `epochs` epochs, validating after each. What it is given stays as it was.

        Args:
          model_or_loop: a model, or a loop to go on from: then position, statistics and what callbacks do not keep
            begin anew, while `step`, `epoch`, key, model and optimizer go on.
          epochs: how many more, at least 1.
          callbacks: for this fit alone, after those of the training loop. Their programs are kept until a fit with
            others begins, so that the next one with the same callbacks compiles nothing.
          on: a device, a platform such as `"gpu"`, or None for JAX's default device, which `jax.default_device` and
            `jax_default_device` set.
          seed: of the run's key; a loop brings its own.
          limit_batches: at most this many batches in each phase, to try things out.
          optimizer: whose state a given loop goes on with. `"loop"`: its own, with the hyperparameters in it, such as
            the learning rate that `optax.inject_hyperparams` exposes; the console says where this optimizer was made
            with others. `"mine"`: this training loop's optimizer begins anew, as it must where another made the loop.

        Returns:
          The trained loop and what was measured.

        Raises:
          ValueError, TypeError: an argument, the data or a callback is not what it must be; another optimizer made the
            loop that is given.
          Whatever data and callbacks raise, KeyboardInterrupt too: of the same type, with notes that say where, and
            with the loop behind the last dispatch as `error.loop`. Host callbacks are closed first, and what fails
            then is noted. Where the fit was over and only that fails, it is warned of, and the result is returned.
        """
        check_positive("epochs", epochs)
        if limit_batches is not None:
            check_positive("limit_batches", limit_batches)
        check_choice("optimizer", optimizer, ("loop", "mine"))
        ledger = Ledger()
        start = self._setup.fit(
            model_or_loop, epochs, callbacks=callbacks, on=on, seed=seed, limit=limit_batches, optimizer=optimizer
        )
        self._setup.programs.lend(start.spec, to_one_fit=bool(sort_out(callbacks).compiled))
        compile_seconds: dict[str, float] = {}
        recorder = Recorder(start.plan, compile_seconds)
        shown = ((ProgressBar(),) if self.progress else ()) + start.callbacks.host
        host = Host(
            (recorder, *bound_or_closed(shown, start.plan)),
            start.device,
            ledger=ledger,
            names=("History", *map(name_of, shown)),
        )
        interrupts = Interrupts()
        run = self._setup.run(start, host, compile_seconds=compile_seconds, interrupts=interrupts)
        ledger.lap("setup")
        try:
            with run.latest.told(lambda error: run.latest.leave_with(error, start.device)):
                with interrupts:
                    for text in (f"Training on {_name(start.device)}", *start.notices):
                        host.notice(text)
                    loop = run.fit(start.loop, start.source, start.feeds, start.plan)
                host.close()
        except BaseException as error:
            host.close(error)
            raise
        stopped = "cancelled" if loop.stop & Scope.FIT else "completed"
        loop = loop.replace(stop=leave(loop.stop, Scope.FIT), stats=with_nan(loop.stats))
        loop = on_device(loop, start.device)
        history = recorder.history(stopped)
        ledger.lap("setup")
        return loop, replace(history, timing=dict(ledger.seconds))

    def evaluate(self, model_or_loop: Any, batches: Any, *, on: Device | str | None = None) -> dict[str, float]:
        """Each metric over `batches`, by name. The last batch is padded and masked, so the means are exact.

        Compiled callbacks see the validation phase; host callbacks do not. NaN is what has diverged, or where nothing
        had a weight. A metric that gives an integer is an int.

        Args:
          model_or_loop: a model, or a loop whose model is meant.
          batches: a sized iterable of batches, as `validation`.
          on: as in `fit`.
        """
        start = self._setup.evaluation(model_or_loop, batches, on=on)
        run = self._setup.run(start, Host((), start.device))
        assert start.feeds.validation is not None
        with run.latest.told(lambda error: note(error, "jaxloop: while it evaluated `batches`")):
            loop = start.loop if isinstance(model_or_loop, Loop) else run.event(start.loop, Event.FIT_START)
            loop = run.phase(loop, Phase.VALIDATION, start.feeds.validation)
        names = [metric.name for metric in start.spec.metrics]  # the plan may be of another training loop's loop
        return {name: as_number(loop.stats[Phase.VALIDATION.stat(name)]) for name in names}

    def predict(self, model_or_loop: Any, batches: Any, *, on: Device | str | None = None) -> Any:
        """The model's output for every example of `batches`, in their order, on the host.

        Compiled callbacks take part at BATCH_START and INFERENCE_PREDICTION_END, as in evaluation; what they cancel is
        of no account. The last batch is padded, so one program serves all.

        Args:
          model_or_loop: a model, or a loop whose model is meant.
          batches: a sized iterable of batches as `validation`, or of inputs alone, each one array (or a mapping, where
            there are no `batch_keys`); or the inputs of all examples, one array or a mapping of them, which are taken
            in batches of 256.
          on: as in `fit`.

        Returns:
          PyTree of NumPy arrays, as the model's output, with all examples along the first axis.

        Raises:
          TypeError: a tuple of arrays, of which it is not clear whether they are batches or the parts of one.
          ValueError: the model's output is not one per example.

        Example:
          >>> logits = training_loop.predict(loop, images)
          >>> logits = training_loop.predict(loop, jl.in_batches((images, labels), 64))
        """
        start = self._setup.prediction(model_or_loop, batches, on=on)
        with Latest().told(lambda error: note(error, "jaxloop: while it predicted for `batches`")):
            return predicted(start, self._setup.programs, fresh=not isinstance(model_or_loop, Loop))

    def compile(self, model_or_loop: Any, *, epochs: int = 1, on: Device | str | None = None) -> Compiled:
        """Compiles the steps ahead, and tells what they cost. A fit of the same kind compiles nothing of it again.

        Args:
          model_or_loop: as in `fit`.
          epochs: of the fit that is to come; counts only where a callback depends on the plan.
          on: as in `fit`.

        Returns:
          For training and for validation: compile seconds, steps per dispatch and why, FLOPs and bytes of a step,
          memory and HLO text.

        Example:
          >>> print(training_loop.compile(model))
        """
        check_positive("epochs", epochs)
        start = self._setup.fit(model_or_loop, epochs, callbacks=(), on=on, seed=0, limit=None)
        return compiled(self._setup.run(start, Host((), start.device)), start)

    def start(
        self,
        model_or_loop: Any,
        *,
        epochs: int,
        on: Device | str | None = None,
        seed: int = 0,
        optimizer: Literal["loop", "mine"] = "loop",
    ) -> Loop:
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
        check_positive("epochs", epochs)
        check_choice("optimizer", optimizer, ("loop", "mine"))
        start = self._setup.fit(model_or_loop, epochs, callbacks=(), on=on, seed=seed, limit=None, optimizer=optimizer)
        run = self._setup.run(start, Host((), start.device))
        return on_device(run.event(start.loop, Event.FIT_START), start.device)

    def begin_epoch(self, loop: Loop) -> Loop:
        """The loop in the training phase of its next epoch, past EPOCH_START and TRAINING_START."""
        return self._compiled(loop, open_epoch)(loop, self._batch_count(loop, Phase.TRAINING, begun=1))

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
          The loop, and the rows: by name each of `loop.stats`, float32[K] or as it was recorded; `step`,
          `epoch_index` and `batch_index` as int32[K]; and `counted`, bool[K], False for a step that was cancelled.
        """
        batches = parts_of(batches, self._setup.batch_keys, "batches")
        self._setup.look_into(self._spec_of(loop), loop, batches, stacked=True)
        return self._compiled(loop, run_phase)(loop, self._batch_count(loop, Phase.TRAINING), batches)

    def _on_trial(self, training: Any, **changes: Any) -> "TrainingLoop":
        """One like it over other epochs, its compiled callbacks in steps alone, without validation, host and console.

        They share programs. `changes` are of the setup.
        """
        trial = copy.copy(self)
        programs = self._setup.programs
        callbacks = tuple(
            programs.get(("within steps", ByIdentity(callback)), functools.partial(within_steps, callback))
            for callback in sort_out(self._setup.callbacks).compiled
        )
        changes |= {"training": training, "validation": None, "callbacks": callbacks}
        vars(trial).update(_setup=dataclasses.replace(self._setup, **changes), _progress=False)
        return trial

    def _step(self, loop: Loop, batch: Any, phase: Phase) -> Loop:
        batch = parts_of(batch, self._setup.batch_keys, "batch")
        self._setup.look_into(self._spec_of(loop), loop, batch, stacked=False)
        function = train_step if phase is Phase.TRAINING else eval_step
        return self._compiled(loop, function)(loop, self._batch_count(loop, phase), batch)

    def _batch_count(self, loop: Loop, phase: Phase, begun: int = 0) -> Any:
        """How many batches `phase` has, as far as that is known without reading data, once `begun` epochs more began.

        Waits for the device where a phase begins and the epochs may be of several lengths.
        """
        if phase is Phase.VALIDATION:
            return np.int32(0 if self.validation is None else len(one_epoch(self.validation, "validation")))
        if not hasattr(self.training, "__getitem__"):
            return loop.batch_count
        known = loop.phase is phase or hasattr(self.training, "batch_count")  # or it is in the phase already
        return np.int32(len(self.training[0]) if known else length_at(self.training, loop.epoch - 1 + begun))

    def _compiled(self, loop: Loop, function: Callable[..., Any]) -> Program:
        """`function(spec, loop, ...)` jitted, kept by the callbacks and the plan of the loop."""
        spec = self._spec_of(loop)
        name = function.__name__

        def checked(loop: Loop, *rest: Any) -> Any:  # while it is traced, so a step pays nothing
            if function is train_step or (function is run_phase and loop.phase is not Phase.VALIDATION):
                check_opt_state(spec.optimizer, loop, "loop")
            return function(spec, loop, *rest)

        return self._setup.programs.get((name, spec), lambda: Program(name, checked))

    def _spec_of(self, loop: Loop) -> StepSpec:
        return self._setup.spec_for(sort_out(self._setup.callbacks), loop.plan)


def _name(device: Device) -> str:
    return f"{device.platform}:{device.id} ({device.device_kind})"
