"""Whose part of a step went wrong: the model's or the loss's, over what; and what each must give."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.kinds import kind_name
from jaxloop.loop import Loop

_HERE = "jaxloop: in "
_MOST = 4  # arrays that a note lists


@contextmanager
def located(part: str, loop: Loop, given: Any) -> Iterator[None]:
    """Notes on an exception in whose code it was raised, and what that was given. The exception stays the same.

    Args:
      part: such as `"the model"`.
      loop: in a phase.
      given: PyTree of arrays, traced or not.
    """
    try:
        yield
    except Exception as error:
        phase = loop.split.name if loop.split else "inference"
        note = f"{_HERE}{part}, {phase} batch, {kinds_of(given)}"
        if note not in getattr(error, "__notes__", ()):  # JAX raises the same exception again where it traces again
            error.add_note(note)
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
      TypeError: it is something else.
    """
    if isinstance(loss, (int, float)):
        return jnp.asarray(loss)
    if not hasattr(loss, "dtype") or not hasattr(loss, "ndim"):
        what = "None" if loss is None else f"a {type(loss).__name__} of {kinds_of(loss)}"
        raise TypeError(f"{where}: the loss must be one array, got {what}. Return the loss alone.")
    return loss


def _path(path: Any) -> str:
    return f"{'.'.join(jax.tree_util.keystr((key,), simple=True) for key in path)} " if path else ""


def _kind(leaf: Any) -> str:
    return kind_name(leaf) if hasattr(leaf, "dtype") else type(leaf).__name__
