"""The benchmark command runs, compares like with like, and does its arithmetic right."""

import json
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from benchmarks.__main__ import chosen_for, main, present
from benchmarks.contestants import CONTESTANTS, REFERENCE, Contestant, Outcome
from benchmarks.measuring import check_same, ratios, take_turns
from benchmarks.networks import ResNet, resnet_20, resnet_50
from benchmarks.report import COLUMNS, rows_of, table
from benchmarks.turns import Worker, timed, turn_in_new_process
from benchmarks.workloads import WORKLOADS
from jaxloop.benchmarking.measurement import Quartiles

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all

BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


def tiny(workload, steps=2):
    return WORKLOADS[workload]().shortened(steps)


def trained(contestant, workload, epochs=1):
    return BY_NAME[contestant].prepare(workload, epochs)()


def test_the_command_prints_the_columns_asked_for_and_keeps_every_turn(tmp_path, capsys):
    options = ["--iterations", "1", "--warmup-iterations", "1", "--epochs", "1", "--steps", "2"]
    columns = "contestant,ratio,steps_per_second"

    main([*options, "--filter", "W1/fit_1$", "--columns", columns, "--json", str(tmp_path / "measured.json")])

    printed = capsys.readouterr().out.splitlines()
    kept = json.loads((tmp_path / "measured.json").read_text())
    assert [cell.strip() for cell in printed[1].split("|")[1:-1]] == ["contestant", "x by_hand", "steps/s"]
    assert [row["contestant"] for row in kept["rows"]] == [REFERENCE, "fit_1"]
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in kept["rows"])
    assert kept["machine"]["cpu_count"] >= 1
    assert kept["settings"] == {"iterations": 1, "warmup_iterations": 1, "epochs": 1, "steps": 2, "cold": None}


def test_turns_in_new_processes_are_told_in_seconds(capsys):
    options = ["--iterations", "1", "--warmup-iterations", "0", "--epochs", "1", "--steps", "2"]

    rows = main([*options, "--filter", "W1/fit_1$", "--cold", "compiled"])

    titles = [cell.strip() for cell in capsys.readouterr().out.splitlines()[1].split("|")[1:-1]]
    assert titles == ["workload", "contestant", "seconds", "x by_hand", "x another"]
    assert [row.contestant for row in rows] == [REFERENCE, "fit_1"]


def test_what_one_process_has_compiled_the_next_takes_from_the_cache(tmp_path):
    workload, found = tiny("W1"), []
    for _ in range(2):
        maker = partial(Worker, BY_NAME["fit_1"], workload, epochs=1, steps=2, compile_cache=tmp_path)
        turn_in_new_process(maker)
        found.append(sorted(path.name for path in tmp_path.glob("*-cache")))
    assert any("training_step" in name for name in found[0])
    assert found[1] == found[0]


@pytest.mark.parametrize(
    ("workload", "contestant", "steps"),
    [
        ("W1", "scan_32", 34),
        ("W1", "fit_32_logged", 34),
        ("W1", "nnx", 2),
        pytest.param(*("W1", "nnx_cached", 2), marks=pytest.mark.exhaustive),
        pytest.param(*("W2", "fit_1", 2), marks=pytest.mark.exhaustive),
        pytest.param(*("W2", "unrolled_8", 2), marks=pytest.mark.exhaustive),
        pytest.param(*("W2", "nnx", 2), marks=pytest.mark.exhaustive),
        ("LeNet", "fit_auto", 2),
        pytest.param(*("Transformer", "fit_32", 2), marks=pytest.mark.exhaustive),
    ],
)
def test_contestants_train_as_the_loop_by_hand_does_in_every_turn(workload, contestant, steps):
    workload = tiny(workload, steps)
    reference = trained(REFERENCE, workload, epochs=2)
    turn = BY_NAME[contestant].prepare(workload, 2)

    for _ in range(2):
        check_same(BY_NAME[contestant], turn(), reference, workload)


@pytest.mark.exhaustive
@pytest.mark.parametrize("contestant", ["fit_1", "unrolled_8", "nnx"])
def test_residual_networks_are_trained_alike(contestant):
    workload = tiny("W3")

    check_same(BY_NAME[contestant], trained(contestant, workload), trained(REFERENCE, workload), workload)


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["W1", "W2", "W3"])
@pytest.mark.parametrize("contestant", ["keras", "torch", "lightning"])
def test_other_libraries_train_as_the_loop_by_hand_does(workload, contestant):
    if BY_NAME[contestant].missing:
        pytest.skip("needs the extra `bench`")
    workload = tiny(workload)
    worker = Worker(BY_NAME[contestant], workload, epochs=2, steps=2)
    try:
        worker.ready()
        check_same(BY_NAME[contestant], worker.turn()[1], trained(REFERENCE, workload, epochs=2), workload)
    finally:
        worker.close()


