"""What the console says, in how many columns."""

import dataclasses
import math

import pytest

from jaxloop.console.lines import (
    EpochRow,
    Moment,
    bar_line,
    duration,
    epoch_line,
    moment_line,
    number,
    short,
    table_lines,
)
from jaxloop.events import TRAINING, VALIDATION, Split

MOMENT = Moment(
    split=TRAINING,
    epoch_index=2,
    epoch_count=12,
    done=59,
    total=118,
    measured={"loss": 0.48191, "accuracy": 0.85},
    learning_rate=3e-4,
    examples_per_second=12_345.0,
    epoch_left=7.0,
    fit_left=185.0,
)
ROW = EpochRow(
    epoch_index=2,
    epoch_count=12,
    seconds=3.14159,
    metrics=("loss", "accuracy"),
    measured={"loss": 0.48191, "accuracy": 0.85, "validation_loss": 0.152, "validation_accuracy": 0.9521},
    validated=(VALIDATION,),
    best=True,
    learning_rate=0.01,
    examples_per_second=12_345.0,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.48191, "0.4819"),
        (1.0, "1.000"),
        (12.3456, "12.35"),
        (9999.6, "10000"),
        (12345.6, "12346"),
        (99999.6, "1.000e5"),
        (123456.0, "1.235e5"),
        (0.00123456, "0.001235"),
        (0.00012, "1.200e-4"),
        (-0.5, "-0.5000"),
        (3.4e38, "3.400e38"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_has_four_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize("power", range(-9, 10))
def test_a_number_is_at_most_eight_columns_wide(power):
    assert len(number(9.87654321 * 10.0**power)) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01, "0.01"), (3e-4, "3e-4"), (100.0, "100"), (0.0, "0"), (0.0037812, "0.003781"), (math.inf, "inf")],
)
def test_a_short_number_ends_with_its_last_digit_that_counts(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (65, "1:05"),
        (3599.7, "1:00:00"),
        (3723, "1:02:03"),
        (86_399, "23:59:59"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_is_given_as_people_give_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            140,
            "Epoch  3/12 |███████████████               |  59/118, loss 0.4819, accuracy 0.8500, lr 3e-4, "
            "12.3k examples/s, 3:05 left (7 s in epoch)",
        ),
        (
            119,
            "Epoch  3/12 |███████       |  59/118, loss 0.4819, accuracy 0.8500, lr 3e-4, 12.3k examples/s, "
            "3:05 left (7 s in epoch)",
        ),
        (79, "Epoch  3/12 |████████        |  59/118, loss 0.4819, accuracy 0.8500, 3:05 left"),
        (59, "Epoch  3/12 |██████▌      |  59/118, loss 0.4819, 3:05 left"),
        (39, "Epoch  3/12 |██  |  59/118, loss 0.4819"),
        (34, "Epoch  3/12  59/118, loss 0.4819"),
        (19, "Epoch  3/12  59/118"),
        (5, "Epoch"),
    ],
)
def test_a_bar_leaves_out_first_what_matters_least(width, line):
    assert bar_line(MOMENT, width) == line


@pytest.mark.parametrize("width", range(1, 160))
def test_a_bar_is_never_wider_than_there_is_room(width):
    assert len(bar_line(MOMENT, width)) <= width


def test_a_bar_of_validation_says_so_after_the_epoch_and_has_no_learning_rate():
    moment = dataclasses.replace(MOMENT, split=VALIDATION, done=118)
    assert bar_line(moment, 140).startswith(
        "Epoch  3/12 validation |" + "█" * 30 + "| 118/118, loss 0.4819, accuracy 0.8500, 12.3k"
    )


def test_a_bar_over_a_set_of_validation_names_it():
    moment = dataclasses.replace(MOMENT, split=Split.named("in_domain"))
    assert bar_line(moment, 140).startswith("Epoch  3/12 in_domain |")


def test_a_bar_of_validation_leaves_the_epoch_out_where_room_is_short():
    moment = dataclasses.replace(MOMENT, split=VALIDATION)
    assert bar_line(moment, 43).startswith(" validation |")
    assert all(len(bar_line(moment, width)) <= width for width in range(1, 160))


@pytest.mark.parametrize(("done", "drawn"), [(0, ""), (1, "█▉"), (8, "███████████████"), (16, "█" * 30)])
def test_a_bar_is_drawn_in_eighths_of_a_column(done, drawn):
    moment = dataclasses.replace(MOMENT, done=done, total=16)
    assert f"|{drawn:30}|" in bar_line(moment, 140)


def test_a_bar_can_be_drawn_in_ascii():
    line = bar_line(MOMENT, 140, ascii=True)
    assert f"|{'#' * 15:30}|" in line
    assert line.isascii()


def test_a_bar_without_batches_or_measurements_shows_the_place_alone():
    moment = Moment(TRAINING, epoch_index=0, epoch_count=1, done=0, total=0, measured={})
    assert bar_line(moment, 79) == f" Epoch 1/1 |{'':30}| 0/0"


def test_in_the_last_epoch_the_time_left_is_said_once():
    moment = dataclasses.replace(MOMENT, epoch_index=11, fit_left=7.0)
    assert bar_line(moment, 140).endswith("examples/s, 7 s left")


def test_metrics_are_left_out_from_the_last_one_on():
    moment = dataclasses.replace(MOMENT, measured={f"metric{index}": 0.5 for index in range(20)})
    line = bar_line(moment, 119)
    assert line.endswith(", metric0 0.5000, metric1 0.5000, metric2 0.5000, metric3 0.5000, 3:05 left")
    assert len(line) <= 119


