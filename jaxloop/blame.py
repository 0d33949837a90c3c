"""Whose part of a step went wrong: the model's or the loss's, over what; and what each must give."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.kinds import kind_name
from jaxloop.loop import Loop
from jaxloop.noting import note

_HERE = "jaxloop: in "
_MOST = 4  # arrays that a note lists
_WITHOUT_VALUES = (
    jax.errors.ConcretizationTypeError,  # of an `if` too
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_COMPILED = (
    "jaxloop: it is compiled, and arrays have no values while it is traced: write jax.numpy in place of NumPy, and "
    "jnp.where in place of `if`"
)


@contextmanager
def located(part: str, loop: Loop, given: Any) -> Iterator[None]:
    """Notes on an exception in whose code it was raised, and what that was given. The exception stays the same.

    Args:
      part: such as `"the model"`.
      loop: in a phase.
      given: PyTree of arrays, traced or not.
    """
    phase = loop.split.name if loop.split else "inference"
    with placed(f"{part}, {phase} batch", given):
        yield


@contextmanager
def placed(part: str, given: Any) -> Iterator[None]:
    """As `located`, where there is no loop."""
    try:
        yield
    except Exception as error:
        notes = [f"{_HERE}{part}, {kinds_of(given)}", *[_COMPILED] * isinstance(error, _WITHOUT_VALUES)]
        for text in notes:
            note(error, text)
        raise


@contextmanager
def of_first_batch() -> Iterator[None]:
    """Says in what `located` notes that the batch is the first, where that is known."""
    try:
        yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        for place, note in enumerate(notes):
            if note.startswith(_HERE):
                notes[place] = note.replace(" batch,", " batch 1,", 1)
        raise


def kinds_of(tree: Any) -> str:
    """The arrays of a PyTree as messages name them: `float32[32, 7]`, with the path of each if there are several."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [f"{_path(path)}{_kind(leaf)}" for path, leaf in leaves]
    return ", ".join(named[:_MOST]) + (f" and {len(named) - _MOST} more" if len(named) > _MOST else "") or repr(tree)


def checked_loss(where: str, loss: Any) -> Any:
    """A loss, if it is one array or a number.

    Raises:
      TypeError: it is something else, or complex.
    """
    if isinstance(loss, (int, float)):
        return jnp.asarray(loss)
    if not hasattr(loss, "dtype") or not hasattr(loss, "ndim"):
        what = "None" if loss is None else f"a {type(loss).__name__} of {kinds_of(loss)}"
        raise TypeError(f"{where}: the loss must be one array, got {what}. Return the loss alone.")
    if jnp.iscomplexobj(loss):
        raise TypeError(f"{where}: the loss must be real, got {kinds_of(loss)}. Return its size, as by jnp.abs(loss).")
    return loss


def check_loss_of(loop: Loop) -> None:
    """Refuses a loss whose first axis is no axis of the batch. Steps without data have none to compare.

    Raises:
      ValueError: it is neither a scalar nor one per example.
    """
    batch = (loop.weight,) if loop.weight is not None else (loop.target, loop.input)
    counts = dict.fromkeys(jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf))
    if len(counts) > 1:  # several graphs in one batch: the outputs count them too
        counts |= dict.fromkeys(leaf.shape[0] for leaf in jax.tree.leaves(loop.output) if leaf.ndim)
    if counts and jnp.ndim(loop.loss) and loop.loss.shape[0] not in counts:
        examples = " or ".join(map(str, counts))
        raise ValueError(
            f"loss_fn: its shape must be () or begin with the batch's {examples} examples, got "
            f"{list(loop.loss.shape)}. Give one loss per example or token; jaxloop takes the mean."
        )


def _path(path: Any) -> str:
    return f"{'.'.join(jax.tree_util.keystr((key,), simple=True) for key in path)} " if path else ""


def _kind(leaf: Any) -> str:
    return kind_name(leaf) if hasattr(leaf, "dtype") else type(leaf).__name__
