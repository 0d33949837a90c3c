import math
from typing import Any

import numpy as np
import pytest

from jaxloop.engine import delivery
from jaxloop.engine.delivery import Patient, Prompt


class Row:
    """A row that the device is still at, until `ready` is set; to read it then waits for it."""

    def __init__(self, number: int, *, ready: bool = False, fails: bool = False):
        self.number, self.ready, self.fails = number, ready, fails
        self.waited = False

    def is_ready(self) -> bool:
        return self.ready

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.fails:
            raise RuntimeError("the step has failed")
        self.waited = not self.ready
        return np.array([self.number], np.int32)


class Told:
    """Writes down what is told, in groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, rows: np.ndarray) -> bool:
        self.groups.append(rows.reshape(-1).tolist())
        return rows.reshape(-1)[-1] < 3


def no_clock(name: str) -> float:
    return 0.0


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_SECONDS_TOGETHER", math.inf)


def test_a_prompt_delivery_tells_each_row_once_the_next_was_sent() -> None:
    told = Told()
    deliver = Prompt(told, no_clock)
    assert deliver(Row(1))
    assert told.groups == []
    assert deliver(Row(3))
    assert told.groups == [[1]]
    assert not deliver(Row(4))
    assert told.groups == [[1], [3]]
    deliver.finish()
    assert told.groups == [[1], [3], [4]]


def test_a_prompt_delivery_that_has_failed_tells_no_more() -> None:
    told = Told()
    deliver = Prompt(told, no_clock)
    deliver(Row(1))
    deliver.finish(failed=True)
    assert told.groups == []


@pytest.mark.usefixtures("for_ever")
def test_a_patient_delivery_waits_for_no_row_until_so_many_were_sent() -> None:
    told, rows = Told(), [Row(number) for number in range(5)]
    deliver = Patient(told, no_clock, ahead=3, at_once=8)
    for row in rows[:3]:
        deliver(row)
    assert not any(row.waited for row in rows)
    deliver(rows[3])
    assert [row.waited for row in rows] == [True, False, False, False, False]
    rows[1].ready = rows[2].ready = True
    deliver(rows[4])
    assert [row.waited for row in rows] == [True, False, False, False, False]
    deliver.finish()
    assert told.groups == [[0, 1, 2, 3, 4]]


@pytest.mark.usefixtures("for_ever")
def test_a_patient_delivery_tells_so_many_rows_at_once_in_their_order() -> None:
    told = Told()
    deliver = Patient(told, no_clock, ahead=32, at_once=2)
    for number in range(5):
        deliver(Row(number, ready=number != 0))
    assert told.groups == []  # the first is not there yet, and the others come after it
    deliver.finish()
    assert told.groups == [[0, 1], [2, 3], [4]]


def test_rows_wait_for_no_longer_than_a_tenth_of_a_second() -> None:
    told, times = Told(), iter([10.0, 10.05, 10.2])
    deliver = Patient(told, lambda name: next(times), ahead=8, at_once=8)
    for number in range(3):
        deliver(Row(number, ready=True))
    assert told.groups == [[0], [1, 2]]


@pytest.mark.usefixtures("for_ever")
def test_of_dispatches_that_failed_the_rows_before_are_told_and_the_failure_is_not_hidden() -> None:
    told = Told()
    deliver = Patient(told, no_clock, ahead=8, at_once=8)
    for row in (Row(0), Row(1), Row(2, fails=True), Row(3, fails=True)):
        deliver(row)
    deliver.finish(failed=True)
    assert told.groups == [[0, 1]]
    deliver = Patient(told, no_clock, ahead=8, at_once=8)
    deliver(Row(0, fails=True))
    with pytest.raises(RuntimeError, match="the step has failed"):
        deliver.finish()
