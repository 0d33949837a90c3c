"""The benchmark of saves measures each of them, and does its arithmetic right."""

import json

import pytest

from benchmarks.saving import SIZES, Costs, main, said, table
from jaxloop.checkpoint import writer
from jaxloop.engine.saving import Saves

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


def test_the_command_measures_each_save_and_turn_and_keeps_the_times(tmp_path, capsys):
    options = ["--sizes", "1", "--saves", "3", "--interval", "0.3", "--size", "1", "--turns", "2", "--seconds", "0.5"]

    main([*options, "--directory", str(tmp_path), "--json", str(tmp_path / "measured.json")])

    printed = capsys.readouterr().out
    kept = json.loads((tmp_path / "measured.json").read_text())
    costs = Costs(**kept["saves"]["1"])
    assert "1 MB of parameters, saved every 0.3 s" in printed
    assert "| the 2 others " in printed
    assert len(costs.blocked) == len(costs.commits) == 3
    assert all(seconds > 0 for times in (costs.steps, costs.blocked, costs.commits) for seconds in times)
    assert len(kept["slow_down"]["with"]) == len(kept["slow_down"]["without"]) == 2
    assert kept["slow_down"]["interval"] == 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]


def test_the_first_save_is_told_apart_from_the_others():
    costs = Costs([0.001, 0.003], [0.5, 0.1, 0.2], [0.9, 0.01, 0.03], [0.4, 0.002, 0.002], [2.0, 0.5, 0.7])

    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(costs).splitlines()] == [
        ["ms", "first save", "the 2 others", "least"],
        ["-" * 30, "-" * 10, "-" * 20, "-" * 5],
        ["a step without a save", "", "2.0 [1.5, 2.5]", "1.0"],
        ["until the step at hand is over", "500.0", "150.0 [125.0, 175.0]", "100.0"],
        ["training thread, per save", "900.0", "20.0 [15.0, 25.0]", "10.0"],
        ["of that, its processor time", "400.0", "2.0 [2.0, 2.0]", "2.0"],
        ["until the commit", "2000.0", "600.0 [550.0, 650.0]", "500.0"],
    ]


def test_the_slow_down_is_scaled_to_a_save_every_30_seconds():
    assert said(50, 3.0, [11.0, 12.0, 10.6], [10.0, 10.0, 10.0]) == (
        "50 MB, saved every 3 s: 1.100 [1.080, 1.150] of the time without, in 3 turns of 10.0 s; by the fastest of "
        "each 1.060. So a save costs 300 ms of training, and a run that saves every 30 s takes 1.0100 of the time"
    )


def test_what_it_times_is_what_the_engine_calls():
    assert all(callable(getattr(Saves, name)) for name in ("are_due", "at"))
    assert callable(writer.commit)
    assert set(SIZES) == {1, 50, 500}
