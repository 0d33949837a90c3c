"""Whether a compiled callback is a pure function: traced twice at a place, it must give the same program."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxloop.callback import name_of
from jaxloop.events import Event
from jaxloop.loop import Loop
from jaxloop.testing.keeping import kept, plain, short
from jaxloop.testing.training import Training

_ADDRESS = re.compile(r"0x[0-9a-f]+")


class ImpureError(AssertionError):
    """A compiled callback gave two programs for the same loop and event."""


class Twice:
    """A compiled callback that is traced twice more wherever it is called.

    Raises:
      ImpureError: at a call, the two programs differ.
    """

    def __init__(self, callback: Any):
        self._callback = callback
        self.__name__ = self.__qualname__ = name_of(callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback, name)

    def __call__(self, loop: Loop, event: Event) -> Any:
        result = self._callback(loop, event)
        if isinstance(result, Loop):
            one, other = (self._program(loop, event) for _ in range(2))
            if one != other:
                raise ImpureError(
                    f"{name_of(self)!r}, traced twice at {event.name}, gave two programs: {_difference(one, other)}"
                )
        return result

    def bind(self, plan: Any) -> "Twice":
        return Twice(self._callback.bind(plan)) if hasattr(self._callback, "bind") else self

    def _program(self, loop: Loop, event: Event) -> list[str]:
        """The lines of the program, and its constants."""
        traced = jax.make_jaxpr(functools.partial(_called, self._callback, event))(loop)
        constants = [repr(plain(constant)) for constant in traced.consts]
        return [*_ADDRESS.sub("0x", str(traced)).splitlines(), *constants]


def check_purity(compiled: Sequence[Any], training: Training) -> list[tuple[str, str, str]]:
    """Traces a fit, with each compiled callback twice. No step is taken.

    Returns:
      The callback's name, the name of a variable, and its values before and after, for each that was changed.

    Raises:
      ImpureError: a callback gives two programs.
    """
    before = [kept(callback) for callback in compiled]
    training.training_loop().setup.fit(
        training.model(), training.epochs, callbacks=[Twice(callback) for callback in compiled], on="cpu"
    )
    changes = []
    for callback, old in zip(compiled, before, strict=True):
        new = kept(callback)
        changes += [
            (name_of(callback), name, f"{short(repr(old.get(name)))}, and then {short(repr(new.get(name)))}")
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
    return changes


def _called(callback: Any, event: Event, loop: Loop) -> Any:
    return callback(loop, event)


def _difference(one: list[str], other: list[str]) -> str:
    """The first words in which two programs differ."""
    words, others = (" ".join(lines).split() for lines in (one, other))
    pair = next(((a, b) for a, b in zip(words, others, strict=False) if a != b), None)
    if pair is None:
        return f"of {len(words)} words, and then of {len(others)}"
    return f"{short(pair[0].rstrip(','))!r}, and then {short(pair[1].rstrip(','))!r}"
