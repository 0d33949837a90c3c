"""A run that is killed again and again, wherever it is, ends as the run that was never killed."""

from pathlib import Path
from typing import Any

import pytest

from tests.reliability.chains import AT_A_RESUME, ELSEWHERE, IN_A_SAVE, End, chained, ends
from tests.reliability.outcomes import abandoned, differences, outcome
from tests.reliability.training import Options

#: Before anything is saved.
AT_THE_START = (End("FIT_START"), End("compiling begun"), End("EPOCH_START 1"), End("merging arrays over"))
#: At the end of the fit, within its last save, and after that: the run is over then.
AT_THE_END = (End("FIT_END"), End("syncing over", after="FIT_END"), End("committing over", after="FIT_END"))


def assert_equals(folder: Path, expected: dict[str, Any]) -> None:
    """What a killed run has left equals the uninterrupted run, and what it left before its first save is part of it."""
    assert differences(outcome(folder), expected) == []
    for points in abandoned(folder):
        for name, found in points.items():
            assert found == expected["points"][f"fit 0/{name}"][: len(found)], name
    assert [path.name for path in (folder / "checkpoints").iterdir() if path.suffix in (".writing", ".removing")] == []


@pytest.mark.slow
def test_a_run_that_is_killed_in_saves_logs_and_resumes_equals_the_one_that_was_not(
    train: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    kills = (
        End("merging arrays begun", 2),
        End("cutting rows over"),
        End("syncing over", 2),
        End("writing rows begun", 2),
        End("removing begun"),
    )
    chained(train, tmp_path, Options(every=1), kills)
    assert_equals(tmp_path, uninterrupted(Options()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "epochs", "patience"), [pytest.param(1, 30, 7, marks=pytest.mark.exhaustive), ("auto", 90, 8)]
)
def test_fifty_kills_in_one_chain_change_nothing(
    train: Any, uninterrupted: Any, tmp_path: Path, steps: Any, epochs: int, patience: int
) -> None:
    points = (*IN_A_SAVE, *AT_A_RESUME, *ELSEWHERE)
    kills = ends(50 - len(AT_THE_START) - len(AT_THE_END), points, seed=17, patience=patience)
    whole = [*(End(end.point) for end in AT_THE_START), *kills]
    whole += [End(end.point, after=end.after) for end in AT_THE_END]
    options = Options(steps=steps, epochs=epochs)
    last = chained(train, tmp_path, Options(steps=steps, epochs=epochs, every=1), whole)
    assert len(whole) == 50
    assert not any(point.startswith("step") for point in last.points)  # it was over: nothing was trained
    missed = [end for end in kills if not end.is_at(str(end.met))]
    assert len(missed) <= 5, missed  # where the patience ended first
    assert_equals(tmp_path, uninterrupted(options))
