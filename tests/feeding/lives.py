"""Data as a fit sets them up and reads them, for tests of how they go on where a run was."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jaxloop.data.repeat import one_epoch
from jaxloop.feeding.reading import Position, check_ended
from jaxloop.feeding.source import EpochSource, Peekable
from tests.feeding.test_marks import made, pairs, taken

ROWS = [(inputs, target) for inputs, target in zip(*pairs(80), strict=True)]


def imported(name: str) -> Any:
    """A module, or a skipped test where it did not install."""
    return pytest.importorskip(name, reason=f"{name} did not install", exc_type=ImportError)


def through_json(mark: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(mark))


def without_states(mark: dict[str, Any]) -> dict[str, Any]:
    """A mark without the state of a loader, which may be of another batch though the place is the same."""
    return {name: value for name, value in through_json(mark).items() if name not in ("kind", "point")}


def same_marks(found: tuple[Any, Any], expected: tuple[Any, Any]) -> bool:
    return [*map(without_states, found)] == [*map(without_states, expected)]


def places(lengths: list[int]) -> Iterator[tuple[int, int]]:
    return ((index, position) for index, length in enumerate(lengths) for position in range(length + 1))


def check_all_places(make: Callable[[], Any], kinds: set[str], every: int = 1, limit: int | None = None) -> None:
    """Every place of three epochs is found again; the marks are of the given kinds."""
    live = made(make(), limit)
    expected = [taken(live, index) for index in range(3)]
    found = set()
    for index, position in itertools.islice(places([len(epoch) for epoch in expected]), 0, None, every):
        before = made(make(), limit)
        for earlier in range(index):
            taken(before, earlier)
        if position:
            taken(before, index, 0, position)
        mark = through_json(before.mark(index, position))
        after = made(make(), limit)
        after.put_back(index, position, mark, lambda text: None)
        assert without_states(after.mark(index, position)) == without_states(mark)  # the next save says the same
        again = [taken(after, index, position), *(taken(after, later) for later in range(index + 1, 3))]
        assert again == [expected[index][position:], *expected[index + 1 :]], (index, position, mark)
        found.add(mark["kind"])
    assert found == kinds


class Life:
    """Training and validation, set up and read as a fit does it."""

    def __init__(self, training: Any, validation: Any):
        self.validation = Peekable(one_epoch(validation, "validation"))
        self.source = EpochSource(training)
        self.source.at(0)
        self.validation.peek()
        self.validation.close()
        self.source.at(0).peek()
        self.source.watched()
        self.validation.watched()

    def validated(self, start: int = 0, until: int | None = None) -> list[Any]:
        rest, total = self.validation.begun_at(start), len(self.validation)
        found = [batch[1].tolist() for batch in itertools.islice(rest, (total if until is None else until) - start)]
        if until is None:
            check_ended(self.validation, rest, "validation", Position(total))
        return found

    def lived(self, until: int) -> list[Any]:
        return self.lived_from(0, until)

    def lived_from(self, first: int, until: int = 3) -> list[Any]:
        return [(taken(self.source, index), self.validated()) for index in range(first, until)]

    def marks(self, index: int, training: int, validation: int) -> tuple[Any, Any]:
        return through_json(self.source.mark(index, training)), through_json(self.validation.mark(validation))

    def put_back(self, index: int, training: int, validation: int, marks: tuple[Any, Any]) -> list[str]:
        told: list[str] = []
        self.source.put_back(index, training, marks[0], told.append, lambda: self.validation.pass_over(marks[1]))
        self.validation.put_back(validation, marks[1], told.append)
        return told
