"""Callbacks that adjust between epochs what another one sets at each step, so that nothing of it would be left."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxloop.callback import name_of
from jaxloop.loop import Loop


def check_adjusted(callbacks: Sequence[Any], place: int, loop: Loop, owners: Mapping[tuple[str, str], int]) -> None:
    """Refuses the callback at `place` if another one sets what it adjusts.

    Args:
      callbacks: those of the fit. One that adjusts hyperparameters has `adjusts(loop)`, which gives their columns.
      place: of the callback that was called.
      loop: after it.
      owners: the place of the callback that writes a name, by the loop's field and the name. Who sets a hyperparameter
        records it.

    Raises:
      ValueError: another one sets it.
    """
    adjusts = getattr(callbacks[place], "adjusts", None)
    for name in adjusts(loop) if adjusts else ():
        owner = owners.get(("stats", name))
        if owner is not None:
            raise ValueError(
                f"callbacks: {name_of(callbacks[place])!r} adjusts {name!r}, but {name_of(callbacks[owner])!r} sets it "
                "at each step, and would overwrite that. Leave one out."
            )
