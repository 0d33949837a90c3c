"""What is written is summed and synced, and nothing outside of a folder is read."""

import os
import zlib
from pathlib import Path

import pytest

from jaxloop.checkpoint import disk
from jaxloop.errors import CorruptCheckpointError


def test_an_address_is_no_directory() -> None:
    for address in ("gs://bucket/run", "s3://bucket", Path("file://x").as_posix().replace(":/", "://")):
        with pytest.raises(ValueError, match=r"a path on this machine, got '.*'\. Mount the bucket"):
            disk.refuse_remote(address)
    disk.refuse_remote("run/checkpoints")
    disk.refuse_remote(Path("run"))


def test_a_file_is_summed_whole_or_to_a_size(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 17)
    path = tmp_path / "file"
    disk.write_synced(path, content)
    assert disk.summed(path) == disk.summed(path, sync=True) == (len(content), zlib.crc32(content))
    assert disk.summed(path, size=2**20 + 5) == (2**20 + 5, zlib.crc32(content[: 2**20 + 5]))
    assert disk.summed(path, size=10**9)[0] == len(content)


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    disk.write_synced(tmp_path / "file", b"a")
    with pytest.raises(FileExistsError):
        disk.write_synced(tmp_path / "file", b"b")


def test_all_files_below_a_folder_are_summed_by_relative_path(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"")
    assert disk.sums(tmp_path) == {"a/b/one": [1, zlib.crc32(b"1")], "two": [0, 0]}


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo])
def test_links_and_devices_are_refused(tmp_path: Path, make) -> None:
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder" / "odd")
    with pytest.raises(CorruptCheckpointError, match=r"folder/odd is a link or a device"):
        disk.names(tmp_path)


@pytest.mark.parametrize("name", ["a", "a/b", "arrays/d/0f", "a..b"])
def test_a_path_inside_stays_inside(name: str) -> None:
    assert disk.stays_inside(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/a", "a/../b", "../a", "a/..", "./a", "a//b", "a/", "a\\b", "C:x", "a\0"]
)
def test_a_path_that_leads_out_or_is_written_oddly_does_not(name: str) -> None:
    assert not disk.stays_inside(name)


def test_what_cannot_be_removed_stays_without_an_error(tmp_path: Path) -> None:
    disk.remove(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    disk.remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
