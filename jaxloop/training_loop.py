"""`TrainingLoop`: what is trained on what, by which rule; and the three ways to run it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import optax

from jaxloop.by_hand import ByHand
from jaxloop.callback import sort_out
from jaxloop.callbacks.progress_bar import Detail, ProgressBar, checked_progress
from jaxloop.casting import checked_dtype
from jaxloop.data.arrays import as_batches, as_epochs, as_inputs, as_validation, check_unused, sets_of
from jaxloop.engine.ahead import look_ahead
from jaxloop.engine.arguments import check_fit, check_length, check_options, check_parts, names_of_sets
from jaxloop.engine.compiled import Compiled, compiled
from jaxloop.engine.evaluation import evaluated
from jaxloop.engine.fitting import fitted
from jaxloop.engine.latest import Latest, note
from jaxloop.engine.prediction import predicted
from jaxloop.engine.setup import Setup
from jaxloop.feeding.contract import OnRecompile
from jaxloop.feeding.inspection import Check
from jaxloop.history import History
from jaxloop.loop import Loop
from jaxloop.metrics import Metric, resolve
from jaxloop.output_losses import Losses, as_loss_fn
from jaxloop.placement import On
from jaxloop.plainly import plainly
from jaxloop.shown import table
from jaxloop.step_spec import DifferentiableStep, StepSpec


class TrainingLoop(ByHand):
    """Trains models: `fit` runs everything, `train_step` and the methods beside it are the parts.

    To make one touches no device. It keeps no state of a run, only programs.

    Args:
      training: epochs of batches: `TrainingEpochs`, or any iterable of sized iterables of batches. Each epoch is run to
        its end, as `for` does. `steps(count)` is for training without data. A batch is (input, target), (input, target,
        weight), or a mapping, see `batch_keys`. An example or a token of weight 0 has no effect on losses, gradients,
        statistics or checks, even if it is NaN or has the label -100. Or the arrays of all examples, such as
        `(inputs, targets)`: they become `TrainingEpochs`, shuffled, in batches of `batch_size`.
      validation: a sized iterable of batches to validate on after each epoch; `repeat(batches, batch_count=20)` for
        batches without a length; or the arrays of all examples, as for training; or None. Or several sets by name, as
        `{"in_domain": ..., "out_of_domain": ...}`: each is validated on after each epoch, in this order, in a phase of
        its own, and has statistics of its own, such as `in_domain_loss`.
      batch_size: of data that are arrays. None for 32 in training (or all examples, if they are fewer) and 256 in
        validation.
      optimizer: an optax transformation. With `optax.inject_hyperparams` its learning rate is logged. Its update is
        given those of these that its signature takes: `value`, the mean loss of the batch; `grad`, its gradient before
        any callback changed it; `value_fn` and `obj_fn`, the mean loss as a function of parameters; `grad_fn`, the
        gradient as such a function; `per_example_grad_fn`, the gradient of each example, as a batch of one under its
        own key, with a leading axis of examples. The functions run this batch again under the same key, mode, weight
        and state. `optax.MultiSteps` averages the gradients of its batches with equal weight; see `accumulate`.
      loss_fn: `loss_fn(output, target)`: one loss per example or token, or a scalar, which no weight can change. Or of
        several outputs a loss, or `(loss, weight)`, by the key of each, `{"digit": loss_fn, "parity": (other, 0.5)}`.
      metrics: names or `Metric` objects. The loss is always measured; that of each output as `digit_loss`.
      callbacks: compiled and host callbacks, called in this order.
      progress: how much of a fit the console shows: True, False, `"quiet"` or `"verbose"`; see `ProgressBar`.
      report: `"batch"`: statistics at each batch; `"epoch"`: only at the last batch of a phase.
      steps_per_dispatch: how many steps one program takes, at least 1. `"auto"` decides it once for each phase, from
        the step's FLOPs, the platform, and what host callbacks read.
      batch_keys: if batches are mappings, the keys of input, target and, if there is one, weight.
      differentiable_step: `(model, loop) -> (loss, loop)` in place of forward pass and loss, for several inputs or
        losses. It sets `output`. It also sets `model` to the one that `model.forward` or `model.call` returned, else
        batch statistics and random streams stay as they were. Evaluation calls it too. For methods and several
        arguments write `output, model = model.call(lambda module: module.encode(loop.input), loop.step_key("model"))`,
        which runs in the mode of the phase. `model.unwrap()` gives a copy, whose changed state is lost. In what has
        weight 0, it sees 0 in place of NaN and infinity, but labels as they are.
      on_recompile: what happens if a batch or the loop has changed in shape, dtype or structure, so that a program
        would compile again after its first dispatch: `"raise"` an error that names the leaf, or `"warn"`.
      check: which data are checked for labels outside of the classes, NaN, integers beyond int32, and several classes
        where a metric takes one. `"first"`: the first batch of each phase. `"memory"`: first all arrays in memory that
        steps see as they are, once. `"all"`: also each batch as it is read, which takes time. Targets are not checked
        where a compiled callback replaces them or their weight at BATCH_START.
      accumulate: as how many microbatches a training step takes its batch, one after the other, with the memory of one.
        The gradient is that of the whole batch. Each has dropout and batch statistics of its own; state and memory run
        through them in turn; what a `differentiable_step` records is their weighted mean.
      compute_dtype: such as `"bfloat16"`, to which forward passes cast parameters and floats of the input. Layers with
        a dtype of their own keep it. All else stays float32. Losses are not scaled, so `"float16"` may overflow.
      validate_at_start: whether a fit validates before its first epoch too. To callbacks and logs that is an epoch at
        index -1, the epoch 0 of logs, which has no training.

    Raises:
      TypeError, ValueError: an argument is wrong; the message names it. An optimizer that requires more than a step
        knows is refused here, or in a chain when a fit begins; so are `optax.lookahead`, and `dpsgd` of mean gradients.

    Example:
      >>> epochs = jl.TrainingEpochs((images, labels), batch_size=128)
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optax.sgd(0.1), loss_fn=jl.losses.softmax_cross_entropy)
      >>> loop, history = training_loop.fit(model, epochs=12)
    """

    _setup: Setup
    _progress: Detail

    @plainly
    def __init__(
        self,
        training: Any,
        validation: Any = None,
        *,
        batch_size: int | None = None,
        optimizer: optax.GradientTransformation,
        loss_fn: Losses | None = None,
        metrics: Sequence[str | Metric] = (),
        callbacks: Sequence[Any] = (),
        progress: Detail = True,
        report: Literal["batch", "epoch"] = "batch",
        steps_per_dispatch: int | Literal["auto"] = "auto",
        batch_keys: Sequence[str] | None = None,
        differentiable_step: DifferentiableStep | None = None,
        on_recompile: OnRecompile = "raise",
        check: Check = "memory",
        accumulate: int = 1,
        compute_dtype: Any = None,
        validate_at_start: bool = False,
    ):
        check_unused(batch_size, training, *sets_of(validation, batch_keys), keys=batch_keys)
        training = as_epochs(training, batch_size, batch_keys)
        validation = as_validation(validation, batch_size, batch_keys)
        check_parts(training, validation, optimizer, loss_fn := as_loss_fn(loss_fn), differentiable_step)
        check_options(report, on_recompile, check, steps_per_dispatch, accumulate, batch_keys)
        sort_out(callbacks)
        dtype, metrics = checked_dtype(compute_dtype), resolve(metrics, loss_fn)
        setup = Setup(
            training=training,
            validation=validation,
            callbacks=tuple(callbacks),
            batch_keys=batch_keys,
            report=report,
            steps_per_dispatch=steps_per_dispatch,
            on_recompile=on_recompile,
            spec=StepSpec(
                optimizer,
                loss_fn,
                differentiable_step,
                metrics,
                accumulate=accumulate,
                compute_dtype=dtype,
                validation_sets=names_of_sets(validation, metrics),
            ),
            check=check,
            validate_at_start=validate_at_start,
        )
        vars(self).update(_setup=setup, _progress=checked_progress("TrainingLoop", progress))

    @classmethod
    def of(cls, setup: Setup) -> "TrainingLoop":
        """The training loop of a setup, without a console: for tools that change one of another, see `setup`."""
        training_loop = cls.__new__(cls)
        vars(training_loop).update(_setup=setup, _progress=False)
        return training_loop

    @property
    def setup(self) -> Setup:
        """What it was made with and what it keeps: the door of the engine, for tools such as `explain`."""
        return self._setup

    @property
    def training(self) -> Any:
        """The epochs it was made with."""
        return self._setup.training

    @property
    def validation(self) -> Any:
        """The batches of validation it was made with, or None."""
        return self._setup.validation

    @property
    def progress(self) -> Detail:
        """How much of a fit the console shows."""
        return self._progress

    def __repr__(self) -> str:
        return f"TrainingLoop({', '.join(f'{name} {text}' for name, text in self.setup.parts())})"

    def _repr_html_(self) -> str:
        return table("TrainingLoop", self.setup.parts())

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"TrainingLoop: `{name}` cannot be set once it is made, since checks and programs hold what it was made "
            "with. Make another, as TrainingLoop(training, validation, optimizer=..., loss_fn=...)."
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"TrainingLoop: `{name}` cannot be deleted. Make another TrainingLoop.")

    @plainly
    def fit(
        self,
        model_or_loop: Any,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
        on: On = None,
        seed: int = 0,
        limit_batches: int | None = None,
        optimizer: Literal["loop", "mine"] = "loop",
        resume_from: str | Path | None = None,
        validate_at_start: bool | None = None,
        progress: Detail | None = None,
    ) -> tuple[Loop, History]:
        """Trains for so many epochs or steps, with validation after each epoch. What is given stays as it was.

        Args:
          model_or_loop: a model; a function that makes one, which is then born where it is to lie; or a loop. Of that,
            `step`, `epoch`, key, model and optimizer go on; position, statistics and what callbacks remember begin
            again, except what they keep on purpose.
          epochs: how many more, at least 1. A fit begins with an epoch of its own.
          steps: in place of epochs, how many more training steps. The last epoch may be short; it is validated too.
            Batches that callbacks cancel count, and what a cancelled phase leaves out is not made up for.
          callbacks: only for this fit, after those of the training loop. Programs are kept for the next fit with them.
          on: a device, a platform, or a `Placement`, such as `data_parallel()`. None for one CPU, or for all GPUs or
            TPUs, data parallel; for all devices of all processes, if there are several.
          seed: of the run's key. A loop brings its own key.
          limit_batches: at most this many batches in each phase, to try things out.
          optimizer: whose state a loop goes on with. `"loop"`: its own, with its hyperparameters, such as the rate; the
            console says if this optimizer was made with others. `"mine"`: this training loop's optimizer begins again,
            as it must if another one made the loop.
          resume_from: the folder of a `callbacks.Checkpoint`. The fit goes on from its newest checkpoint that is whole,
            and equals the run that was never interrupted, bit for bit. Give the same arguments as then. If nothing was
            saved there yet, the fit begins. If the run is over, its loop and history are returned at once.
          validate_at_start, progress: as the training loop has them; None for what that was given.

        Returns:
          The trained loop and what was measured, from the start of the run on.

        Raises:
          ValueError, TypeError: an argument, the data or a callback is wrong, or another optimizer made the loop.
          Whatever data and callbacks raise, KeyboardInterrupt too: of the same type, with notes that say where, and
            with the loop after the last dispatch as `error.loop`. Host callbacks are closed first. If closing fails
            too, that is noted. If only closing fails, after the fit, there is a warning and the result is returned.
          CheckpointError: a checkpoint could not be written; its folder belongs to another run or is in use; or, as
            StateMismatchError, the arguments are not those of the run; or, as CorruptCheckpointError, all are damaged.
        """
        check_fit(epochs, optimizer, limit_batches, steps)
        shown = self.progress if progress is None else checked_progress("fit", progress)
        began = time.perf_counter()
        session = self.setup.fit(
            model_or_loop,
            epochs,
            steps=steps,
            callbacks=callbacks,
            on=on,
            seed=seed,
            limit=limit_batches,
            optimizer=optimizer,
            resume_from=resume_from,
            validate_at_start=validate_at_start,
        )
        self.setup.lend(session, callbacks)
        return fitted(session, began, ProgressBar.of(shown, session.callbacks.host))

    @plainly
    def evaluate(
        self, model_or_loop: Any, batches: Any, *, batch_size: int | None = None, on: On = None
    ) -> dict[str, Any]:
        """Each metric over `batches`, by name: a float, or the array of a `metrics.ConfusionMatrix`.

        Padding is masked, so the means are exact. Compiled callbacks see the validation phase; host callbacks do not. A
        metric is NaN if it has diverged, or if nothing had a weight.

        Args:
          model_or_loop: a model, or a loop with one.
          batches: a sized iterable of batches, as `validation`; or the arrays of all examples: `(inputs, targets)`.
          batch_size: of arrays; None for 256.
          on: as in `fit`.

        Example:
          >>> training_loop.evaluate(loop, (images, labels))
        """
        check_unused(batch_size, batches, keys=self.setup.batch_keys)
        batches = as_batches(batches, batch_size, self.setup.batch_keys)
        run = self.setup.run(self.setup.evaluation(model_or_loop, batches, on=on))
        return evaluated(run, fresh=not isinstance(model_or_loop, Loop))

    @plainly
    def predict(self, model_or_loop: Any, batches: Any, *, batch_size: int | None = None, on: On = None) -> Any:
        """The model's output for every example of `batches`, in their order, on the host.

        Compiled callbacks are called at BATCH_START and INFERENCE_PREDICTION_END, as in evaluation; a cancel has no
        effect. The last batch is padded. The device holds two outputs at most.

        Args:
          model_or_loop: a model, or a loop with one.
          batches: a sized iterable of batches as `validation`, or of only inputs, each one array (or a mapping, if
            there are no `batch_keys`). Or the inputs of all examples, one array or a mapping of arrays.
          batch_size: of such inputs; None for 256.
          on: as in `fit`.

        Returns:
          PyTree of NumPy arrays, as the model's output, with all examples along the first axis.

        Raises:
          TypeError, ValueError: `batches` is a tuple of arrays, or the model's output is not one per example.

        Example:
          >>> logits = training_loop.predict(loop, images)
          >>> logits = training_loop.predict(loop, jl.in_batches((images, labels), 64))
        """
        session = self.setup.prediction(model_or_loop, as_inputs(batches, batch_size), on=on)
        with Latest().told(lambda error: note(error, "jaxloop: while it predicted for `batches`")):
            return predicted(session, fresh=not isinstance(model_or_loop, Loop))

    @plainly
    def compile(self, model_or_loop: Any, *, epochs: int = 1, on: On = None) -> Compiled:
        """Compiles the steps ahead, and tells what they cost. A fit of the same kind compiles nothing of it again.

        Args:
          model_or_loop: as in `fit`.
          epochs: of the fit to come; it matters only if a callback depends on the plan.
          on: as in `fit`; or a `topology`: for that no array is made, and the numbers of the data are not checked.

        Returns:
          `training` and `validation`, each with `steps` a dispatch, `compile_seconds`, `flops` of a step, `memory` of a
          device in bytes by what it holds, its `peak` and whether it `fits`, `collectives`, and the text `hlo`.

        Example:
          >>> step = training_loop.compile(model).training
          >>> step.steps, step.flops > 0
          (8, True)
        """
        check_length("epochs", epochs)
        return compiled(look_ahead(self.setup, model_or_loop, epochs, on)[1])
