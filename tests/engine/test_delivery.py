import math
from typing import Any

import numpy as np
import pytest

from jaxloop.engine import delivery
from jaxloop.engine.delivery import Patient, Prompt


class Row:
    """A row on the device."""

    def __init__(self, number: int, *, fails: bool = False):
        self.number, self.fails = number, fails
        self.read = False

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.fails:
            raise RuntimeError("the step has failed")
        self.read = True
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
def test_a_patient_delivery_tells_so_many_rows_at_once_in_their_order() -> None:
    told = Told()
    deliver = Patient(told, no_clock, ahead=32, at_once=2)
    for number in range(5):
        deliver(Row(number))
    assert told.groups == [[0, 1], [2, 3]]  # the last is left with the device until the next was sent
    deliver.finish()
    assert told.groups == [[0, 1], [2, 3], [4]]


def behind(waits: list[float], clock_of: Any, *, ahead: int) -> list[int]:
    """How many rows are left with the device after each of as many dispatches, where to read one takes so long."""
    clock, rows = clock_of(delivery), [Row(number) for number in range(len(waits))]
    pending = iter(waits)

    def lap(name: str) -> float:
        clock.now += next(pending)
        return clock.now

    deliver = Patient(Told(), lap, ahead=ahead, at_once=1000)
    left = []
    for row in rows:
        deliver(row)
        left.append(sum(not row.read for row in rows[: len(left) + 1]))
    return left


@pytest.mark.usefixtures("for_ever")
def test_on_a_quiet_machine_rows_are_read_one_step_behind(clock_of: Any) -> None:
    assert behind([1e-6] * 8, clock_of, ahead=32) == [1] * 8


@pytest.mark.usefixtures("for_ever")
def test_after_long_waits_rows_are_read_further_behind_up_to_a_bound(clock_of: Any) -> None:
    assert behind([1.0] * 12, clock_of, ahead=5) == [1, 1, 2, 2, 3, 4, 4, 5, 5, 5, 5, 5]


@pytest.mark.usefixtures("for_ever")
def test_after_many_short_waits_they_are_read_one_step_nearer(clock_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_SHORT_WAITS", 2)
    left = behind([1.0, 1.0, *[1e-6] * 20], clock_of, ahead=32)
    assert max(left) == 4
    assert left[-1] == 1


def test_rows_wait_for_no_longer_than_a_tenth_of_a_second() -> None:
    told, times = Told(), iter([10.0, 10.05, 10.2])
    deliver = Patient(told, lambda name: next(times), ahead=8, at_once=8)
    for number in range(4):
        deliver(Row(number))
    assert told.groups == [[0], [1, 2]]


@pytest.mark.usefixtures("for_ever")
def test_of_dispatches_that_failed_the_rows_before_are_told_and_the_failure_is_not_hidden() -> None:
    told = Told()
    deliver = Patient(told, no_clock, ahead=8, at_once=8)
    for row in (Row(0), Row(1), Row(2, fails=True)):
        deliver(row)
    deliver.finish(failed=True)
    assert told.groups == [[0, 1]]
    deliver = Patient(told, no_clock, ahead=8, at_once=8)
    deliver(Row(0, fails=True))
    with pytest.raises(RuntimeError, match="the step has failed"):
        deliver.finish()


@pytest.mark.parametrize("patient", [False, True])
def test_rows_that_were_in_flight_in_a_saved_run_are_told_first(patient: bool, for_ever: None) -> None:
    told = Told()
    made: Any = Patient(told, no_clock, ahead=4, at_once=2) if patient else Prompt(told, no_clock)
    made.go_on([np.array([0], np.int32), np.array([1], np.int32)])
    assert [row.tolist() for row in made.in_flight()] == [[0], [1]]  # saved again before a step, they are in flight
    made(Row(2))
    made.finish()
    assert [row for group in told.groups for row in group] == [0, 1, 2]


def test_no_row_was_in_flight() -> None:
    told = Told()
    deliver = Prompt(told, no_clock)
    deliver.go_on([])
    deliver.finish()
    assert told.groups == []
