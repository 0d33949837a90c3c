"""Which data are checked before they are trained on: the first batch, all in memory, or each batch as it is read."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import mmap
import operator
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxloop.data import Batches
from jaxloop.data.samples import is_source
from jaxloop.feeding.checks import check_numbers, check_targets
from jaxloop.feeding.specification import Batch, parts_of
from jaxloop.metrics import Metric

Check = Literal["first", "memory", "all"]


class Passed:
    """Arrays that have passed a check, known by identity. It keeps none of them alive."""

    def __init__(self) -> None:
        self._arrays: dict[Hashable, list[weakref.ref[Any]]] = {}

    def holds(self, key: Hashable, arrays: Sequence[Any]) -> bool:
        """Whether just these arrays have passed under `key`."""
        known = self._arrays.get((key, *map(id, arrays)))
        return known is not None and all(map(operator.is_, [ref() for ref in known], arrays))

    def add(self, key: Hashable, arrays: Sequence[Any]) -> None:
        """Notes that these arrays have passed."""
        key = (key, *map(id, arrays))

        def forget(_: Any) -> None:
            self._arrays.pop(key, None)

        self._arrays[key] = [weakref.ref(array, forget) for array in arrays]


@dataclass(frozen=True)
class Inspection:
    """Looks into the data of a training loop.

    Attributes:
      check: `"first"`: the first batch of each phase. `"memory"`: also all that lies in memory as steps will see it.
        `"all"`: also each batch when it is read. What lies in memory is looked at once, in whole arrays: 60,000 images
        of 28 x 28 floats with their labels took 0.03 s on two cores of a server, and passed arrays are not looked at
        again.
      loss_fn, metrics: they decide what targets may be.
      batch_keys: as `parts_of` takes them.
      passed: what has passed before.
    """

    check: Check
    loss_fn: Any
    metrics: tuple[Metric, ...]
    batch_keys: Sequence[str] | None
    passed: Passed

    def numbers(self, batches: Any, first: Callable[[], Batch], where: str) -> None:
        """Refuses wild numbers, before anything is traced.

        Args:
          batches: as they were given.
          first: gives the first batch as the step will see it, on the host.
          where: what the user calls them.
        """
        self._look(("numbers",), batches, first, where, lambda batch, what: check_numbers(batch, self.loss_fn, what))

    def targets(self, batches: Any, first: Callable[[], Batch], output: Any, where: str) -> None:
        """Refuses wild targets, once the model's output is known; as `numbers`."""

        def check(batch: Batch, what: str) -> None:
            check_targets(batch, output, self.loss_fn, self.metrics, what)

        shapes = tuple(np.shape(leaf)[1:] for leaf in jax.tree.leaves(output))
        self._look(("targets", shapes), batches, first, where, check)

    def _look(
        self,
        key: Hashable,
        batches: Any,
        first: Callable[[], Batch],
        where: str,
        check: Callable[[Batch, str], None],
    ) -> None:
        """Checks all that lies in memory, once, the first batch included; if not all does, the first batch."""
        arrays = self._arrays(batches)
        if arrays and self.passed.holds(key, arrays):
            return
        looked_into = [check(batch, what) for what, batch in self._in_memory(batches, where)]
        if len(looked_into) < (1 if isinstance(batches, Batches) or not arrays else len(batches)):
            check(first(), f"{where}: the first batch's")  # it may not be among what lies in memory
        elif all(isinstance(array, np.ndarray) for array in arrays):
            self.passed.add(key, arrays)

    def _arrays(self, batches: Any) -> list[Any]:
        """The arrays that all batches are made of, if they lie in memory."""
        if self.check == "first" or not isinstance(batches, (Batches, list, tuple)):
            return []
        return jax.tree.leaves(batches.samples if isinstance(batches, Batches) else batches)

    def watching(
        self, output: Any, where: str, shown: Callable[[Batch], Batch], *, targets: bool = True
    ) -> Callable[[int, int, Any], None] | None:
        """A function that checks the batches of a dispatch when they are read; None if they are not checked.

        It is called with the index of the first, how many there are, and the batch, or several stacked.

        Args:
          output: shape and dtype of the model's output.
          where: what the user calls the data.
          shown: makes the batch that the step will see, on the host, from one that travels.
          targets: whether targets are checked too: not where a callback puts others in their place.
        """
        if self.check != "all":
            return None

        def watch(index: int, count: int, batches: Any) -> None:
            for place in range(count):
                batch = batches if count == 1 else jax.tree.map(operator.itemgetter(place), batches)
                what, batch = f"{where}: batch {index + place}'s", shown(batch)
                check_numbers(batch, self.loss_fn, what)
                if targets:
                    check_targets(batch, output, self.loss_fn, self.metrics, what)

        return watch

    def _in_memory(self, batches: Any, where: str) -> Iterator[tuple[str, Batch]]:
        """What lies in memory just as steps will see it, and its name: samples, or batches of a list."""
        if self.check == "first":
            return
        if isinstance(batches, Batches):
            as_they_are = not (batches.transforms or batches.compiled or is_source(batches.samples))
            listed: list[tuple[str, Any]] = [("the samples'", batches.samples)] if as_they_are else []
        elif isinstance(batches, (list, tuple)):
            listed = [(f"batch {index}'s", batch) for index, batch in enumerate(batches)]
        else:
            return
        for what, batch in listed:
            parts = parts_of(batch, self.batch_keys, where)
            if all(map(_is_in_memory, jax.tree.leaves(parts))):
                yield f"{where}: {what}", parts


def epochs_in_memory(training: Any, first: Any) -> list[Any]:
    """The epochs that can be checked without reading data: the first, and those of a list."""
    epochs: Sequence[Any] = training if isinstance(training, (list, tuple)) else [first]
    return list({id(epoch): epoch for epoch in epochs}.values())


def _is_in_memory(leaf: Any) -> bool:
    """Whether it is an array of NumPy's that is not mapped from a file."""
    if not isinstance(leaf, np.ndarray):
        return False
    base: Any = leaf
    while base is not None:
        if isinstance(base, (np.memmap, mmap.mmap)):
            return False
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return True
