"""What the arguments of a training loop and of a fit must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxloop.data import Batches
from jaxloop.feeding.checks import check_batches
from jaxloop.optimizer import check_update


def check_parts(training: Any, validation: Any, optimizer: Any, loss_fn: Any, differentiable_step: Any) -> None:
    """Refuses data, an optimizer or a loss of which no training can be made.

    Raises:
      TypeError, ValueError: one of them is wrong.
    """
    check_data(training)
    check_batches(training, "training")
    check_batches(validation, "validation")
    check_step(optimizer, loss_fn, differentiable_step)


def check_data(training: Any) -> None:
    """Refuses the batches of one epoch in place of epochs.

    Raises:
      TypeError: `training` is one epoch.
    """
    if isinstance(training, Batches):
        raise TypeError(
            "TrainingLoop: `training` must be epochs of batches, got the batches of one epoch. "
            "Give TrainingEpochs(samples, batch_size), or [batches] * epochs for the same order each time."
        )


def check_step(optimizer: Any, loss_fn: Any, differentiable_step: Any) -> None:
    """Refuses an optimizer or a loss of which no step can be made.

    Raises:
      TypeError: the optimizer is no optimizer or requires what no step knows, or the loss is no function.
      ValueError: there is no loss.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"TrainingLoop: `optimizer` must be an optax transformation, got {optimizer!r}. Write optax.sgd(0.1)."
        )
    check_update(optimizer)
    if loss_fn is None and differentiable_step is None:
        raise ValueError("TrainingLoop: give `loss_fn`, or `differentiable_step` in its place.")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"TrainingLoop: `loss_fn` must be a function of (output, target), got {loss_fn!r}.")


def check_options(report: Any, on_recompile: Any, check: Any, steps_per_dispatch: Any, accumulate: Any) -> None:
    """Refuses choices and numbers that no training loop can have.

    Raises:
      ValueError: one of them is wrong.
    """
    check_choice("report", report, ("batch", "epoch"))
    check_choice("on_recompile", on_recompile, ("raise", "warn"))
    check_choice("check", check, ("first", "memory", "all"))
    if steps_per_dispatch != "auto":
        check_positive("steps_per_dispatch", steps_per_dispatch)
    check_positive("accumulate", accumulate)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is not among `choices`.

    Raises:
      ValueError: it is not among them.
    """
    if value not in choices:
        raise ValueError(f"TrainingLoop: `{name}` must be {' or '.join(map(repr, choices))}, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Refuses a value that is not a whole number of at least 1.

    Raises:
      ValueError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: it must be a whole number of at least 1, got {value!r}.")


def check_fit(epochs: Any, optimizer: Any, limit_batches: Any = None, steps: Any = None) -> None:
    """Refuses numbers and choices that no fit can have.

    Raises:
      ValueError: one of them is wrong.
      TypeError: there are neither epochs nor steps, or both.
    """
    if (epochs is None) == (steps is None):
        raise TypeError(
            "fit: give how long it trains, as epochs=12, or as a number of training steps, as steps=1000; "
            f"got {'neither' if epochs is None else 'both'}."
        )
    check_positive("epochs" if steps is None else "steps", epochs if steps is None else steps)
    if limit_batches is not None:
        check_positive("limit_batches", limit_batches)
    check_choice("optimizer", optimizer, ("loop", "mine"))


def check_seed(seed: Any) -> None:
    """Refuses a value that is not a whole number.

    Raises:
      TypeError: it is not one.
    """
    if not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: it must be a whole number, got {seed!r}.")
