"""What callbacks adjust: hyperparameters, which no other may set at each step, and targets, which others then are."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxloop.callback import name_of
from jaxloop.events import Event
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


def relabels(loop: Loop, event: Event, after: Loop) -> bool:
    """Whether a callback that made `after` of `loop` has replaced target or weight before the loss sees them."""
    if event not in (Event.BATCH_START, Event.INFERENCE_PREDICTION_END):
        return False
    return after.target is not loop.target or after.weight is not loop.weight
