"""Pickle: what is said of a part of a run that it cannot take."""

import pickle
import traceback
from typing import Any

IN_PLACE_OF_A_MODEL = (
    "Use jaxloop.save_weights and load_weights for its arrays, callbacks.Checkpoint and jaxloop.restore for a whole "
    "run, copy.deepcopy for a copy in this process."
)
IN_PLACE_OF_A_TRAINING_LOOP = (
    "In another process make it by the same code. For a run use callbacks.Checkpoint and jaxloop.restore, for a model "
    "jaxloop.save_weights, for a copy in this process copy.deepcopy."
)
#: Modules of libraries that pickle functions by value.
_TAKE_FUNCTIONS = ("cloudpickle", "_dill")


def check_can_be_pickled(part: Any, what: str, fix: str) -> None:
    """Refuses to pickle what holds a function that Python cannot find again by its name, as most closures are.

    Libraries that can pickle such functions are let pass.

    Args:
      part: what may hold such a function.
      what: what is pickled, for the message.
      fix: what to use in its place.

    Raises:
      TypeError: it cannot be pickled.
    """
    callers = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(None))
    if any(name.rpartition(".")[2] in _TAKE_FUNCTIONS for name in callers):
        return
    try:
        pickle.dumps(part)
    except Exception as error:
        raise TypeError(f"{what} cannot be pickled, since it holds functions: {error}. {fix}") from error
