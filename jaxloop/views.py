"""What host callbacks see of a run: `LoopView` shows one moment, and `Columns` the rows of a dispatch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxloop.chips import StepCost
from jaxloop.errors import StateMismatchError
from jaxloop.events import Phase, Scope, Split, check_cancel, split_at
from jaxloop.loop import COUNTERS, FIELDS, STEP_FIELDS, Loop

_READABLE = {
    "stats": frozenset({*COUNTERS, "stats", "stop", "phase", "validation_set"}),
    "step": frozenset({*COUNTERS, "stats", "stop", "phase", "validation_set", *STEP_FIELDS}),
}


class LoopView:
    """The part of a loop that a host callback has declared to read. It is read-only, except for `cancel`.

    Example:
      >>> @jl.on_host(jl.Event.EPOCH_END)
      ... def tell(loop, event):  # `loop` is such a view
      ...     print(int(loop.epoch), float(loop.stats["loss"]))
      ...     loop.cancel(jl.Scope.FIT, when=loop.stats["loss"] < 0.1)
    """

    __slots__ = ("_cancel", "_name", "_reads", "_values")

    def __init__(self, values: Mapping[str, Any], *, reads: str, name: str, cancel: Callable[[Scope], None]):
        self._values = values
        self._reads = reads
        self._name = name
        self._cancel = cancel

    def __getattr__(self, field: str) -> Any:
        if field in _READABLE[self._reads]:
            return self._values[field]
        if field in FIELDS:
            needed = "step" if field in STEP_FIELDS else "loop"
            raise AttributeError(
                f"callback {self._name!r} declares reads={self._reads!r}, which does not hold `loop.{field}`. "
                f"Declare @jaxloop.on_host(..., reads={needed!r})."
            )
        if hasattr(Loop, field):
            raise AttributeError(
                f"callback {self._name!r}: `loop.{field}` needs the loop itself. "
                "Declare @jaxloop.on_host(..., reads='loop')."
            )
        readable = ", ".join(sorted(_READABLE[self._reads]))
        raise AttributeError(f"callback {self._name!r}: a loop has no {field!r}; it may read {readable}.")

    @property
    def split(self) -> Split | None:
        """The phase and the set of data at hand; None between phases."""
        return split_at(self._values["phase"], self._values["validation_set"])

    def cancel(self, scope: Scope, when: Any = True) -> "LoopView":
        """Cancels `scope` if `when` is true. This counts at once, whether or not the callback returns the view."""
        check_cancel("LoopView.cancel", scope, when)
        if bool(when):
            self._cancel(scope)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self._values[name]}" for name in ("phase", *COUNTERS))
        return f"LoopView({shown})"


class Columns(Mapping[str, np.ndarray]):
    """The rows of one dispatch by column. A column is decoded when it is read.

    The keys are the counters and every name in `loop.stats`. Each value is int32[rows], uint32[rows] or float32[rows],
    with the values that the loop had at `BATCH_END`.

    Attributes:
      phase: the phase of all these rows.
      split: the phase and the set of data of all these rows. Its `name` is that of the set, and `split.stat("loss")` is
        the name of the loss over it.
      batch_size: the number of examples in a full batch.
      cost: what a step takes of the devices, as far as it is known. Rows that were kept as JSON do not know it.

    Example:
      >>> @jl.on_host(jl.Event.BATCH_END)
      ... class LargestLoss:
      ...     largest = 0.0
      ...
      ...     def __call__(self, loop, event): ...
      ...
      ...     def rows(self, columns):  # these are such columns
      ...         self.largest = max(self.largest, float(columns["loss"].max()))
      >>> largest = LargestLoss()
      >>> loop, history = training_loop.fit(model, epochs=1, callbacks=[largest])
      >>> largest.largest > 0
      True
    """

    __slots__ = ("_decoded", "_matrix", "_places", "batch_size", "cost", "phase", "split")

    def __init__(
        self,
        matrix: np.ndarray,
        places: Mapping[str, tuple[int, np.dtype]],
        split: Split,
        batch_size: int,
        cost: StepCost | None = None,
    ):
        self._matrix = matrix
        self._places = places
        self._decoded: dict[str, np.ndarray] = {}
        self.split = split
        self.phase = split.phase
        self.batch_size = batch_size
        self.cost = cost

    @property
    def stats(self) -> tuple[str, ...]:
        """Names of the statistics among the columns."""
        return tuple(name for name in self._places if name not in _READABLE["stats"])

    def last(self) -> "Columns":
        """Only the last row."""
        return Columns(self._matrix[-1:], self._places, self.split, self.batch_size, self.cost)

    def last_bits(self, name: str) -> int:
        """The bits of a column in the last row, as an int32. No column is decoded for them."""
        return int(self._matrix[-1, self._places[name][0]])

    def chosen(self, mask: np.ndarray) -> "Columns":
        """Only the rows at which `mask`, bool[rows], is true. They are copied."""
        return Columns(self._matrix[mask], self._places, self.split, self.batch_size, self.cost)

    def bits(self) -> bytes:
        """The rows as bytes, which are the cheapest to keep: the rows themselves keep device buffers alive."""
        return self._matrix.tobytes()

    def with_bits(self, bits: bytes | bytearray) -> "Columns":
        """Columns like these, over other rows whose `bits` follow one another."""
        matrix = np.frombuffer(bits, np.int32).reshape(-1, self._matrix.shape[1])
        return Columns(matrix, self._places, self.split, self.batch_size, self.cost)

    def placed_as(self, other: "Columns") -> "Columns":
        """These rows with each column at its place in `other`, so that the `bits` of both can follow one another.

        Raises:
          StateMismatchError: the two do not have the same columns in the same dtypes.
        """
        if self._places is other._places:
            return self
        mine, theirs = ({name: np.dtype(dtype) for name, (_, dtype) in each._places.items()} for each in (self, other))
        if mine != theirs:
            raise StateMismatchError(
                "The statistics have changed within the run. The rows so far have "
                f"{_listed(theirs)}; those that came now have {_listed(mine)}. Use the metrics and callbacks of before."
            )
        if self._places == other._places and self._matrix.shape[1] == other._matrix.shape[1]:
            return self
        matrix = np.ones((self.count, other._matrix.shape[1]), np.int32)
        for name, (place, _) in other._places.items():
            matrix[:, place] = self._matrix[:, self._places[name][0]]
        return Columns(matrix, other._places, self.split, self.batch_size, self.cost)

    def to_json(self) -> dict[str, Any]:
        """These rows, bit for bit, as JSON can hold them, with all that is needed to read them in another process."""
        return {
            "phase": self.split.name,
            "batch_size": self.batch_size,
            "places": [[name, place, np.dtype(dtype).name] for name, (place, dtype) in self._places.items()],
            "rows": [row.tobytes().hex() for row in self._matrix],
            "width": self._matrix.shape[1],
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Columns":
        """The rows of which `kept` is the `to_json`."""
        bits = bytes.fromhex("".join(kept["rows"]))
        places = {name: (place, np.dtype(dtype)) for name, place, dtype in kept["places"]}
        matrix = np.frombuffer(bits, np.int32).reshape(-1, kept["width"])
        return cls(matrix, places, Split.named(kept["phase"]), kept["batch_size"])

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._matrix)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._decoded:
            place, dtype = self._places[name]
            column = self._matrix[:, place].copy().view(dtype)
            if name == "batch_index" or (name == "step" and self.phase is Phase.TRAINING):
                column -= 1  # the program makes the row after it has advanced the counters
            self._decoded[name] = column
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places  # `Mapping` would decode the column

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Columns({self.count} {self.split.name} rows of {', '.join(self)})"


def _listed(dtypes: Mapping[str, np.dtype]) -> str:
    return ", ".join(f"{name} {dtype.name}" for name, dtype in sorted(dtypes.items()))
