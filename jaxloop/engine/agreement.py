"""What several processes decide together: each tells the others what it asks for, and all hear the same."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxloop.asking import Ask, argument, asked_in
from jaxloop.errors import CheckpointError, CorruptCheckpointError, StateMismatchError, WeightsError
from jaxloop.loop import Loop
from jaxloop.placement import Placement

#: What the other processes raise, if one has raised it. They raise a RuntimeError for any other.
_KINDS = {kind.__name__: kind for kind in (CheckpointError, CorruptCheckpointError, StateMismatchError)}
_KINDS |= {kind.__name__: kind for kind in (ValueError, TypeError, WeightsError)}


class Agreement:
    """Keeps the processes of a run in step. If there is one, each answer is its own, and nothing is exchanged.

    Within a phase, what a process asks for travels with its next dispatch, is summed over all processes by the program,
    and comes back with the row of that step. So all processes hear it at the same dispatch. Between dispatches `all_of`
    exchanges it, and waits for the slowest.

    Attributes:
      several: whether there is more than one process.
      heard: what any process has asked for, as far as rows have told. A new phase begins without.

    Args:
      placement: where the run lives; None for one device.

    Raises:
      ValueError: the placement has no device of some process. That one would wait for ever.
    """

    def __init__(self, placement: Placement | None = None):
        self.several = placement is not None and placement.several_processes
        self.heard = 0
        self._placement = placement
        self._dispatches = 0  # that were sent
        self._rows = 0  # dispatches whose rows were told
        self._saved = 0  # how many had been sent when the run was saved last
        if placement is None or not self.several:
            return
        processes = {device.process_index for device in placement.mesh.devices.flat}
        if processes != set(range(jax.process_count())):
            raise ValueError(
                f"on: the mesh has devices of the processes {sorted(processes)}, but there are {jax.process_count()}. "
                "Take devices of each, as jaxloop.data_parallel() does, or only those of one process."
            )

    def sent(self, asked: int) -> Any:
        """The argument by which a dispatch tells all processes what this one asks for: float32[devices, bits]."""
        self._dispatches += 1
        assert self._placement is not None
        return argument(self._placement, asked)

    def told(self, rows: np.ndarray) -> int:
        """What was asked for in a dispatch, by its rows; it is added to `heard`."""
        asked = asked_in(rows)
        if self._rows < self._saved:  # it was sent before the save that was asked for
            asked &= ~Ask.SAVE
        self._rows += 1
        self.heard |= asked
        return asked

    def all_of(self, asked: int) -> int:
        """What any process asks for now. Waits for all processes."""
        if not self.several:
            return asked
        return int(np.bitwise_or.reduce(multihost_utils.process_allgather(np.int32(asked)).reshape(-1)))

    def stopped(self, loop: Loop) -> Loop:
        """The loop with what any process has cancelled in it. Waits for all processes."""
        if not self.several:
            return loop
        assert self._placement is not None
        stop = np.int32(self.all_of(int(loop.stop)))
        return loop.replace(stop=self._placement.put(stop) if isinstance(loop.stop, jax.Array) else stop)

    def saved(self) -> None:
        """Says that the run was saved: what is on its way and asks for that is answered."""
        self._saved = self._dispatches
        self.heard &= ~int(Ask.SAVE)

    def begin_phase(self) -> None:
        """No dispatch is on its way."""
        self._dispatches = self._rows = self._saved = 0
        self.heard = 0

    def texts(self, text: str) -> list[str]:
        """A text of each process, in their order. Waits for all of them.

        Raises:
          Exception: another process has failed where this one waits for it, see `together`.
        """
        if not self.several:
            return [text]
        found = _exchanged("+" + text)
        for index, each in enumerate(found):
            if each.startswith("-"):
                kind, message = json.loads(each[1:])
                error = _KINDS.get(kind, RuntimeError)(message)
                error.add_note(f"jaxloop: process {index} has raised this {kind}, so this process stops too")
                raise raised_everywhere(error)
        return [each[1:] for each in found]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside goes well on every process, or every process raises. Waits for all of them.

        Inside, the processes may wait for each other by `texts` and `same`, but by no other means.
        """
        if not self.several:
            yield
            return
        try:
            yield
        except Exception as error:
            if not known_everywhere(error) and not isinstance(error, _LostError):
                _exchanged("-" + json.dumps((type(error).__name__, str(error))))
                raised_everywhere(error)
            raise
        self.texts("")

    def same(self, where: str, values: Mapping[str, Any]) -> None:
        """Refuses to go on if a value is not the same on every process that has it. Waits for all of them.

        Args:
          where: what is begun, for the message.
          values: JSON by name.

        Raises:
          ValueError: on every process, with the name of the first value that differs and what each process has.
        """
        if not self.several:
            return
        everywhere = [json.loads(text) for text in self.texts(json.dumps(values))]
        for name in dict.fromkeys(itertools.chain.from_iterable(everywhere)):
            found = {index: values[name] for index, values in enumerate(everywhere) if name in values}
            if len(set(map(repr, found.values()))) > 1:
                each = "; ".join(f"process {index} has {value!r:.200}" for index, value in found.items())
                error = ValueError(
                    f"{where}: {name} must be the same on every process: {each}. Give each process the same "
                    "arguments, and only its own share of a loader's data."
                )
                raise raised_everywhere(error)


def known_everywhere(error: BaseException) -> bool:
    """Whether all processes raise it, or one like it, at the same place. Else the others wait for this process."""
    return getattr(error, "everywhere", False)


def raised_everywhere(error: BaseException) -> BaseException:
    """The exception, once it says so of itself, see `known_everywhere`."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


class _LostError(RuntimeError):
    """Another process has ended."""


def _exchanged(text: str) -> list[str]:
    """A text of each process, in their order."""
    words = np.frombuffer(text.encode(), np.uint8)
    try:
        lengths = multihost_utils.process_allgather(np.int32(len(words))).reshape(-1)
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: len(words)] = words
        rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    except (RuntimeError, ValueError) as error:  # as JAX has it
        raise _LostError(f"jaxloop: another process of the run has ended, or cannot be reached: {error}") from error
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]
