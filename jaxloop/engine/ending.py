"""What ended a fit, and what it gave back of an earlier epoch, as one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxloop.callback import name_of
from jaxloop.events import TRAINING, Scope, Split
from jaxloop.history import History
from jaxloop.loop import Loop


@dataclass(frozen=True)
class PhaseEnd:
    """Where a phase was as it ended.

    Attributes:
      split: the phase, and the set that it ran over.
      epoch_index: of the fit, from 0.
      done, total: the batches that it took, and all of its batches.
      ends_fit: whether the fit was cancelled by then.
    """

    split: Split
    epoch_index: int
    done: int
    total: int
    ends_fit: bool

    @classmethod
    def of(cls, loop: Loop, split: Split) -> "PhaseEnd":
        """Where the phase of a loop is; the loop has scalars of NumPy."""
        position = int(loop.epoch_index), int(loop.batch_index), int(loop.batch_count)
        return cls(split, *position, ends_fit=bool(loop.stop & Scope.FIT))


def ending(
    loop: Loop,
    history: History,
    *,
    callbacks: Sequence[Any],
    asked: Mapping[str, int],
    unseen: Sequence[Any] = (),
    phases: Sequence[PhaseEnd],
) -> str:
    """What ended a fit, as one sentence; "" if it took all its epochs and the model is that of the last.

    A callback may have `why_stopped(loop, history)`, which gives why it has cancelled the fit, or None if it has not;
    and `given_back(loop, history)`, which gives what of an earlier epoch it has put into the loop, or None.

    Args:
      loop: at the end.
      history: of the fit.
      callbacks: all of the fit.
      asked: what each host callback has cancelled, by its name.
      unseen: those of the callbacks that may have cancelled the fit if none of the others has.
      phases: where each phase last ended.
    """
    if history.stopped == "preempted":  # it has not ended
        return ""
    given_back = [text for callback in callbacks if (text := _said(callback, "given_back", loop, history))]
    if history.stopped == "cancelled":
        who = _who(loop, history, callbacks, asked) or [name_of(each) for each in unseen if len(unseen) == 1]
        said = f"Stopped {_where(loop, asked, phases)}" + (f": {', '.join(who)}" if who else "")
    elif given_back:
        said = f"Took all {int(loop.epoch_count)} epochs"
    else:
        return ""
    return "; ".join([said, *given_back])


def _who(loop: Loop, history: History, callbacks: Sequence[Any], asked: Mapping[str, int]) -> list[str]:
    """The callbacks that have cancelled the fit, each with its reason; none if that cannot be known."""
    found = []
    for callback in callbacks:
        why, name = _said(callback, "why_stopped", loop, history), name_of(callback)
        if asked.get(name, 0) & Scope.FIT or why:
            found.append(f"{name} ({why})" if why else name)
    return list(dict.fromkeys(found))


def _where(loop: Loop, asked: Mapping[str, int], phases: Sequence[PhaseEnd]) -> str:
    epoch, count = int(loop.epoch_index), int(loop.epoch_count)
    if epoch < 1:
        return "before the first epoch"
    for end in (end for end in phases if end.epoch_index == epoch - 1):
        # A callback may end the phase first, and the fit only after the epoch.
        ends_both = any(scopes & Scope.FIT and scopes & end.split.phase.scope for scopes in asked.values())
        if end.done < end.total and (end.ends_fit or ends_both):
            return f"in epoch {epoch} of {count}, {end.split.name} batch {end.done} of {end.total}"
        if end.ends_fit and end.split == TRAINING:
            return f"after the training of epoch {epoch} of {count}"
    return f"after epoch {epoch} of {count}"


def _said(callback: Any, method: str, loop: Loop, history: History) -> str | None:
    tell: Any = getattr(callback, method, None)
    return None if tell is None else tell(loop, history)
