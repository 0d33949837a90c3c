"""A journal only grows, and each reader knows how much of it counts."""

import os
import zlib
from pathlib import Path

import pytest

from jaxloop.checkpoint.journal import Journal
from jaxloop.errors import CorruptCheckpointError


def test_what_is_appended_is_read_back_up_to_any_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.journal"
    journal = Journal(path)
    places = [(journal.size, journal.crc)]
    for content in (b"abc", b"", b"defg"):
        journal.append(content)
        places.append((journal.size, journal.crc))
    journal.close()
    assert [Journal.read(path, *place) for place in places] == [b"", b"abc", b"abc", b"abcdefg"]
    assert places[-1] == (7, zlib.crc32(b"abcdefg"))


def test_going_on_cuts_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "rows.journal"
    path.write_bytes(b"abc-torn")
    journal = Journal(path, 3, zlib.crc32(b"abc"))
    journal.append(b"def")
    journal.close()
    assert path.read_bytes() == b"abcdef"
    assert (journal.size, journal.crc) == (6, zlib.crc32(b"abcdef"))


@pytest.mark.parametrize(
    ("content", "why"), [(b"ab", "it has 2 bytes, of 3"), (b"abd-more", "have the CRC"), (None, "cannot be read")]
)
def test_a_journal_that_is_short_or_changed_is_refused_and_left(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "rows.journal"
    if content is not None:
        path.write_bytes(content)
    for use in (Journal, Journal.read, Journal.check):
        with pytest.raises(CorruptCheckpointError, match=rf"rows\.journal is damaged: .*{why}"):
            use(path, 3, zlib.crc32(b"abc"))
    assert (path.read_bytes() if path.exists() else None) == content


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"abc")
    path = tmp_path / "rows.journal"
    path.symlink_to(other)
    for use in (Journal, Journal.read):
        with pytest.raises(CorruptCheckpointError, match="a link"):
            use(path, 3, zlib.crc32(b"abc"))
    with pytest.raises(CorruptCheckpointError, match="a link"):
        Journal(path)
    assert other.read_bytes() == b"abc"


def test_an_append_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "rows.journal")
    journal.append(b"abc")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(b"def")
    assert (journal.size, journal.crc) == (3, zlib.crc32(b"abc"))
    journal.append(b"ghi")
    journal.close()
    assert journal.path.read_bytes() == b"abcghi"
