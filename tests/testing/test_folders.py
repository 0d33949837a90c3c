"""What lies in a folder: lines of files, points of event files, and no times."""

from pathlib import Path

import numpy as np

from jaxloop.files.event_file import EventFile, ScalarRows
from jaxloop.testing.folders import content


def test_files_are_lines_by_their_path_and_no_byte_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").write_bytes(b"one\ntw\xff\r\nthree")
    (tmp_path / "empty").write_bytes(b"")
    assert content(tmp_path) == {"a/log.txt": ["'one\\n'", "'tw\\xff\\r\\n'", "'three'"], "empty": []}


def test_event_files_of_a_folder_are_one_without_the_times_of_their_points(tmp_path: Path) -> None:
    found = []
    for name, (run, cut) in {"20240101-000000": ("one", [1, 1]), "20250101-000000-2": ("two", [2])}.items():
        folder = tmp_path / run / name
        step = 0
        for count in cut:
            file = EventFile(folder)
            tags = ["loss", "epoch_examples_per_second"]
            values = np.array([[0.5, step]] * count, np.float32)
            file.write(ScalarRows(tags).encode(np.full(count, 1e9 + step), np.arange(step, step + count), values))
            file.close()
            step += count
        found.append(content(tmp_path / run))
    expected = [f"{what} at step {step}" for what in ("epoch_examples_per_second", "loss 0.5") for step in (0, 1)]
    assert found == [{"<time 1>/events": expected}] * 2


def test_a_torn_event_file_is_not_a_whole_one(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.write(ScalarRows(["loss"]).encode(np.array([1e9]), np.array([0]), np.array([[0.5]], np.float32)))
    file.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert content(tmp_path) == {"events": ["a record that is cut off"]}
