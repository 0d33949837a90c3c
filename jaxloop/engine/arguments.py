"""What the arguments of a training loop and of a fit must be."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax

from jaxloop.brief import brief
from jaxloop.data import Batches
from jaxloop.events import TRAINING, VALIDATION, Event, splits_of
from jaxloop.feeding.checks import check_batches
from jaxloop.metrics import Metric
from jaxloop.optimizer import check_update
from jaxloop.signatures import check_differentiable_step, check_loss
from jaxloop.whole_number import MOST


def check_parts(training: Any, validation: Any, optimizer: Any, loss_fn: Any, differentiable_step: Any) -> None:
    """Refuses data, an optimizer or a loss of which no training can be made.

    Raises:
      TypeError, ValueError: one of them is wrong.
    """
    check_data(training)
    check_batches(training, "training")
    for name, batches in validation.items() if isinstance(validation, Mapping) else (("", validation),):
        check_batches(batches, f"validation[{name!r}]" if name else "validation")
    check_step(optimizer, loss_fn, differentiable_step)


def names_of_sets(validation: Any, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """The names of what is validated on; `("validation",)` if it has no names.

    Args:
      validation: batches, or batches by name, or None.
      metrics: what is measured over each.

    Raises:
      ValueError: there is no set, or a name cannot be that of a column; or two statistics would have the same name.
    """
    if not isinstance(validation, Mapping):
        return (VALIDATION.name,)
    names = tuple(validation)
    if not names:
        raise ValueError("validation: there is no set in it. Name one, as {'in_domain': batches}, or give None.")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in (TRAINING.name, Event.FIT_END.value):
            raise ValueError(
                f"validation: the name of a set begins its columns, as in `in_domain_loss`, so it must be a word of "
                f"letters, digits and _, and not {TRAINING.name!r}; got {name!r}."
            )
    statistics = [split.stat(metric.name) for split in splits_of(names) for metric in metrics]
    twice = sorted(name for name, count in collections.Counter(statistics).items() if count > 1)
    if twice:
        raise ValueError(f"validation: two statistics would be called {twice[0]!r}. Give the sets other names.")
    return names


def check_data(training: Any) -> None:
    """Refuses what holds no epochs, such as the batches of one epoch.

    Raises:
      TypeError: `training` is one epoch, or neither arrays nor epochs.
    """
    iterable = hasattr(training, "__iter__") or hasattr(training, "__getitem__")
    by_name = isinstance(training, Mapping) and 0 not in training  # epochs may be a mapping by their index
    if not iterable or by_name or isinstance(training, (str, bytes)):
        raise TypeError(
            f"training: expected arrays, as (inputs, targets), or epochs of batches, got {brief(training)}. "
            f"{'Call it.' if callable(training) else 'Write training=(inputs, targets).'}"
        )
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
            f"TrainingLoop: `optimizer` must be an optax transformation, got {brief(optimizer)}. "
            f"Write {_optimizer_meant(optimizer)}."
        )
    check_update(optimizer)
    if loss_fn is None and differentiable_step is None:
        raise ValueError("TrainingLoop: give `loss_fn`, or `differentiable_step` in its place.")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(
            "TrainingLoop: `loss_fn` must be a function of (output, target), or a mapping of one for each output, got "
            f"{brief(loss_fn)}. Write loss_fn={_loss_meant(loss_fn)}, without calling it."
        )
    if loss_fn is not None:
        check_loss(loss_fn)
    if differentiable_step is not None:
        check_differentiable_step(differentiable_step)


def _optimizer_meant(given: Any) -> str:
    """What someone meant who gave this for an optimizer."""
    if isinstance(given, (int, float)):
        return f"optax.adam({given})"
    if hasattr(given, "tx"):  # an optimizer of flax, or its TrainState, which hold parameters too
        return "optimizer.tx, the transformation in it"
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    name = name.lower() if hasattr(optax, name.lower()) and name else "sgd"
    return f"optax.{name}({0.001 if 'adam' in name else 0.1})"


def _loss_meant(given: Any) -> str:
    """What someone meant who gave this for a loss: names as other libraries have them, or a list of functions."""
    if isinstance(given, (list, tuple)):
        return f"{{{', '.join(f'{place}: ...' for place in range(len(given)))}}}, a loss by the place of each output"
    name = given.lower().replace("-", "_") if isinstance(given, str) else ""
    found = next((ours for ours, words in _LOSSES.items() if any(word in name for word in words)), None)
    return f"jaxloop.losses.{found or 'softmax_cross_entropy'}"


_LOSSES = {
    "sigmoid_cross_entropy": ("bce", "binary", "sigmoid"),
    "mean_squared_error": ("mse", "mean_squared", "l2", "squared"),
    "mean_absolute_error": ("mae", "mean_absolute", "l1", "absolute"),
}


def check_options(
    report: Any, on_recompile: Any, check: Any, steps_per_dispatch: Any, accumulate: Any, batch_keys: Any
) -> None:
    """Refuses choices and numbers that no training loop can have.

    Raises:
      ValueError, TypeError: one of them is wrong.
    """
    check_choice("report", report, ("batch", "epoch"))
    check_choice("on_recompile", on_recompile, ("raise", "warn"))
    check_choice("check", check, ("first", "memory", "all"))
    if steps_per_dispatch != "auto":
        check_positive("steps_per_dispatch", steps_per_dispatch)
    check_positive("accumulate", accumulate)
    _check_batch_keys(batch_keys)


def _check_batch_keys(batch_keys: Any) -> None:
    """Refuses what does not name the two or three parts of a batch.

    Raises:
      TypeError: it is one string, whose letters would be taken for keys, or no sequence.
      ValueError: it names fewer parts, or more.
    """
    if batch_keys is None:
        return
    if isinstance(batch_keys, str) or not isinstance(batch_keys, Sequence):
        raise TypeError(
            f"TrainingLoop: `batch_keys` must be the keys of input and target, got {brief(batch_keys)}. "
            "Write batch_keys=('image', 'label')."
        )
    if len(batch_keys) not in (2, 3):
        raise ValueError(
            f"TrainingLoop: `batch_keys` must name input and target, or input, target and weight, got {batch_keys!r}. "
            "Several inputs are one part: make batches of them by `.map`, as ({'left': ..., 'right': ...}, target)."
        )


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
        raise ValueError(f"{name}: it must be a whole number of at least 1, got {brief(value)}.")


def check_length(name: str, value: Any) -> None:
    """Refuses a number of epochs or steps that is none, or that a loop cannot count to, in its int32.

    Raises:
      ValueError: as said.
    """
    check_positive(name, value)
    if value > MOST:
        raise ValueError(
            f"{name}: a loop counts to {MOST:,} at most, got {value:,}. Give fewer, such as 1_000_000; a callback, as "
            "stop_after, can end the fit before."
        )


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
    check_length("epochs" if steps is None else "steps", epochs if steps is None else steps)
    if limit_batches is not None:
        check_positive("limit_batches", limit_batches)
    check_choice("optimizer", optimizer, ("loop", "mine"))


def checked_start(validates_first: bool, validation: Any) -> bool:
    """Whether a fit validates before its first epoch.

    Raises:
      ValueError: it should, but there is no validation.
    """
    if validates_first and not validation:
        raise ValueError("validate_at_start: there is nothing to validate on. Give the training loop `validation`.")
    return bool(validates_first)


def check_seed(seed: Any) -> None:
    """Refuses a value that is not a whole number.

    Raises:
      TypeError: it is not one.
    """
    if not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: it must be a whole number, got {brief(seed)}. Write seed=0.")
