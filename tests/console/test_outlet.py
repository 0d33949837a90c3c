"""A stream that never fails."""

import errno
import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxloop.console.outlet import Outlet

FULL = Path("/dev/full")
PIPE = """
import os, sys
from jaxloop.console.outlet import Outlet
outlet = Outlet(sys.stdout)
outlet.write("one\\n")
outlet.flush()
sys.stdin.readline()  # by now the reader is gone
outlet.write("two\\n")
outlet.flush()
assert isinstance(outlet.failure, BrokenPipeError)
"""


def ascii_stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_what_is_written_arrives():
    stream = io.StringIO()
    outlet = Outlet(stream)
    assert outlet.write("loss") == 4
    outlet.flush()
    assert (stream.getvalue(), outlet.failure) == ("loss", None)


def test_what_cannot_be_encoded_is_a_question_mark():
    stream = ascii_stream()
    outlet = Outlet(stream)
    outlet.write("größe 1\n")
    outlet.flush()
    assert stream.buffer.getvalue() == b"gr??e 1\n"  # type: ignore[attr-defined]
    assert outlet.failure is None


def test_a_stream_that_can_do_nothing_but_write_is_enough():
    written = []
    outlet = Outlet(types.SimpleNamespace(write=written.append))  # type: ignore[arg-type]
    outlet.write("loss")
    outlet.flush()
    assert (written, outlet.failure) == (["loss"], None)


def test_no_stream_is_no_failure():
    outlet = Outlet(None)
    outlet.write("loss")
    outlet.flush()
    assert outlet.failure is None


def test_after_a_failure_nothing_more_is_tried():
    tries = []

    def write(text):
        tries.append(text)
        raise OSError(errno.ENOSPC, "No space left on device")

    outlet = Outlet(types.SimpleNamespace(write=write))  # type: ignore[arg-type]
    outlet.write("one")
    outlet.write("two")
    assert tries == ["one"]
    assert isinstance(outlet.failure, OSError)


def test_a_closed_stream_is_a_failure():
    stream = io.StringIO()
    stream.close()
    outlet = Outlet(stream)
    outlet.write("one")
    outlet.flush()
    assert isinstance(outlet.failure, ValueError)


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk_shows_when_it_is_flushed():
    with FULL.open("w") as stream:
        outlet = Outlet(stream)
        outlet.write("one")
        assert outlet.failure is None
        outlet.flush()
        assert outlet.failure is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or closing it fails as well


def test_it_equals_the_stream_behind_as_tqdm_asks():
    stream, other = io.StringIO(), io.StringIO()
    assert Outlet(stream) == stream
    assert stream == Outlet(stream)
    assert Outlet(stream) == Outlet(stream)
    assert Outlet(stream) != Outlet(other)
    assert hash(Outlet(stream)) == hash(stream)


def test_a_pipe_whose_reader_is_gone_leaves_nothing_that_python_fails_at_as_it_exits():
    command = [sys.executable, "-W", "error", "-c", PIPE]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, errors) == (0, "")
