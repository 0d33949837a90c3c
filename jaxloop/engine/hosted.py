"""A host callback as the engine sees it: what it declares, where it cuts a step, what it gives back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxloop.callback import Reads, name_of
from jaxloop.events import Event, Phase, Scope
from jaxloop.loop import Loop
from jaxloop.placement import Placement
from jaxloop.views import LoopView

LAP = "callback "  # what the ledger calls the time of one


class Hosted(NamedTuple):
    """A host callback, and what is asked of it often.

    Attributes:
      callback: bound.
      name: for messages.
      lap: what its time is put down to.
      reads: what it reads at each of its events.
      cuts: by phase, the step events at which it is called in the middle of the step.
    """

    callback: Any
    name: str
    lap: str
    reads: dict[Event, Reads]
    cuts: dict[Phase, frozenset[Event]]

    def observes(self, phase: Phase) -> bool:
        """Whether it is given rows."""
        return Event.BATCH_END in self.reads and Event.BATCH_END not in self.cuts[phase]

    def logs_at(self, event: Event) -> bool:
        """Whether it logs, and so comes last: it says so, or else it takes columns and changes nothing at `event`."""
        takes = hasattr(self.callback, "rows") and self.reads.get(event) != "loop"
        return getattr(self.callback, "logs_last", takes)


def hosted_as(callback: Any, lap: str) -> Hosted:
    """A callback with what it declares.

    Args:
      callback: bound.
      lap: what the ledger calls its time, after "callback ".
    """
    declaration = callback.host_declaration
    reads = {event: declaration.reads_at(event) for event in declaration.events}
    cuts = {phase: cuts_of(callback, phase) for phase in Phase}
    return Hosted(callback, name_of(callback), LAP + lap, reads, cuts)


def cuts_of(callback: Any, phase: Phase) -> frozenset[Event]:
    """The step events of a phase at which a host callback is called in the middle of the step."""
    declaration = callback.host_declaration
    events = declaration.events & {Event.BATCH_START, phase.step_event, Event.BATCH_END}
    deeper = events.intersection(dict(declaration.deeper))
    observes = declaration.reads == "stats" and events - deeper == {Event.BATCH_END}
    return deeper if observes else events


def runs_here(callback: Any, placement: Placement) -> bool:
    """Whether a host callback runs on this process.

    Those that read the loop run on each, since what they return counts. The others run on the first, unless they are
    declared for every process.
    """
    declaration = callback.host_declaration
    reads = {declaration.reads_at(event) for event in declaration.events}
    return placement.writes or declaration.every_process or "loop" in reads


def has_memory(callback: Any) -> bool:
    """Whether it has a state that outlives the process: both methods, not any attribute of such a name."""
    return callable(getattr(callback, "state", None)) and callable(getattr(callback, "resume", None))


def scope_of(hosted: Hosted, asked: Any) -> int:
    """What `rows` of a callback has cancelled."""
    if not isinstance(asked, Scope):
        raise TypeError(
            f"callback {hosted.name!r}: `rows` must return None, or the jaxloop.Scope that it cancels, got "
            f"{type(asked).__name__}."
        )
    return int(asked)


def called_with_view(hosted: Hosted, values: Mapping[str, Any], event: Event) -> Scope:
    """Calls with a view of `values`; what the callback cancelled."""
    cancelled: list[Scope] = []
    reads = hosted.reads[event]
    view = LoopView(values, reads=reads, name=hosted.name, cancel=cancelled.append)
    result = hosted.callback(view, event)
    if result is not None and not isinstance(result, LoopView):
        raise TypeError(
            f"callback {hosted.name!r} at {event.name}: with reads={reads!r} it can change nothing, and "
            f"must return None or the loop it was given, got {type(result).__name__}. Declare reads='loop'."
        )
    total = Scope(0)
    for scope in cancelled:
        total |= scope
    return total


def check_recorded(hosted: Hosted, before: Loop, after: Loop, event: Event) -> None:
    """Refuses what a callback records too late for logs to have a column of it.

    A compiled callback is traced ahead, which finds all names. What Python will record cannot be known so.
    """
    late = sorted(after.stats.keys() - before.stats.keys())
    if late and event not in (Event.FIT_START, Event.FIT_END):
        raise ValueError(
            f"callback {hosted.name!r} at {event.name}: it records {late[0]!r}, which was not there at FIT_START, so "
            f"logs have no column of it. Declare FIT_START too, and record {late[0]!r} there as "
            "jaxloop.measured.UNMEASURED; or record it in a compiled callback."
        )
