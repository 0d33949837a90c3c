"""What is a checkpoint in a directory, and what is not."""

from pathlib import Path

import pytest

from jaxloop.checkpoint import naming


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("00000002/arrays", "00000001/arrays", "100000003", "00000007", "notes", "5", "0000000x/arrays"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("00000004.writing", "00000005.removing", "00000006.damaged", "00000006.damaged-2"):
        (tmp_path / name).mkdir()
    (tmp_path / "100000003" / "manifest.json").touch()
    (tmp_path / "00000008").touch()
    (tmp_path / "00000009").symlink_to(tmp_path / "00000002")
    (tmp_path / "lock").touch()
    return tmp_path


def test_checkpoints_ascend_and_strangers_links_files_and_empty_folders_are_none(directory: Path) -> None:
    assert list(naming.committed(directory).items()) == [
        (1, directory / "00000001"),
        (2, directory / "00000002"),
        (100000003, directory / "100000003"),
    ]


def test_temporaries_and_damaged_ones_are_known_by_their_names(directory: Path) -> None:
    assert [path.name for path in naming.temporaries(directory)] == ["00000004.writing", "00000005.removing"]
    assert [path.name for path in naming.damaged(directory)] == ["00000006.damaged", "00000006.damaged-2"]


def test_no_number_is_used_twice(directory: Path) -> None:
    assert naming.next_ordinal(directory) == 100000004
    (directory / "100000009.damaged").mkdir()
    assert naming.next_ordinal(directory) == 100000010


def test_there_need_be_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        assert naming.committed(path) == {}
        assert naming.next_ordinal(path) == 1


def test_a_name_that_is_taken_is_not_used_to_move_aside(directory: Path) -> None:
    assert naming.aside(directory / "00000006").name == "00000006.damaged-3"
    assert naming.aside(directory / "00000001").name == "00000001.damaged"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "a b", "ä"])
def test_the_name_of_a_journal_stays_in_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="the name of a journal"):
        naming.journal_path(tmp_path, name)
    assert naming.journal_path(tmp_path, "rows") == tmp_path / "rows.journal"