def test_a_moment_in_a_log_is_one_line_with_everything():
    assert moment_line(MOMENT) == (
        "Epoch  3/12 training 59/118 batches - loss 0.4819, accuracy 0.8500, learning_rate 3e-4, 12.3k examples/s, "
        "3:05 left (7 s in epoch)"
    )


def test_a_moment_of_which_nothing_is_known_is_its_place():
    moment = Moment(VALIDATION, epoch_index=0, epoch_count=3, done=1, total=7, measured={})
    assert moment_line(moment) == "Epoch 1/3 validation 1/7 batches"


def test_an_epoch_in_a_log_is_one_line_of_names_and_numbers():
    assert epoch_line(ROW) == (
        "Epoch  3/12 in 3.14 s - loss 0.4819, validation_loss 0.1520, accuracy 0.8500, validation_accuracy 0.9521, "
        "learning_rate 0.01, best"
    )


def test_an_epoch_in_a_log_holds_only_what_is_known():
    row = dataclasses.replace(ROW, seconds=math.nan, measured={"loss": math.nan}, best=False, learning_rate=math.nan)
    assert epoch_line(row) == "Epoch  3/12 - loss nan"
    assert epoch_line(dataclasses.replace(row, measured={})) == "Epoch  3/12"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            99,
            (
                "epoch  seconds      loss  validation  accuracy  validation  learning_rate  examples/s  best",
                " 3/12     3.14    0.4819      0.1520    0.8500      0.9521           0.01       12.3k     *",
            ),
        ),
        (
            79,
            (
                "epoch  seconds      loss  validation  accuracy  validation  learning_rate  best",
                " 3/12     3.14    0.4819      0.1520    0.8500      0.9521           0.01     *",
            ),
        ),
        (
            59,
            (
                "epoch      loss  validation  accuracy  validation  best",
                " 3/12    0.4819      0.1520    0.8500      0.9521     *",
            ),
        ),
        (
            39,
            (
                "epoch      loss  validation  best",
                " 3/12    0.4819      0.1520     *",
            ),
        ),
        (29, ("epoch      loss  validation", " 3/12    0.4819      0.1520")),
        (9, ("epoch", " 3/12")),
        (3, ("epo", " 3/")),
    ],
)
def test_a_table_leaves_out_first_what_matters_least(width, lines):
    assert table_lines(ROW, width) == lines


def test_without_validation_a_metric_has_one_column():
    row = dataclasses.replace(ROW, validated=(), best=False)
    assert table_lines(row, 79) == (
        "epoch  seconds      loss  accuracy  learning_rate  examples/s  best",
        " 3/12     3.14    0.4819    0.8500           0.01       12.3k",
    )


def test_what_an_epoch_has_not_measured_is_a_dash_and_nan_is_nan():
    row = dataclasses.replace(
        ROW, measured={"loss": math.nan, "accuracy": 0.5}, seconds=math.nan, examples_per_second=math.nan, best=False
    )
    assert table_lines(row, 99)[1] == (
        " 3/12        -       nan           -    0.5000           -           0.01           -"
    )


def test_an_unknown_learning_rate_has_no_column():
    row = dataclasses.replace(ROW, learning_rate=math.nan)
    assert "learning_rate" not in table_lines(row, 119)[0]


def test_numbers_of_every_size_stand_under_the_same_header():
    values = [1e-7, 0.001234, 1.0, 12345.0, 1e5, 3e30, -1.234e-12]
    rows = [dataclasses.replace(ROW, measured=dict.fromkeys(ROW.measured, value)) for value in values]
    headers, lines = zip(*(table_lines(row, 99) for row in rows), strict=True)
    assert len(set(headers)) == 1
    assert {len(line) for line in lines} == {len(headers[0])}


def test_columns_are_as_wide_in_the_first_epoch_as_in_the_last():
    widths = {
        len(table_lines(dataclasses.replace(ROW, epoch_index=index, epoch_count=1000), 99)[1]) for index in (0, 99, 999)
    }
    assert len(widths) == 1


def test_a_long_name_is_cut_and_a_wide_list_of_metrics_is_left_out_from_the_last_one_on():
    names = ("loss", "matthews_correlation_coefficient", "top5_accuracy", "perplexity")
    row = dataclasses.replace(ROW, metrics=names, measured=dict.fromkeys(names, 0.5))
    assert table_lines(row, 99)[0] == (
        "epoch  seconds      loss  validation  matthews_correl.  validation  top5_accuracy  validation  best"
    )


@pytest.mark.parametrize("width", range(1, 140))
def test_a_table_is_never_wider_than_there_is_room(width):
    assert max(map(len, table_lines(ROW, width))) <= width


def test_the_rates_of_groups_are_told_each_by_its_name() -> None:
    rates = {"body": 1e-4, "head": 0.01}
    moment = dataclasses.replace(MOMENT, learning_rate=math.nan, group_rates=rates)
    row = dataclasses.replace(ROW, learning_rate=math.nan, group_rates=rates)
    assert ", lr/body 1e-4, lr/head 0.01, " in bar_line(moment, 200)
    assert "learning_rate/body 1e-4, learning_rate/head 0.01, " in moment_line(moment)
    assert ", learning_rate/body 1e-4, learning_rate/head 0.01, best" in epoch_line(row)
    header, cells = table_lines(row, 200)
    assert header.split()[-4:] == ["learning_rate/body", "learning_rate/head", "examples/s", "best"]
    assert cells.split()[-4:-2] == ["1e-4", "0.01"]
    assert "lr/" not in bar_line(dataclasses.replace(moment, split=VALIDATION), 200)
    assert len(bar_line(moment, 40)) <= 40
