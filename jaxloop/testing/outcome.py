"""What a run has left, as plain values: told calls and rows, history, leaves of the loop, files, attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxloop.callback import on_host
from jaxloop.checkpoint.leaves import flattened
from jaxloop.events import Event
from jaxloop.history import History
from jaxloop.loop import Loop
from jaxloop.speed import MEASURED_OUTSIDE
from jaxloop.views import Columns, LoopView


@dataclass(frozen=True)
class Outcome:
    """What two equal runs have in common. All of it is JSON.

    Attributes:
      told: what an observer was told, in order: the name of each event or row, and its values by name.
      history: each column of the history, by name, without clocks.
      leaves: each leaf of the loop, by its path.
      files: the lines of each file, see `folders.content`.
      attributes: what each host callback keeps, by its name and the attribute's.
    """

    told: list[Any]
    history: dict[str, Any]
    leaves: dict[str, Any]
    files: dict[str, list[str]]
    attributes: dict[str, Any]


@on_host(*[event for event in Event if not event.in_step], Event.BATCH_END)
class Witness:
    """Writes down all that a host callback is told. It has a memory, so it has the whole run after a resume too."""

    rows_may_wait = True

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __call__(self, loop: LoopView, event: Event) -> None:
        values = {"stop": loop.stop, **loop.stats}
        where = f"{event.name}, epoch {int(loop.epoch)}"
        self.told.append([where, {name: number(value) for name, value in sorted(values.items())}])

    def rows(self, columns: Columns) -> None:
        for index in range(columns.count):
            values = {name: number(columns[name][index]) for name in sorted(columns)}
            where = f"row of {columns.split.name}"
            epoch, batch = columns["epoch"][index], columns["batch_index"][index] + 1
            self.told.append([f"{where} batch {batch} of epoch {epoch}", values])

    def state(self) -> dict[str, Any]:
        return {"told": self.told}

    def resume(self, loop: Any, state: Mapping[str, Any]) -> None:
        self.told = [*state["told"]]


def number(value: Any) -> list[str]:
    """A number or an array as its dtype, its bits and how it is shown."""
    array = np.asarray(value)
    shown = str(array[()]) if array.ndim == 0 else np.array2string(array, threshold=8, edgeitems=2).replace("\n", " ")
    return [f"{array.dtype.name}{[*array.shape] if array.shape else ''}", array.tobytes().hex(), shown]


def columns_of(history: History) -> dict[str, Any]:
    """The columns of a history, a value for each row, but for those of clocks; and how it ended."""
    tables = {"epochs": history.epochs, "batches": history.batches}
    columns = {
        f"{name} of {table}": [number(value) for value in column]
        for table, found in tables.items()
        for name, column in found.items()
        if name not in MEASURED_OUTSIDE
    }
    return {"stopped": [history.stopped], **columns}


def leaves_of(loop: Loop) -> dict[str, Any]:
    """The leaves of a loop by their paths, and its static fields."""
    flat = flattened(loop)
    found = {
        leaf["path"]: number(flat.arrays[leaf["array"]]) if "array" in leaf else [leaf["dtype"], leaf["bits"], ""]
        for leaf in flat.described
    }
    static = {".lasting": loop.lasting, ".evaluated": loop.evaluated}
    return found | {name: ["static", str(sorted(names)), str(sorted(names))] for name, names in static.items()}
