"""A file of whole lines: opened, locked, cut where a line is torn, and as before where a write fails."""

import subprocess
import sys

import pytest

from jaxloop import file_lock
from jaxloop.files.line_file import LineFile

SECOND = """
import sys
from pathlib import Path
from jaxloop.files.line_file import LineFile
try:
    LineFile(Path(sys.argv[1]))
except BlockingIOError:
    print("refused")
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.csv"


def opened(path, content=None):
    if content is not None:
        path.write_bytes(content)
    return LineFile(path)


def test_lines_are_appended_and_are_there_at_once(path):
    file = opened(path, b"a,b\n")
    file.write(b"1,2\n")
    file.write(b"3,4\n")
    assert path.read_bytes() == b"a,b\n1,2\n3,4\n"
    file.close()
    file.close()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, b""),
        (b"", b""),
        (b"a,b\n1,2\n", b"a,b\n"),
        (b"a,", b"a,"),
        (b"a" * 70000 + b"\nb\n", b"a" * 70000 + b"\n"),
    ],
)
def test_the_first_line_is_whole_or_what_there_is_of_it(path, content, line):
    file = opened(path, content)
    assert file.first_line() == line
    file.close()


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"a,b\n1,2\n", b"a,b\n1,2\n"),
        (b"a,b\n1,2\n3,", b"a,b\n1,2\n"),
        (b"a,", b""),
        (b"", b""),
        (b"a\n" + b"7" * 200000, b"a\n"),
    ],
)
def test_a_line_that_was_cut_off_is_removed_so_that_the_next_is_not_glued_to_it(path, content, kept):
    file = opened(path, content)
    file.cut_torn_line()
    file.write(b"5,6\n")
    file.close()
    assert path.read_bytes() == kept + b"5,6\n"


def test_a_file_can_be_begun_anew(path):
    file = opened(path, b"old\n")
    file.empty()
    file.write(b"new\n")
    file.close()
    assert path.read_bytes() == b"new\n"


def test_a_second_writer_in_this_process_is_refused_until_the_first_has_closed(path):
    file = opened(path)
    with pytest.raises(BlockingIOError):
        LineFile(path)
    file.close()
    LineFile(path).close()


def test_a_second_writer_in_another_process_is_refused(path):
    file = opened(path, b"a\n")
    command = [sys.executable, "-c", SECOND, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "refused\n"
    file.close()
    assert path.read_bytes() == b"a\n"


@pytest.mark.parametrize("change", [b"", b"a\n1\nforeign\n"])
def test_where_no_lock_can_be_had_what_another_has_changed_is_told_and_left(path, change, monkeypatch):
    monkeypatch.setattr(file_lock, "fcntl", None)
    file = opened(path, b"a\n")
    file.write(b"1\n")
    path.write_bytes(change)
    with pytest.raises(OSError, match="another program has changed it: it had 4 bytes"):
        file.write(b"2\n")
    file.close()
    assert path.read_bytes() == change


def test_a_write_that_fails_in_its_middle_leaves_the_file_as_it_was(path):
    resource = pytest.importorskip("resource")
    file = opened(path, b"a,b\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))  # as a disk that is full after 6 bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            file.write(b"1,2\n3,4\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"a,b\n"
    file.write(b"5,6\n")
    file.close()
    assert path.read_bytes() == b"a,b\n5,6\n"


def test_a_file_is_known_again_by_its_mark_and_can_be_cut_to_it(path):
    file = opened(path, b"a,b\n")
    file.write(b"1,2\n")
    mark = file.mark()
    file.write(b"3,4\n")
    assert (mark[0], file.size) == (8, 12)
    assert file.begins_with(mark)
    file.close()
    file = opened(path)
    assert file.begins_with(mark)
    file.cut(mark[0])
    assert (path.read_bytes(), file.mark()) == (b"a,b\n1,2\n", mark)
    file.close()


@pytest.mark.parametrize("content", [b"", b"a,b\n1,3\n", b"a,b\n1,", b"a,b\n1,3\n3,4\n"])
def test_another_file_or_a_shorter_one_does_not_have_the_mark(path, content):
    file = opened(path, b"a,b\n1,2\n")
    mark = file.mark()
    file.close()
    file = opened(path, content)
    assert not file.begins_with(mark)
    assert path.read_bytes() == content
    file.close()


def test_the_mark_of_a_file_that_was_emptied_is_of_what_was_written_since(path):
    file = opened(path, b"a,b\n1,2\n")
    file.mark()
    file.empty()
    file.write(b"x,y\n")
    mark = file.mark()
    file.close()
    other = opened(path.with_name("other"), b"x,y\n")
    assert mark == other.mark()
    other.close()


def test_a_file_that_another_program_has_cut_has_no_mark(path):
    file = opened(path, b"a,b\n1,2\n")
    path.write_bytes(b"a,b\n")
    with pytest.raises(OSError, match="another program has changed it: it had 8 bytes, now 4"):
        file.mark()
    file.close()
