"""A save that fails is said once, by name and cause, and nothing that was good is lost."""

import time
from pathlib import Path
from typing import Any

import pytest

from jaxloop.checkpoint import writer as writing
from jaxloop.checkpoint.writer import Writer
from jaxloop.errors import CheckpointError
from tests.checkpoint.saving import contents, ordinals, ran, write


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes saves fail with this error, until it is None."""
    cause: list[BaseException | None] = [None]
    prepare = writing.prepare

    def broken(*arguments: Any) -> None:
        prepare(*arguments)
        if cause[0] is not None:
            raise cause[0]

    monkeypatch.setattr(writing, "prepare", broken)
    return cause


FULL = "RESOURCE_EXHAUSTED: Failed to write: No space left on device"


@pytest.mark.parametrize(
    ("cause", "fix"),
    [
        (ValueError(FULL), "RESOURCE_EXHAUSTED.*Make room on the disk"),
        (OSError(28, "No space left on device"), "No space left on device.*Make room on the disk"),
        (RuntimeError("odd"), "RuntimeError: odd.*See to the cause"),
    ],
)
def test_a_save_that_fails_is_raised_once_and_deletes_nothing(tmp_path: Path, failing, cause, fix: str) -> None:
    writer = Writer(tmp_path, keep=1)
    write(writer, 1)
    before = contents(tmp_path)
    failing[0] = cause
    write(writer, 300, wait=False)
    while writer.failed is None:
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=rf"did not get checkpoint 00000002 \(step 300\): .*{fix}") as caught:
        writer.check()
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is cause
    writer.check()
    assert contents(tmp_path) == before
    failing[0] = None
    write(writer, 3)
    writer.close()
    assert ordinals(tmp_path) == [3]


@pytest.mark.parametrize("use", ["wait", "write", "close"])
def test_a_failure_comes_from_a_waiting_write_the_next_write_or_the_end(tmp_path: Path, failing, use: str) -> None:
    writer = Writer(tmp_path, keep=1)
    failing[0] = OSError("gone")

    def used() -> None:
        write(writer, 1, wait=use == "wait")
        if use == "write":
            write(writer, 2)
        writer.close()

    with pytest.raises(CheckpointError, match=r"gone.*None was saved before"):
        used()
    writer.close()
    Writer(tmp_path, keep=1).close()


def test_rows_that_a_failed_save_could_not_write_come_with_the_next(tmp_path: Path, failing) -> None:
    writer = Writer(tmp_path, keep=5)
    failing[0] = OSError("full")
    with pytest.raises(CheckpointError):
        write(writer, 1, appended={"rows": b"a"})
    failing[0] = None
    write(writer, 2, appended={"rows": b"b"})
    writer.close()
    assert (tmp_path / "rows.journal").read_bytes() == b"ab"


SMALL_DISK = """
import resource, signal, sys
import jax.numpy as jnp
from pathlib import Path
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer
from jaxloop.errors import CheckpointError
import jax

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = Writer(sys.argv[1], keep=1)
writer.write(flattened([jnp.ones(10)]), {"step": 1}, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    writer.write(flattened([jax.random.normal(jax.random.key(0), (10**6,))]), {"step": 2}, wait=True)
except CheckpointError as error:
    print(error)
else:
    raise AssertionError
names = sorted(path.name for path in Path(sys.argv[1]).iterdir())
assert names == ["00000001", "lock"], names
writer.write(flattened([jnp.ones(10)]), {"step": 3}, wait=True)
writer.close()
saved, = Store(sys.argv[1]).checkpoints()
saved.arrays()
assert saved.ordinal == 3
"""


def test_a_disk_that_takes_no_more_is_named_and_what_is_good_stays(tmp_path: Path) -> None:
    process = ran(SMALL_DISK, tmp_path / "run")
    assert process.returncode == 0, process.stderr
    assert "did not get checkpoint 00000002 (step 2)" in process.stdout
    assert "File too large" in process.stdout
    assert process.stderr == ""
