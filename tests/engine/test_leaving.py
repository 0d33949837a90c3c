"""A process whose run has failed ends without waiting for the others; nothing changes for one that goes on."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxloop.engine.agreement import raised_everywhere
from jaxloop.engine.leaving import NOTE, leaving


def test_what_others_may_not_know_of_is_noted() -> None:
    with pytest.raises(OSError, match="disk") as raised, leaving(True):
        raise OSError("disk")
    assert raised.value.__notes__ == [NOTE]


@pytest.mark.parametrize(("several", "everywhere"), [(False, False), (True, True)])
def test_what_all_know_of_or_nobody_waits_for_is_left_as_it_is(several, everywhere) -> None:
    error = raised_everywhere(OSError("disk")) if everywhere else OSError("disk")
    with pytest.raises(OSError, match="disk") as raised, leaving(several):
        raise error
    assert not hasattr(raised.value, "__notes__")


SCRIPT = """
import atexit, sys
atexit.register(lambda: print("an earlier hook, such as that of JAX"))
from jaxloop.engine import leaving
leaving._GRACE = 0.0
atexit.register(lambda: print("a later hook"))
how = sys.argv[1]

def fit():
    with leaving.leaving(how != "of one process"):
        raise KeyboardInterrupt if how == "interrupted" else OSError("disk")

print("begins", end=" ")
try:
    fit()
except OSError as error:
    if how == "chained":
        raise RuntimeError("the program's own") from error
    if how != "caught":
        raise
"""
LATER, EARLIER = "begins a later hook\n", "an earlier hook, such as that of JAX\n"


def ended(how: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), how]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("raised", 1, LATER),
        pytest.param("chained", 1, LATER, marks=pytest.mark.slow),
        pytest.param("interrupted", 130, LATER, marks=pytest.mark.slow),
        ("caught", 0, LATER + EARLIER),
        pytest.param("of one process", 1, LATER + EARLIER, marks=pytest.mark.slow),
    ],
)
def test_only_what_nobody_catches_ends_the_process_early(how, code, said) -> None:
    returncode, stdout, stderr = ended(how)
    assert (returncode, stdout) == (code, said), stderr
    assert (NOTE in stderr) == (how in ("raised", "chained", "interrupted"))
