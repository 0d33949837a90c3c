"""A place in a run: where it was saved, and all that a run has there besides its loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxloop.events import Event, Split
from jaxloop.programs.fit_trace import Moment


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run goes on from.

    Attributes:
      directory: the folder of the checkpoints, resolved.
      ordinal: of the checkpoint.
      journals: size in bytes and CRC-32 of each journal beside it, as they were.
    """

    directory: Path
    ordinal: int
    journals: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Place:
    """Where a run goes on.

    Attributes:
      moment: the split that it is in; None between two epochs; FIT_END once it is over.
      position: how many batches of the phase were taken.
      rows: those in flight, int32[row] each: of steps that were taken and that no observer was told of.
      names: what each place of a row holds, to refuse rows of another form.
      requests: what observers have cancelled and the loop does not hold yet.
      fused: how many steps a dispatch takes in each phase that was met so far.
      states: what host callbacks keep, by their names.
      journals: what the history has written, by the name of the journal.
      marks: how the data find the place again.
      elsewhere: whether the run was saved on another placement than it goes on with.
      origin: the checkpoint that it was in; None for a place that is about to be saved.
    """

    moment: Moment = None
    position: int = 0
    rows: Sequence[np.ndarray] = ()
    names: Sequence[str] = ()
    requests: int = 0
    fused: Mapping[Split, int] = field(default_factory=dict[Split, int])
    states: Mapping[str, Any] = field(default_factory=dict[str, Any])
    journals: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    marks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    elsewhere: bool = False
    origin: Origin | None = None

    @property
    def split(self) -> Split | None:
        """The phase and the set that it is in; None between phases."""
        return self.moment if isinstance(self.moment, Split) else None

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.moment is Event.FIT_END

    def described(self) -> dict[str, Any]:
        """What JSON holds of it. `journals` are kept apart, `elsewhere` and `origin` are found out on the way back."""
        return {
            "moment": self.split.name if self.split is not None else Event.FIT_END.value if self.finished else None,
            "position": self.position,
            "rows": [np.asarray(row, np.int32).tobytes().hex() for row in self.rows],
            "names": list(self.names),
            "requests": self.requests,
            "fused": {split.name: steps for split, steps in self.fused.items()},
            "states": dict(self.states),
            "marks": dict(self.marks),
        }

    @classmethod
    def of(cls, described: Mapping[str, Any], **found: Any) -> "Place":
        """The place that `described` gave, with the fields that were found out on the way back."""
        moment = described["moment"]
        return cls(
            moment=Event.FIT_END if moment == Event.FIT_END.value else None if moment is None else Split.named(moment),
            position=described["position"],
            rows=[np.frombuffer(bytes.fromhex(row), np.int32) for row in described["rows"]],
            names=described["names"],
            requests=described["requests"],
            fused={Split.named(name): steps for name, steps in described["fused"].items()},
            states=described["states"],
            marks=described["marks"],
            **found,
        )
