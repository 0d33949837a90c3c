"""What is left of a run that fails: the loop after the last dispatch that went well, and what went wrong first."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from jaxloop.loop import Loop
from jaxloop.noting import note
from jaxloop.ownership import on_device, own_copy
from jaxloop.placement import Placement
from jaxloop.wire import Wire, WireLayout

_IN_FLIGHT = 3  # a dispatch that fails shows it when the next has been sent; the one before it is good


class Latest:
    """Holds the loop between steps, or the wires after the last dispatches of a phase.

    A step writes over the wire it is given. So mostly only the last wire exists, and a step that fails while it runs
    destroys it. Steps that can raise an error of their own do not write over it; then some wires before are held too.
    """

    def __init__(self) -> None:
        self._layout: WireLayout | None = None
        self._held: deque[tuple[Any, Any]] = deque()
        self._place = ""

    def between(self, loop: Loop) -> None:
        """Holds a loop between phases, or between two steps that are taken one by one."""
        self._layout, self._held = None, deque([(loop, None)])
        self._place = f"epoch {int(loop.epoch_index) + 1}" if loop.phase is None else self._place

    def phase(self, layout: WireLayout, wire: Wire, *, donated: bool) -> Callable[[tuple[Wire, Any]], None]:
        """Holds the wire at a phase's start; gives what is called with each dispatch's (wire, rows)."""
        self._layout, self._held = layout, deque([(wire, None)], 1 if donated else _IN_FLIGHT)
        return self._held.append

    def loop(self, placement: Placement) -> tuple[Loop | None, bool]:
        """A copy of the newest loop that can be had, and whether it is the newest of all. Waits for the device."""
        for age, (held, _) in enumerate(reversed(self._held)):
            try:
                loop = held if self._layout is None else self._layout.from_wire(held)
                return jax.block_until_ready(on_device(own_copy(loop, placement), placement)), age == 0
            except (RuntimeError, ValueError):  # it failed, or came of one that did
                continue
        return None, False

    def cause(self, error: BaseException) -> BaseException | None:
        """The error of the dispatch that failed first, if `error` is only its consequence; else None."""
        if not isinstance(error, jax.errors.JaxRuntimeError):
            return None
        for _, rows in self._held:
            try:
                jax.block_until_ready(rows)
            except (RuntimeError, ValueError) as cause:
                return None if str(cause) == str(error) else cause
        return None

    @contextmanager
    def told(self, tell: Callable[[BaseException], None]) -> Iterator[None]:
        """Lets `tell` note where an exception came from. Its cause is raised in its place, if it has one."""
        try:
            yield
        except BaseException as error:
            cause = self.cause(error)
            tell(cause or error)
            if cause is not None:
                raise cause from None
            raise

    def leave_with(self, error: BaseException, placement: Placement) -> None:
        """Puts the newest loop on the exception that ended the fit, and notes where that was."""
        if not self._held:  # no event has come yet, so nothing of the run is lost
            return
        loop, newest = self.loop(placement)
        if loop is None:
            note(
                error,
                f"jaxloop: in {self._place or 'the fit'} (counted from 1); there is no error.loop: a step that failed "
                "as it ran was given the loop's arrays to write over. To have the loop before it, keep it by a host "
                "callback that reads it, as @jaxloop.on_host(Event.BATCH_END, reads='loop')",
            )
            return
        phase = f", after {int(loop.batch_index)} {loop.split.name} batches" if loop.split else ""
        failed = "" if newest else "a step failed as it ran, and before its dispatch "
        place = f"epoch {int(loop.epoch_index) + 1} (counted from 1){phase}"
        note(error, f"jaxloop: {failed}error.loop is the loop in {place}")
        error.loop = loop  # type: ignore[attr-defined]
