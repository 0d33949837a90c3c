"""The exceptions that are jaxloop's own."""


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
