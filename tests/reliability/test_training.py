"""The reference run is the same each time, has all that it should, and stops where it is told to."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxloop import Event
from tests.reliability.outcomes import KEPT, differences, outcome
from tests.reliability.running import at
from tests.reliability.training import BATCHES, CALLBACKS, EPOCHS, TRACE, VALIDATION_BATCHES, Options, Trace

STEPS = [f"step {number}" for number in range(1, EPOCHS * BATCHES + 1)]


@pytest.fixture(scope="module")
def expected(train: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run with everything, one step at a time."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, Options()).expect(0)
    return outcome(folder)


def test_the_run_has_everything_that_is_to_be_compared(expected: dict[str, Any]) -> None:
    leaves = "\n".join(expected["loop"])
    for name in (
        "['norm']",
        "['dropout']",
        "ema",
        "early_stopping",
        "reduce_on_plateau",
        ".opt_state",
        ".key",
        "stats",
    ):
        assert name in leaves
    assert expected["stopped"] == "completed"
    assert len(expected["csv"]) == 1 + EPOCHS * (BATCHES + VALIDATION_BATCHES)
    assert len(expected["points"]["fit 0/train/batch/loss"]) == EPOCHS * BATCHES
    assert len(expected["points"]["fit 0/validation/epoch/loss"]) == EPOCHS
    assert sum("training row" in line for line in expected["trace"]) == EPOCHS * BATCHES
    assert sum("VALIDATION_END" in line for line in expected["trace"]) == EPOCHS
    assert not any("seconds" in name for table in expected["history"].values() for name in table)


def test_no_two_epochs_and_no_two_rates_are_alike(expected: dict[str, Any]) -> None:
    def column(table: str, name: str) -> list[float]:
        kept = expected["history"][table][name]
        return np.frombuffer(bytes.fromhex(kept["bits"]), kept["dtype"]).tolist()

    assert len(set(column("epochs", "loss"))) == EPOCHS
    assert len(set(column("batches", "loss"))) == EPOCHS * BATCHES
    assert len(set(column("batches", "learning_rate"))) == EPOCHS * BATCHES
    losses = column("epochs", "validation_loss")
    assert losses.index(min(losses)) < EPOCHS - 1  # else the best epoch would be the last, and nothing be restored


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, "auto"])
def test_two_runs_have_equal_outcomes_whatever_a_dispatch_takes(
    train: Any, tmp_path: Path, expected: dict[str, Any], steps: Any
) -> None:
    ended = train(tmp_path, Options(steps=steps)).expect(0)
    assert differences(outcome(tmp_path), expected) == []
    taken = [point for point in ended.points if point.startswith("step")]
    by_steps = {1: STEPS, 3: [f"step {7 * epoch + at}" for epoch in range(3) for at in (3, 6, 7)]}
    assert taken == by_steps.get(steps, ["step 7", "step 14", "step 21"])


@pytest.mark.slow
def test_with_stages_apart_two_runs_are_equal_too(train: Any, tmp_path: Path) -> None:
    for name in ("one", "other"):
        ended = train(tmp_path / name, Options(apart=True, callbacks=("csv",))).expect(0)
        assert [point for point in ended.points if point.startswith("step")] == STEPS
    assert differences(outcome(tmp_path / "one"), outcome(tmp_path / "other")) == []


def test_a_kill_at_a_step_leaves_it_as_the_last(train: Any, tmp_path: Path) -> None:
    ended = train(tmp_path, Options(), decide=at("step 5")).expect(-signal.SIGKILL)
    assert ended.points == STEPS[:5]
    rows = [line for line in (tmp_path / TRACE).read_text().splitlines() if "row" in line]
    assert 0 < len(rows) < 5  # the last are in flight
    assert not (tmp_path / KEPT).exists()


@pytest.mark.slow
def test_a_kill_can_be_in_validation_and_at_an_event_or_a_row(train: Any, tmp_path: Path) -> None:
    for number, point in enumerate(["validation 2 of epoch 1", "VALIDATION_START 2", "row 12"]):
        options = Options(callbacks=(), announces="all")
        ended = train(tmp_path / str(number), options, decide=at(point)).expect(-signal.SIGKILL)
        assert ended.points[-1] == point
        assert "compiled training_step" in ended.points


@pytest.mark.slow
def test_a_kill_can_be_before_or_after_a_call(train: Any, tmp_path: Path) -> None:
    calls = (("tests.reliability.outcomes:keep", "keeping"),)
    for point, is_kept in {"keeping begun": False, "keeping over": True}.items():
        options = Options(callbacks=(), announces="nothing", calls=calls)
        ended = train(tmp_path / point, options, decide=at(point)).expect(-signal.SIGKILL)
        assert ended.points[-1] == point
        assert (tmp_path / point / KEPT).exists() == is_kept


def test_sigterm_without_checkpoints_ends_the_run(train: Any, tmp_path: Path) -> None:
    ended = train(tmp_path, Options(callbacks=()), decide=at("step 5", signal.SIGTERM)).expect(-signal.SIGTERM)
    assert ended.points == STEPS[:5]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["list", "grain", "torch"])
def test_other_data_are_shuffled_alike_each_time(train: Any, tmp_path: Path, data: Any) -> None:
    if data != "list":
        pytest.importorskip(data)
    for name in ("one", "other"):
        train(tmp_path / name, Options(data=data, callbacks=("csv",), announces="nothing")).expect(0)
    one = outcome(tmp_path / "one")
    assert differences(one, outcome(tmp_path / "other")) == []
    assert len(one["csv"]) == 1 + EPOCHS * (BATCHES + VALIDATION_BATCHES)


def test_options_go_through_a_command_line() -> None:
    options = Options(steps="auto", callbacks=CALLBACKS[:2], every=3, resume=True, calls=(("json:dumps", "writing"),))
    assert Options.of(options.as_arguments(Path("folder"))[-1]) == options
    assert Options.of("{}") == Options()


def test_the_trace_is_cut_to_what_it_held_at_the_save(tmp_path: Path, view: Any) -> None:
    trace = Trace(tmp_path / TRACE)
    trace(view(stats={"loss": 1.0}), Event.FIT_START)
    state = trace.state()
    saved = (tmp_path / TRACE).read_text()
    trace(view(stats={"loss": 2.0}), Event.EPOCH_START)
    trace.close()
    resumed = Trace(tmp_path / TRACE)
    resumed.resume(view(), state)
    resumed(view(stats={"loss": 3.0}), Event.EPOCH_START)
    resumed.close()
    assert (tmp_path / TRACE).read_text() == f"{saved}EPOCH_START epoch 0 batch 0 step 0 loss 00004040\n"
