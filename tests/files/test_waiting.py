"""Rows that wait: when they are due, and that all are there in their order."""

import numpy as np
import pytest

from jaxloop.events import TRAINING, Phase
from jaxloop.files.waiting import WaitingRows
from jaxloop.views import Columns


@pytest.fixture
def waiting():
    """Rows that wait since time 100."""
    rows = WaitingRows()
    rows.start(100.0)
    return rows


def test_rows_come_back_in_their_order_each_with_its_time(waiting, columns):
    waiting.add(columns(step=3, loss=[0.5, 0.25]), 101.0)
    waiting.add(columns(step=5, loss=[0.125]), 102.5)
    rows, times = waiting.together()
    assert (rows["step"].tolist(), rows["loss"].tolist()) == ([3, 4, 5], [0.5, 0.25, 0.125])
    assert times.tolist() == [101.0, 101.0, 102.5]
    assert (len(waiting), waiting.split) == (3, TRAINING)


def test_what_was_given_back_stays_when_they_are_cleared(waiting, columns):
    waiting.add(columns(loss=[0.5]), 101.0)
    rows, _ = waiting.together()
    waiting.clear(101.0)
    waiting.add(columns(loss=[0.25]), 101.0)
    assert rows["loss"].tolist() == [0.5]


def test_where_none_waits_there_is_nothing(waiting, columns):
    assert (waiting.together(), waiting.split, len(waiting)) == (None, None, 0)
    waiting.add(columns(Phase.VALIDATION, loss=[0.5]), 101.0)
    waiting.clear(101.0)
    assert (waiting.together(), waiting.split, len(waiting)) == (None, None, 0)


@pytest.mark.parametrize(
    ("now", "while_it_goes_on", "where_it_ends"),
    [(100.05, False, False), (100.15, False, True), (101.05, True, True)],
)
def test_they_are_due_after_a_second_or_a_tenth_of_one_at_a_phase_s_end(
    waiting, columns, now, while_it_goes_on, where_it_ends
):
    waiting.add(columns(loss=[0.5]), now)
    assert waiting.are_due(now) is while_it_goes_on
    assert waiting.are_due(now, phase_ended=True) is where_it_ends


def test_they_are_due_at_once_where_8192_wait(waiting, columns):
    waiting.add(columns(loss=np.zeros(8191).tolist()), 100.0)
    assert not waiting.are_due(100.0)
    waiting.add(columns(loss=[0.0]), 100.0)
    assert waiting.are_due(100.0)


def test_the_second_begins_anew_when_they_are_written(waiting, columns):
    waiting.clear(101.0)
    waiting.add(columns(loss=[0.5]), 101.5)
    assert not waiting.are_due(101.9)
    assert waiting.are_due(102.0)


def test_cut_off_between_times_and_rows_each_row_has_its_time(waiting, columns, monkeypatch):
    def interrupt(rows):
        raise KeyboardInterrupt

    waiting.add(columns(loss=[0.5]), 101.0)
    with monkeypatch.context() as patched:
        patched.setattr(Columns, "bits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            waiting.add(columns(loss=[0.25]), 102.0)
    rows, times = waiting.together()
    assert (rows["loss"].tolist(), times.tolist()) == ([0.5], [101.0])
