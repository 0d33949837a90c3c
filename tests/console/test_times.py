"""The seconds of phases, and those left, on a clock made of numbers."""

import json
import math

import pytest

from jaxloop.console.times import Times
from jaxloop.events import TRAINING, VALIDATION


def an_epoch(times, *, training, validation, at=0.0):
    times.begin(at)
    times.end(TRAINING, at + training)
    times.begin(at + training)
    times.end(VALIDATION, at + training + validation)
    return times.end_epoch()


def test_the_seconds_of_an_epoch_are_those_of_its_phases():
    times = Times()
    assert an_epoch(times, training=8.0, validation=2.0) == 10.0
    assert an_epoch(times, training=4.0, validation=1.0, at=50.0) == 5.0


def test_what_was_left_out_counts_nowhere():
    times = Times()
    times.begin(0.0)
    times.leave_out(3.0)
    assert times.seconds_per_batch(5.0, done=2) == 1.0
    times.end(TRAINING, 7.0)
    assert times.expected(TRAINING) == 4.0
    assert times.end_epoch() == 4.0


def test_what_is_left_out_between_phases_changes_nothing():
    times = Times()
    times.leave_out(3.0)
    assert an_epoch(times, training=8.0, validation=2.0) == 10.0


def test_a_phase_is_expected_to_take_the_mean_of_those_before():
    times = Times()
    an_epoch(times, training=8.0, validation=2.0)
    an_epoch(times, training=4.0, validation=1.0)
    assert (times.expected(TRAINING), times.expected(VALIDATION)) == (6.0, 1.5)
    assert math.isnan(Times().expected(TRAINING))


def test_in_the_first_epoch_the_time_left_follows_from_the_share_that_is_done():
    times = Times()
    times.begin(100.0)
    in_epoch, in_fit = times.left(TRAINING, 110.0, done=5, total=20, epochs_to_come=2)
    assert in_epoch == 15 * 2.0
    assert in_fit == 15 * 2.0 + 2 * 20 * 2.0


def test_in_the_first_validation_the_epochs_to_come_count_both_phases():
    times = Times()
    times.begin(0.0)
    times.end(TRAINING, 40.0)
    times.begin(40.0)
    in_epoch, in_fit = times.left(VALIDATION, 43.0, done=3, total=10, epochs_to_come=2)
    assert (in_epoch, in_fit) == (7.0, 7.0 + 2 * (40.0 + 10.0))


def test_in_later_epochs_this_phase_goes_on_at_its_own_pace_and_the_others_take_what_they_took():
    times = Times()
    an_epoch(times, training=40.0, validation=10.0)
    times.begin(100.0)
    in_epoch, in_fit = times.left(TRAINING, 101.0, done=1, total=20, epochs_to_come=3)
    assert (in_epoch, in_fit) == (19.0 + 10.0, 19.0 + 10.0 + 3 * 50.0)


def test_a_phase_seen_from_its_middle_has_the_pace_of_what_was_seen():
    times = Times()
    times.begin(100.0, batch_index=50)
    assert times.seconds_per_batch(104.0, done=52) == 2.0
    assert times.left(TRAINING, 104.0, done=52, total=60, epochs_to_come=0) == (16.0, 16.0)


@pytest.mark.parametrize("begun", [False, True])
def test_before_a_batch_is_done_nothing_is_known(begun):
    times = Times()
    if begun:
        times.begin(0.0)
    assert math.isnan(times.seconds_per_batch(1.0, done=0))
    assert all(map(math.isnan, times.left(TRAINING, 1.0, done=0, total=0, epochs_to_come=1)))


def test_in_the_last_validation_of_a_fit_whose_training_was_not_seen_the_rest_is_known():
    times = Times()
    times.begin(0.0)
    assert times.left(VALIDATION, 3.0, done=3, total=10, epochs_to_come=0) == (7.0, 7.0)
    in_epoch, in_fit = times.left(VALIDATION, 3.0, done=3, total=10, epochs_to_come=1)
    assert in_epoch == 7.0
    assert math.isnan(in_fit)


def test_a_phase_whose_beginning_was_not_seen_has_no_seconds():
    times = Times()
    times.end(TRAINING, 5.0)
    assert math.isnan(times.end_epoch())
    assert an_epoch(times, training=8.0, validation=2.0) == 10.0
    assert times.expected(TRAINING) == 8.0


def test_times_go_on_in_another_process_without_the_time_between():
    one, other = Times(), Times()
    an_epoch(one, training=8.0, validation=2.0)
    one.begin(20.0, 3)
    one.leave_out(1.0)
    other.resume(json.loads(json.dumps(one.state(25.0), allow_nan=False)), 1000.0)
    assert other.seconds_per_batch(1002.0, done=5) == one.seconds_per_batch(27.0, done=5) == 3.0
    left = {"done": 5, "total": 9, "epochs_to_come": 2}
    assert other.left(TRAINING, 1002.0, **left) == one.left(TRAINING, 27.0, **left)
    other.end(TRAINING, 1002.0)
    assert other.end_epoch() == 6.0
    assert other.expected(TRAINING) == 7.0


def test_times_that_are_not_known_are_not_known_in_another_process_either():
    one, other = Times(), Times()
    one.end(TRAINING, 5.0)
    other.resume(json.loads(json.dumps(one.state(9.0), allow_nan=False)), 0.0)
    assert math.isnan(other.seconds_per_batch(4.0, done=2))
    assert math.isnan(other.expected(TRAINING))
    assert math.isnan(other.end_epoch())
