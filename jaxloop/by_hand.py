"""The loop in a user's own hands: what a training loop offers to those who write the loop themselves."""

from typing import Any, Literal

import jax

from jaxloop.engine.arguments import check_fit
from jaxloop.engine.setup import Setup
from jaxloop.engine.step_by_step import StepByStep
from jaxloop.events import TRAINING, Event
from jaxloop.loop import Loop
from jaxloop.ownership import on_device
from jaxloop.placement import On
from jaxloop.plainly import plainly


class ByHand:
    """The methods of `TrainingLoop` below `fit`: the parts of a fit, each a pure jitted function."""

    @property
    def setup(self) -> Setup:
        """What it was made with and what it keeps: the door of the engine, for tools such as `explain`."""
        raise NotImplementedError

    @plainly
    def start(
        self,
        model_or_loop: Any,
        *,
        epochs: int,
        on: On = None,
        seed: int = 0,
        optimizer: Literal["loop", "mine"] = "loop",
    ) -> Loop:
        """The loop at the start of a fit, after FIT_START: for those who write the loop themselves.

        Args and errors are those of `fit`; `epochs` is what schedules take for the length of the fit. Host callbacks
        are not called.

        Example:
          >>> loop = training_loop.start(model, epochs=12)
          >>> loop = training_loop.train_step(training_loop.begin_epoch(loop), batch)
          >>> loop = training_loop.end_epoch(loop)
        """
        check_fit(epochs, optimizer)
        run = self.setup.run(self.setup.fit(model_or_loop, epochs, on=on, seed=seed, optimizer=optimizer))
        return on_device(run.event(run.session.loop, Event.FIT_START), run.session.placement)

    @plainly
    def begin_epoch(self, loop: Loop) -> Loop:
        """The loop in the training phase of its next epoch, after EPOCH_START and TRAINING_START.

        Args:
          loop: from `start`, `end_epoch` or `fit`. A phase that is still at hand ends before.
        """
        return StepByStep(self.setup).begin_epoch(loop)

    @plainly
    def train_step(self, loop: Loop, batch: Any) -> Loop:
        """The loop after one training step over `batch`. It is pure and jitted, and donates nothing.

        Args:
          loop: in any phase. In validation, or in no phase, it first enters training, with the events of that.
          batch: (input, target), (input, target, weight), or a mapping, as in `training`. A batch of other shapes
            compiles a program of its own.

        Raises:
          ValueError, TypeError: the batch, or the loop, is not one for this training loop.

        Example:
          >>> loop = training_loop.begin_epoch(training_loop.start(model, epochs=1))
          >>> after = training_loop.train_step(loop, batch)
          >>> int(loop.step), int(after.step)
          (0, 1)
        """
        return StepByStep(self.setup).step(loop, batch, TRAINING)

    @plainly
    def eval_step(self, loop: Loop, batch: Any, validation_set: str | None = None) -> Loop:
        """The loop after one evaluation step, as `train_step`; a loop that is not in that validation first enters it.

        Args:
          loop: in any phase.
          batch: as in `train_step`. Nothing is padded: a batch of other shapes compiles a program of its own.
          validation_set: the name of the set that the batch is from, if validation has several; else None.

        Raises:
          ValueError: validation has no set of this name, or several and none is named.

        Example:
          >>> after = training_loop.eval_step(training_loop.start(model, epochs=1), batch)
          >>> bool(jnp.isfinite(after.stats["validation_loss"]))
          True
        """
        return StepByStep(self.setup).step(loop, batch, self.setup.split_of(validation_set))

    @plainly
    def end_epoch(self, loop: Loop) -> Loop:
        """The loop after the END of the phase that it is in, and after EPOCH_END.

        Args:
          loop: from `begin_epoch`, `train_step` or `eval_step`.
        """
        return StepByStep(self.setup).end_epoch(loop)

    @plainly
    def run_steps(self, loop: Loop, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
        """Steps of the phase that `loop` is in, as one pure program: to `vmap`, differentiate or export.

        Args:
          loop: from `begin_epoch`, or in validation. In no phase, it enters training.
          batches: stacked batches: each leaf has a leading axis of K steps. For K = 1 the program is the step
            itself, for more it is a scan.

        Returns:
          The loop, and the rows: by name each of `loop.stats`, float32[K] or as it was recorded; `step`,
          `epoch_index` and `batch_index` as int32[K]; and `counted`, bool[K], False for a step that was cancelled.

        Raises:
          ValueError, TypeError: `batches` hold no array, or are not stacked batches of this training loop.

        Example:
          >>> loop = training_loop.begin_epoch(training_loop.start(model, epochs=1))
          >>> stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *epochs[0])
          >>> final, rows = training_loop.run_steps(loop, stacked)
          >>> rows["loss"].shape
          (8,)
        """
        return StepByStep(self.setup).run_steps(loop, batches)
