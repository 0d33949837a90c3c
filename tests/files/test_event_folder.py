"""The folder of a run's event files: its sizes, and cut back to them."""

import pytest

from jaxloop.errors import CheckpointError
from jaxloop.files.event_file import EventFile
from jaxloop.files.event_folder import cut_back, event_files, has_run, new_run


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a file of training, and what it is called there."""
    folder = new_run(tmp_path / "stats")
    EventFile(folder / "train").close()
    return folder


def test_a_run_is_found_by_its_name_alone(run, tmp_path):
    root = run.parent
    (tmp_path / "20250131-235959").mkdir()
    assert has_run(root, run.name)
    assert not has_run(root, "20250131-235959")
    assert not has_run(root, "../20250131-235959")
    assert not has_run(root, "..")


def test_each_event_file_is_listed_with_its_size(run):
    EventFile(run).close()
    (run / "train" / "notes.txt").write_text("mine")
    (run / "train" / "events.out.tfevents.1700000000.host").write_text("another writer's")
    (run / "deep").mkdir()
    EventFile(run / "deep").close()
    paths = [path for folder in (run, run / "train") for path in folder.glob("events*") if path.suffix != ".host"]
    assert event_files(run) == {path.relative_to(run).as_posix(): path.stat().st_size for path in paths}
    assert len(paths) == 2


def test_a_run_that_is_cut_back_has_its_files_of_then_and_new_ones(run):
    (first,) = (run / "train").iterdir()
    before, sizes = first.read_bytes(), event_files(run)
    first.write_bytes(before + b"more")
    EventFile(run / "train").close()
    EventFile(run / "validation").close()
    later = {path.name for path in run.rglob("events*")} - {first.name}
    files = cut_back(run, sizes)
    for file in files.values():
        file.close()
    assert sorted(files) == ["train", "validation"]
    assert first.read_bytes() == before
    names = {path.name for path in run.rglob("events*")}
    assert len(names) == 3
    assert not names & later
    assert min(names - {first.name}) > max(later)


def test_a_run_that_was_killed_while_it_was_cut_back_is_cut_back_again(run, monkeypatch):
    (first,) = (run / "train").iterdir()
    before, sizes = first.read_bytes(), event_files(run)
    for _ in range(3):
        first.write_bytes(before + b"more")
        for file in cut_back(run, sizes).values():
            file.close()
    assert first.read_bytes() == before
    assert len(list((run / "train").iterdir())) == 2


def test_a_file_that_is_shorter_stops_it_before_anything_is_changed(run):
    sizes = event_files(run)
    (name,) = sizes
    EventFile(run / "validation").close()
    before = event_files(run)
    with pytest.raises(
        CheckpointError, match=rf"shorter than they were at the checkpoint: {name}, gone/x\. Nothing was"
    ):
        cut_back(run, {name: sizes[name] + 1, "gone/x": 0})
    assert event_files(run) == before