@pytest.mark.parametrize(("network", "parameters"), [(resnet_20(), 269_722 + 2_752), (resnet_50(), 23_528_522)])
def test_residual_networks_have_as_many_parameters_as_published(network: ResNet, parameters):
    """ResNet-20: 269,722 without projections, and two of these; ResNet-50: torchvision's, with ten classes."""
    params, state = network.variables()

    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    image = np.zeros((2, 64, 64, 3), np.float32)
    logits, after = jax.eval_shape(lambda: network(params, state, image, training=True, key=None))
    assert logits.shape == (2, 10)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_worker_takes_turns_in_a_process_of_its_own_and_tells_its_parameters_once():
    workload = tiny("W1")
    worker = Worker(BY_NAME[REFERENCE], workload, epochs=1, steps=2)
    try:
        worker.ready()
        seconds, first = worker.turn()
        _, second = worker.turn()
    finally:
        worker.close()

    here = trained(REFERENCE, workload)
    assert seconds > 0
    check_same(BY_NAME[REFERENCE], first, here, workload)
    assert first.params is not None
    assert second.params is None
    np.testing.assert_array_equal(second.loss, first.loss)


def test_a_worker_that_fails_says_why():
    worker = Worker(replace(BY_NAME[REFERENCE], name="nobody"), tiny("W1"), epochs=1, steps=2)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)W1/nobody: its process has ended with status 1:.*StopIteration"):
            worker.ready()
    finally:
        worker.close()


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


def test_who_needs_what_is_not_installed_is_left_out_and_that_is_said(capsys):
    stranger = replace(BY_NAME["keras"], needs=("no_such_package",))

    assert present([BY_NAME[REFERENCE], stranger]) == [BY_NAME[REFERENCE]]
    assert "keras is left out: no no_such_package. pip install '.[bench]'" in capsys.readouterr().err


def test_every_rival_takes_part_wherever_it_is_compared_with():
    for contestant in CONTESTANTS:
        if contestant.rival is not None:
            assert set(contestant.workloads) <= set(BY_NAME[contestant.rival].workloads)


def test_naming_the_contestants_imports_none_of_their_libraries():
    assert not {"keras", "torch", "lightning"} & set(sys.modules)


def test_ratios_are_taken_within_each_iteration():
    assert ratios([3.0, 10.0, 4.0], [2.0, 20.0, 1.0]) == [1.5, 0.5, 4.0]


def test_a_row_has_microseconds_per_step_and_the_median_of_the_ratios_not_the_ratio_of_medians():
    contestants = [Contestant(REFERENCE, ""), Contestant("other", ""), Contestant("third", "", rival="other")]
    seconds = {REFERENCE: [1.0, 2.0, 4.0], "other": [3.0, 2.0, 2.0], "third": [6.0, 6.0, 2.0]}
    workload = replace(tiny("W1", 500), name="W0")

    _, other, third = rows_of(workload, contestants, seconds, epochs=2)

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


def test_every_column_is_computed_from_the_row():
    seconds = {REFERENCE: [1.0, 2.0, 3.0]}
    (row,) = rows_of(tiny("W1", 500), [BY_NAME[REFERENCE]], seconds, epochs=2)

    assert {name: cell(row) for name, (_, cell) in COLUMNS.items()} == {
        "workload": "W1",
        "contestant": "by_hand",
        "seconds": "2.000 [1.500, 2.500]",
        "time": "2000 [1500, 2500]",
        "ratio": "1.00 [1.00, 1.00]",
        "rival": "",
        "fastest": "1000.0",
        "deviation": "40.8%",  # sqrt(2/3) of 2
        "steps_per_second": "500",
        "examples_per_second": "16000",
        "steps": "1000",
        "iterations": "3",
    }


def test_a_column_that_there_is_not_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["--columns", "contestant,beauty"])

    assert "there is no column 'beauty'; there are workload, contestant, time" in capsys.readouterr().err


def test_contestants_take_turns_and_only_iterations_behind_the_warm_up_count():
    workload = tiny("W1")
    outcome = Outcome(workload.model.params, np.zeros(1), np.zeros(1))
    called = []

    def noted(name):
        def turn():
            called.append(name)
            return len(called), outcome

        return turn

    turns = {BY_NAME[REFERENCE]: noted("a"), BY_NAME["fit_1"]: noted("b")}
    seconds = take_turns(turns, workload, iterations=2, warmup_iterations=1)

    assert called == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {REFERENCE: [4, 5], "fit_1": [3, 6]}


def test_a_turn_is_timed_until_its_parameters_are_there():
    outcome = Outcome(None, np.zeros(1), np.zeros(1))

    seconds, same = timed(lambda: outcome)

    assert seconds >= 0
    assert same is outcome


def test_who_trains_something_else_is_refused():
    workload = tiny("W1")
    honest = trained(REFERENCE, workload)
    slower = trained(REFERENCE, workload.shortened(1))
    lazy = replace(BY_NAME["fit_1"], name="lazy")

    check_same(lazy, honest, honest, workload)
    with pytest.raises(ValueError, match=r"W1/lazy: it must train as by_hand does.*Give it the same data"):
        check_same(lazy, replace(honest, params=slower.params), honest, workload)
    with pytest.raises(ValueError, match=r"W1/lazy: .*loss or accuracy nan"):
        check_same(lazy, replace(honest, accuracy=np.array([np.nan])), honest, workload)
    with pytest.raises(ValueError, match=r"up to 1e-03, .*loss or accuracy 1\.0e-02"):
        check_same(lazy, replace(honest, loss=honest.loss + 0.01), honest, workload)
    check_same(replace(lazy, tolerance=2e-2), replace(honest, loss=honest.loss + 0.01), honest, workload)


def test_a_number_of_iterations_below_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--iterations", "0"])

    assert "it must be at least 1, got 0" in capsys.readouterr().err
