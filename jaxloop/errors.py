"""The exceptions that are jaxloop's own."""

__all__ = [
    "CheckpointError",
    "CorruptCheckpointError",
    "NonFiniteError",
    "StateMismatchError",
    "WeightsError",
]


def __dir__() -> list[str]:
    return sorted(__all__)


class NonFiniteError(FloatingPointError):
    """A fit has met a NaN or an infinity, and has stopped; raised for `callbacks.stop_on_non_finite`.

    The message names the step and the first array that is not finite. `error.loop` is the loop after FIT_END: inspect
    it, or continue from it.

    Example:
      >>> try:
      ...     loop, history = training_loop.fit(model, epochs=12)
      ... except jl.errors.NonFiniteError as error:
      ...     calmer = error.loop.with_hyperparameter("learning_rate", 1e-3)
      ...     loop, history = training_loop.fit(calmer, epochs=12)
    """


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or a run cannot go on from one.

    The message names the folder, the rule, what came, and the fix. What was saved before stays as it is.

    Example:
      >>> try:
      ...     jl.restore("run/nothing", training_loop, model)
      ... except jl.errors.CheckpointError as error:
      ...     print(error)
      restore: there is no checkpoint in 'run/nothing'. Check the path.
    """


class CorruptCheckpointError(CheckpointError):
    """A checkpoint is damaged: a file is missing, cut off or changed, or an array is not what was saved.

    The message names the file or the array. Nothing of it was loaded.

    Example:
      >>> issubclass(jl.errors.CorruptCheckpointError, jl.errors.CheckpointError)
      True
    """


class StateMismatchError(CheckpointError):
    """A checkpoint belongs to another run: its model, optimizer, callbacks, data, plan or seed differ.

    The message lists every difference: what the checkpoint holds, and what this run has. Nothing was loaded.

    Example:
      >>> issubclass(jl.errors.StateMismatchError, jl.errors.CheckpointError)
      True
    """


class WeightsError(ValueError):
    """A file of weights cannot be written or read, or does not fit the model.

    The message names the file. If the file does not fit, it lists all that is missing, left over, misshapen or of
    another dtype. The model, and a file that was there before, stay as they are.

    Example:
      >>> try:
      ...     model = jl.load_weights("model.safetensors", model)
      ... except jl.errors.WeightsError as error:
      ...     print(error)
    """
