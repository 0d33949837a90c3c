"""Names that outlive the machine, and paths that are found again."""

import doctest
import os
from pathlib import Path

import pytest

from jaxloop import durable
from jaxloop.durable import is_same_place, sync_folders


def test_a_folder_and_those_above_it_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    (tmp_path / "deep").mkdir()
    sync_folders(tmp_path / "deep")
    assert synced[:2] == [(tmp_path / "deep").stat().st_ino, tmp_path.stat().st_ino]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    sync_folders(tmp_path / "gone")


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("run/log.csv", "run/log.csv", True),
        ("run/log.csv", "./run/../run/log.csv", True),
        ("run/log.csv", "{here}/run/log.csv", True),
        ("run/log.csv", "link/log.csv", True),
        ("run/log.csv", "log.csv", False),
        ("/elsewhere/log.csv", "log.csv", False),
    ],
)
def test_a_path_is_the_same_in_any_spelling(tmp_path, monkeypatch, then, now, same):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    assert is_same_place(then, Path(now.format(here=tmp_path))) is same


def test_the_example_runs():
    assert doctest.testmod(durable).failed == 0
