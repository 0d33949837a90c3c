"""Boundaries: the moments between the dispatches of a phase, at which a run can be looked at, saved and left."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax.sharding import Sharding

from jaxloop.engine.delivery import Delivery
from jaxloop.loop import Loop
from jaxloop.ownership import with_host_scalars
from jaxloop.wire import Wire, WireLayout


class Boundary(Protocol):
    """A moment between two dispatches. What is done here, such as looking for interrupts, is done for every driver.

    Attributes:
      position: how many batches of the phase were taken. A phase that is begun at this batch goes on from here.
      fused: how many steps a dispatch takes.
    """

    position: int
    fused: int

    def loop(self) -> Loop:
        """The loop, with scalars of NumPy. Waits for the device.

        Its arrays are the engine's own, and are written over by the next dispatch. Copy them to keep the loop.
        """
        ...

    def rows_in_flight(self) -> Sequence[np.ndarray]:
        """The rows of steps taken of which observers were not told, int32[row] each. Waits for the device."""
        ...


#: What a driver of steps gives: the boundary before its first dispatch, and after each.
Boundaries = Generator[Boundary, None, None]


@dataclass
class WireBoundary:
    """After a dispatch over the wire. One object moves on through the phase: to make one for each would cost time."""

    layout: WireLayout
    wire: Wire
    position: int
    delivery: Delivery
    fused: int
    sharding: Sharding

    def loop(self) -> Loop:
        return self.layout.from_wire(self.wire, self.sharding)

    def rows_in_flight(self) -> Sequence[np.ndarray]:
        return self.delivery.in_flight()


@dataclass
class StepBoundary:
    """After a step that was taken in stages. Its row was told."""

    held: Any
    position: int
    fused: int = 1

    def loop(self) -> Loop:
        return with_host_scalars(self.held)

    def rows_in_flight(self) -> Sequence[np.ndarray]:
        return ()
