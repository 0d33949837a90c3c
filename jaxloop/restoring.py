"""`restore`: the loop that a checkpoint holds."""

from pathlib import Path
from typing import Any, Literal

from jaxloop.checkpoint.store import Store
from jaxloop.engine.resuming import chosen, not_used, restored, said
from jaxloop.errors import CorruptCheckpointError
from jaxloop.loop import Loop
from jaxloop.ownership import on_device
from jaxloop.placement import On
from jaxloop.plainly import plainly
from jaxloop.telling import warn
from jaxloop.training_loop import TrainingLoop


@plainly
def restore(
    directory: str | Path,
    training_loop: TrainingLoop,
    model: Any,
    step: int | Literal["best"] | None = None,
    *,
    on: On = None,
) -> Loop:
    """The loop that a checkpoint holds: to look at, to evaluate, or to begin a new fit with.

    It goes on with no run: `fit(model, epochs, resume_from=directory)` does that. It needs the same model, optimizer,
    metrics and callbacks, since a checkpoint holds arrays, and the code says what they mean. Data, seed and plan may be
    others.

    Args:
      directory: the folder of a `callbacks.Checkpoint`.
      training_loop: as the one that was saved.
      model: as `fit` was given it; its numbers do not matter.
      step: the newest checkpoint after so many training steps over the loop's life; `"best"`: the one that was best by
        the `best` of its `Checkpoint`; None: the newest. If that is damaged, a warning says so, and the one before it
        is taken.
      on: as in `fit`.

    Raises:
      CheckpointError: there is no such checkpoint.
      CorruptCheckpointError: it is damaged, or all are.
      StateMismatchError: a leaf has another shape, dtype or kind, or is missing. The message lists all.

    Example:
      >>> callbacks = [jl.callbacks.Checkpoint("run/checkpoints")]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
      >>> loop, history = training_loop.fit(model, epochs=2)
      >>> loop = jl.restore("run/checkpoints", training_loop, model)
      >>> training_loop.evaluate(loop, (images, labels))
    """
    found = chosen(Store(directory), step)
    failure: CorruptCheckpointError | None = None
    for checkpoint in found:
        try:
            epochs = checkpoint.manifest()["about"]["run"]["epochs"]
            session = training_loop.setup.fit(model, epochs, on=on)
            return on_device(restored(session, checkpoint), session.placement)
        except CorruptCheckpointError as error:
            if len(found) == 1:
                raise
            failure = failure or error
            warn(f"restore: {not_used(checkpoint, error)}")
    assert failure is not None
    raise CorruptCheckpointError(f"restore: none of {len(found)} checkpoints is whole. The newest: {said(failure)}")
