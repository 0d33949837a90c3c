"""The runs of a check: the same at every place, with files as they were at the save, or later."""

from pathlib import Path

import pytest

from jaxloop.testing.differing import differences
from jaxloop.testing.making import maker_of
from jaxloop.testing.running import Runs
from jaxloop.testing.training import Training, small_model, small_training_loop
from tests.testing import candidates

TRAINING = Training(small_training_loop, small_model, 1, reusable=True)


def runs_of(given: object, folder: Path, steps: int = 3) -> Runs:
    return Runs(maker_of(given), TRAINING, steps, folder)


@pytest.mark.parametrize(
    ("steps", "positions"), [pytest.param(1, [0, 1, 2, 3, 4], marks=pytest.mark.slow), (3, [0, 3, 4])]
)
def test_a_run_is_saved_at_every_boundary_with_the_files_of_then(tmp_path: Path, steps: int, positions: list) -> None:
    runs = runs_of(candidates.Appending, tmp_path, steps)
    whole = runs.whole()
    saved, places = runs.saved()
    assert differences(whole, saved) == []
    expected = [f"epoch 1 of 1, {phase} batch {n} of 4" for phase in ("training", "validation") for n in positions]
    assert [place.where for place in places] == [*expected, "after epoch 1 of 1"]
    logs = [Path(place.snapshot) / "log.txt" for place in places]
    counts = [len(log.read_text().splitlines()) if log.exists() else 0 for log in logs]
    assert counts == sorted(counts)  # rows come a dispatch late
    assert counts[-1] == len(whole.files["log.txt"]) == 8
    assert counts[0] == 0


def test_a_run_goes_on_with_the_files_of_the_save_or_of_the_end_and_a_second_time(tmp_path: Path) -> None:
    runs = runs_of(candidates.AppendingTwice, tmp_path)
    whole = runs.whole()
    _, places = runs.saved()
    (place,) = [place for place in places if "validation batch 3" in place.where]
    assert differences(whole, runs.resumed(place, grown=False)) == []
    (more,) = differences(whole, runs.resumed(place, grown=True))
    assert more.more
    second, outcome = runs.resumed_twice(places[0])
    assert second.where in [place.where for place in places]
    assert differences(whole, outcome) == []


@pytest.mark.slow
def test_compiled_callbacks_are_made_once_and_host_callbacks_for_each_run(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> list[object]:
        made.append([candidates.average(folder), candidates.CountingOn(folder)])
        return list(made[-1])

    runs = runs_of(make, tmp_path)
    attributes = [runs.whole().attributes for _ in range(2)]
    assert attributes[0] == attributes[1]
    assert attributes[0]["CountingOn: count"] == 8
    assert [counting.count for _, counting in made] == [8, 8]


def test_the_attributes_of_what_bind_gives_are_kept_but_private_ones_only_without_a_memory(tmp_path: Path) -> None:
    assert runs_of(candidates.csv, tmp_path / "csv").whole().attributes == {}
    found = runs_of(candidates.Noisy, tmp_path / "noisy").whole().attributes
    assert found["Noisy: _random"]["bit_generator"] == "PCG64"
