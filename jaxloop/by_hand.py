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

        Args and errors are those of `fit`. Host callbacks are not called.

        Example:
          >>> loop = training_loop.start(model, epochs=12)
          >>> loop = training_loop.train_step(training_loop.begin_epoch(loop), batch)
          >>> loop = training_loop.end_epoch(loop)
        """
        check_fit(epochs, optimizer)
        run = self.setup.run(self.setup.fit(model_or_loop, epochs, on=on, seed=seed, optimizer=optimizer))
        return on_device(run.event(run.session.loop, Event.FIT_START), run.session.placement)

    def begin_epoch(self, loop: Loop) -> Loop:
        """The loop in the training phase of its next epoch, after EPOCH_START and TRAINING_START."""
        return StepByStep(self.setup).begin_epoch(loop)

    def train_step(self, loop: Loop, batch: Any) -> Loop:
        """The loop after one training step over `batch`. It is pure and jitted, and donates nothing.

        The loop may be in any phase. In validation, or in no phase, it first enters training, with the events of that.
        """
        return StepByStep(self.setup).step(loop, batch, TRAINING)

    def eval_step(self, loop: Loop, batch: Any, validation_set: str | None = None) -> Loop:
        """The loop after one evaluation step, as `train_step`; a loop that is not in that validation first enters it.

        Args:
          loop: in any phase.
          batch: one batch.
          validation_set: the name of the set that the batch is from, if validation has several; else None.

        Raises:
          ValueError: validation has no set of this name, or several and none is named.
        """
        return StepByStep(self.setup).step(loop, batch, self.setup.split_of(validation_set))

    def end_epoch(self, loop: Loop) -> Loop:
        """The loop after the END of the phase that it is in, and after EPOCH_END."""
        return StepByStep(self.setup).end_epoch(loop)

    def run_steps(self, loop: Loop, batches: Any) -> tuple[Loop, dict[str, jax.Array]]:
        """Steps of the phase that `loop` is in, as one pure program: to `vmap`, differentiate or export.

        Args:
          loop: from `begin_epoch`, or in validation. In no phase, it enters training.
          batches: stacked batches: each leaf has a leading axis of K steps. For K = 1 the program is the step
            itself, for more it is a scan.

        Returns:
          The loop, and the rows: by name each of `loop.stats`, float32[K] or as it was recorded; `step`,
          `epoch_index` and `batch_index` as int32[K]; and `counted`, bool[K], False for a step that was cancelled.
        """
        return StepByStep(self.setup).run_steps(loop, batches)
