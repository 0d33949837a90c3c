"""A run that is killed anywhere and resumed is, bit for bit, the one that was not."""

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from tests.reliability.outcomes import differences, outcome
from tests.reliability.running import at
from tests.reliability.training import Options

pytestmark = pytest.mark.skipif(not hasattr(jl.callbacks, "Checkpoint"), reason="there are no checkpoints yet")


def survived(train: Any, folder: Path, options: Options, kills: Sequence[str]) -> dict[str, Any]:
    """The outcome of a run that is killed at one point after the other, and resumed each time."""
    for number, point in enumerate(kills):
        resumed = dataclasses.replace(options, resume=number > 0)
        train(folder, resumed, decide=at(point)).expect(-signal.SIGKILL)
    train(folder, dataclasses.replace(options, resume=True)).expect(0)
    return outcome(folder)


@pytest.fixture(scope="module")
def expected(train: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of the run that was never killed, and saved nothing."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, Options()).expect(0)
    return outcome(folder)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(["step 2"], id="step 2"),
        pytest.param(["validation 2 of epoch 1"], id="validation", marks=pytest.mark.slow),
        pytest.param(["step 9", "step 16"], id="twice", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    train: Any, tmp_path: Path, expected: dict[str, Any], kills: list[str]
) -> None:
    assert differences(survived(train, tmp_path, Options(every=1), kills), expected) == []


@pytest.mark.slow
def test_sigterm_saves_and_ends_the_fit(train: Any, tmp_path: Path, expected: dict[str, Any]) -> None:
    options = Options(every="epoch")
    ended = train(tmp_path, options, decide=at("step 5", signal.SIGTERM)).expect(0)
    assert outcome(tmp_path)["stopped"] == "preempted"
    assert ended.points[-1] == "step 5"
    assert differences(survived(train, tmp_path, options, []), expected) == []
