"""The benchmark command runs, compares like with like, and does its arithmetic right."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.__main__ import chosen_for, main
from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant, by_hand
from benchmarks.measuring import Quartiles, check_same, ratios, take_turns
from benchmarks.report import rows_of, table
from benchmarks.workloads import WORKLOADS

TINY = ["--rounds", "1", "--warmup-rounds", "1", "--epochs", "1", "--steps", "34"]


def test_the_command_prints_a_row_for_each_contestant_and_keeps_every_turn(tmp_path, capsys):
    main([*TINY, "--filter", "W1", "--json", str(tmp_path / "measured.json")])

    printed = capsys.readouterr().out
    kept = json.loads((tmp_path / "measured.json").read_text())
    expected = [REFERENCE, "scan_32", "fit_1", "fit_1_logged", "fit_32", "fit_32_logged"]
    assert [row["contestant"] for row in kept["rows"]] == expected
    assert all(f"| {name} " in printed for name in expected)
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in kept["rows"])
    assert kept["machine"]["cpu_count"] >= 1
    assert kept["settings"] == {"rounds": 1, "warmup_rounds": 1, "epochs": 1, "steps": 34}


@pytest.mark.parametrize("workload", ["W2", "W3"])
def test_fit_trains_the_convolutional_workloads_as_the_loop_by_hand_does(workload):
    tiny = [*TINY[:-1], "2"]

    rows = main([*tiny, "--filter", f"{workload}/fit_1$"])  # which raises where the parameters differ

    assert [row.contestant for row in rows] == [REFERENCE, "fit_1"]


def test_a_filter_chooses_by_workload_and_contestant_and_brings_the_reference():
    names = [contestant.name for contestant in chosen_for("W1", "W1/fit_32$")]

    assert names == [REFERENCE, "fit_32"]
    assert chosen_for("W2", "W1/fit_32$") == []


def test_a_filter_that_matches_nothing_lists_what_there_is(capsys):
    with pytest.raises(SystemExit):
        main(["--filter", "W9"])

    message = capsys.readouterr().err
    assert "'W9' matches none of" in message
    assert "W3/fit_1_logged" in message
    assert "W3/scan_32" not in message


def test_every_rival_takes_part_wherever_it_is_compared_with():
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}

    for contestant in CONTESTANTS:
        if contestant.rival is not None:
            assert set(contestant.workloads) <= set(by_name[contestant.rival].workloads)


def test_ratios_are_taken_within_each_round():
    assert ratios([3.0, 10.0, 4.0], [2.0, 20.0, 1.0]) == [1.5, 0.5, 4.0]


def test_a_row_has_microseconds_per_step_and_the_median_of_the_ratios_not_the_ratio_of_medians():
    contestants = [Contestant(REFERENCE, by_hand), Contestant("other", by_hand), Contestant("third", by_hand)]
    contestants[2] = replace(contestants[2], rival="other")
    seconds = {REFERENCE: [1.0, 2.0, 4.0], "other": [3.0, 2.0, 2.0], "third": [6.0, 6.0, 2.0]}

    _, other, third = rows_of("W0", contestants, seconds, step_count=1000)

    assert other.microseconds == Quartiles(2000.0, 2000.0, 2500.0)
    assert other.ratio == Quartiles(0.75, 1.0, 2.0)  # of 0.5, 1 and 3
    assert other.rival_ratio is None
    assert third.rival_ratio == Quartiles(1.5, 2.0, 2.5)  # of 2, 3 and 1
    assert table([third]).splitlines()[2].split("|")[1:-1] == [
        " W0       ",
        " third      ",
        " 6000 [4000, 6000] ",
        " 3.00 [1.75, 4.50] ",
        " 2.00 [1.50, 2.50] of other ",
    ]


def test_contestants_take_turns_and_only_rounds_behind_the_warm_up_count():
    workload = WORKLOADS["W1"]().shortened(2)
    turn = by_hand(workload, 1)
    called = []

    def noted(name):
        def noted_turn():
            called.append(name)
            return turn()

        return noted_turn

    seconds = take_turns({REFERENCE: noted("a"), "b": noted("b")}, workload, rounds=2, warmup_rounds=1)

    assert called == ["a", "b", "b", "a", "a", "b"]
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_who_trains_something_else_is_refused():
    workload = WORKLOADS["W1"]().shortened(2)
    honest = by_hand(workload, 1)()
    slower = by_hand(workload.shortened(1), 1)()

    check_same("honest", honest, honest, workload)
    with pytest.raises(ValueError, match=r"W1/lazy: it must train as by_hand does.*Give it the same data"):
        check_same("lazy", replace(honest, params=slower.params), honest, workload)
    with pytest.raises(ValueError, match=r"W1/blind: .*loss or accuracy nan"):
        check_same("blind", replace(honest, accuracy=np.array([np.nan])), honest, workload)


def test_a_number_of_rounds_below_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])

    assert "it must be at least 1, got 0" in capsys.readouterr().err
