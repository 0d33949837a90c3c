"""Runs go on in another process, which is told all that it needs and tells what came of it."""

import os
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxloop.testing import fresh
from jaxloop.testing.differing import differences
from jaxloop.testing.fresh import FreshProcess, Resume, resume_all
from jaxloop.testing.making import maker_of
from jaxloop.testing.running import Runs
from jaxloop.testing.training import Training, small_model, small_training_loop
from tests.testing import candidates

TRAINING = Training(small_training_loop, small_model, 1, reusable=True)


def tell_process(folder: Path) -> Any:
    """Makes a callback that keeps in an attribute in which process it is."""
    counting = candidates.CountingOn(folder)
    counting.process = os.getpid()  # type: ignore[attr-defined]
    counting.wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return counting


@pytest.mark.slow
def test_the_runs_go_on_in_one_other_process_and_equal_those_of_this(tmp_path: Path) -> None:
    runs = Runs(maker_of(tell_process), TRAINING, 3, tmp_path)
    whole = runs.whole()
    _, places = runs.saved()
    resumes = [Resume(places[1]), Resume(places[4], grown=True), Resume(places[2], twice=True)]
    process = FreshProcess(tell_process, TRAINING, 3, tmp_path, resumes)
    results = process.results()
    process.end()
    assert [result.error for result in results] == ["", "", ""]
    outcomes = [result.outcome for result in results if result.outcome is not None]
    assert all(differences(whole, outcome, unsteady=["CountingOn: process"]) == [] for outcome in outcomes)
    numbers = {outcome.attributes["CountingOn: process"] for outcome in outcomes}
    assert len(numbers) == 1
    assert os.getpid() not in numbers
    assert results[0].where == "epoch 1 of 1, training batch 3 of 4, its files as at the save"
    assert results[1].where == "epoch 1 of 1, validation batch 3 of 4, its files as at the end of the run"
    assert "; and a second time at epoch 1 of 1, " in results[2].where


def test_a_run_that_fails_tells_how_and_the_others_go_on(tmp_path: Path) -> None:
    class Failing(candidates.CountingOn):
        def resume(self, loop: Any, state: dict[str, Any]) -> None:
            if state["count"] > 0:
                raise KeyError("lost")

    runs = Runs(maker_of(Failing), TRAINING, 3, tmp_path)
    _, places = runs.saved()
    first, last = resume_all(runs, [Resume(places[0]), Resume(places[-1])])
    assert first.outcome is not None
    assert last.outcome is None
    assert last.error.startswith("KeyError: 'lost'\njaxloop: while callback 'Failing' went on from its saved state")


def test_a_process_that_fails_as_a_whole_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "known_as", lambda given: "no_such_module:make")
    process = FreshProcess(candidates.csv, TRAINING, 1, tmp_path, [])
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1, and said: .*No module named 'no_such_module'"):
        process.results()
    process.end()
