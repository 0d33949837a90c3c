"""In what two runs differ: the first call or row, then columns of the history, leaves, files and attributes."""

import fnmatch
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxloop.testing.keeping import short
from jaxloop.testing.outcome import Outcome, number

_MOST = 3  # of one kind are shown


@dataclass(frozen=True)
class Difference:
    """One place at which two runs differ.

    Attributes:
      kind: `"told"`, `"history"`, `"leaf"`, `"file"` or `"attribute"`.
      text: the place, what is there, and what should be.
      more: whether there is more than should be: another row, line or call.
    """

    kind: str
    text: str
    more: bool = False


def differences(
    expected: Outcome, found: Outcome, *, ignore: Sequence[str] = (), unsteady: Collection[str] | None = ()
) -> list[Difference]:
    """All that `found` has otherwise than `expected`, at most some of each kind.

    Args:
      expected: of the run that was never interrupted.
      found: of the run that is judged.
      ignore: patterns, as of file names, of columns, leaves, files and attributes that may differ.
      unsteady: attributes that may differ; None is all of them.
    """

    def wanted(name: str) -> bool:
        return not matches(name, ignore)

    kinds = [
        [] if expected.told == found.told else _told(expected.told, found.told, ignore),
        [
            _row(name, expected.history.get(name, []), found.history.get(name, []))
            for name in _unequal(expected.history, found.history)
            if wanted(name.partition(" of ")[0])
        ],
        [
            Difference("leaf", f"leaf {name}: {_both(expected.leaves.get(name), found.leaves.get(name))}")
            for name in _unequal(expected.leaves, found.leaves)
            if wanted(name)
        ],
        [
            _file(name, expected.files.get(name), found.files.get(name))
            for name in _unequal(expected.files, found.files)
            if wanted(name)
        ],
    ]
    if unsteady is not None:
        attributes = (name for name in _unequal(expected.attributes, found.attributes) if name not in unsteady)
        kinds.append(
            [
                _attribute(name, expected.attributes.get(name), found.attributes.get(name))
                for name in attributes
                if wanted(name) and wanted(name.rpartition(": ")[2])
            ]
        )
    return [difference for kind in kinds for difference in _first(kind)]


def _first(found: list[Difference]) -> list[Difference]:
    rest = len(found) - _MOST
    if rest <= 0:
        return found
    last = found[_MOST - 1]
    return [*found[: _MOST - 1], replace(last, text=f"{last.text}; and {rest} more of this kind")]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is as one of the patterns says."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def unequal_attributes(one: Outcome, other: Outcome) -> frozenset[str]:
    """The attributes in which two runs differ."""
    return frozenset(_unequal(one.attributes, other.attributes))


def _unequal(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    return (name for name in [*one, *(other.keys() - one.keys())] if one.get(name) != other.get(name))


def _told(expected: list[Any], found: list[Any], ignore: Sequence[str]) -> list[Difference]:
    for index, (was, now) in enumerate(zip(expected, found, strict=False), start=1):
        if was[0] != now[0]:
            return [Difference("told", f"call {index} to host callbacks: {now[0]}, should be {was[0]}")]
        names = [name for name in _unequal(was[1], now[1]) if not matches(name, ignore)]
        if names:
            both = _both(was[1].get(names[0]), now[1].get(names[0]))
            return [Difference("told", f"{now[0]} (call {index} to host callbacks), {names[0]}: {both}")]
    if len(expected) == len(found):
        return []
    more = len(found) > len(expected)
    last = (found if more else expected)[min(len(expected), len(found))][0]
    count = f"{len(found)} calls to host callbacks, should be {len(expected)}"
    text = f"{count}: {last} is {'too many' if more else 'missing'}"
    return [Difference("told", text, more)]


def _row(name: str, expected: list[Any], found: list[Any]) -> Difference:
    for index, (was, now) in enumerate(zip(expected, found, strict=False), start=1):
        if was != now:
            return Difference("history", f"history, {name}, row {index}: {_both(was, now)}")
    count = f"{len(found)} rows, should be {len(expected)}"
    return Difference("history", f"history, {name}: {count}", len(found) > len(expected))


def _file(name: str, expected: list[str] | None, found: list[str] | None) -> Difference:
    if found is None or expected is None:
        text = f"file {name}: it {'is missing' if found is None else 'should not be there'}"
        return Difference("file", text, expected is None)
    more = len(found) > len(expected)
    for index, (was, now) in enumerate(zip(expected, found, strict=False), start=1):
        if was != now:
            byte = next(
                (at for at, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now))
            )
            start = max(0, byte - 40)
            text = f"file {name}, line {index}: {short(now[start:])}, should be {short(was[start:])}"
            return Difference("file", f"{text} ({len(found)} lines, should be {len(expected)})", more)
    longer = found if more else expected
    which = "is too many" if more else "is missing"
    line = f"line {min(len(found), len(expected)) + 1} {which}, {short(longer[min(len(found), len(expected))])}"
    return Difference("file", f"file {name}: {line} ({len(found)} lines, should be {len(expected)})", more)


def _attribute(name: str, expected: Any, found: Any) -> Difference:
    return Difference("attribute", f"attribute of {name}: {short(repr(found))}, should be {short(repr(expected))}")


def _both(expected: Any, found: Any) -> str:
    """Two numbers or arrays, each as `outcome.number` gives it: their dtypes, or the first element that differs."""
    if expected is None or found is None or not isinstance(expected, list):
        return f"{_shown(found)}, should be {_shown(expected)}"
    if expected[0] != found[0]:
        return f"{found[0]}, should be {expected[0]}"
    kind, brackets, shape = expected[0].partition("[")
    if brackets:
        was, now = (
            np.frombuffer(bytes.fromhex(each[1]), np.uint8).reshape(-1, _size(kind)) for each in (expected, found)
        )
        place = int(np.flatnonzero((was != now).any(axis=1))[0])
        index = np.unravel_index(place, [int(length) for length in shape.rstrip("]").split(",")])
        was, now = (number(np.frombuffer(each[place].tobytes(), jnp.dtype(kind))[0]) for each in (was, now))
        return f"at {[*map(int, index)]}: {_both(was, now)}"
    if expected[2] != found[2]:
        return f"{found[2]}, should be {expected[2]}"
    return f"{found[2]} with the bits {found[1]}, should be {expected[1]}"


def _size(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value[0]} {value[2]}" if isinstance(value, list) else repr(value)
