"""Checkpoints are written one after the other, in the background; what was committed survives whatever comes."""

import contextlib
import math
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxloop.checkpoint import writer as writing
from jaxloop.checkpoint.journal import Journal
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer
from jaxloop.errors import CheckpointError
from tests.checkpoint.saving import contents, listed, load, ordinals, ran, save, tree, write
from tests.small import assert_trees_equal


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Saves wait in the background until this is set."""
    go, prepare = threading.Event(), writing.prepare

    def waiting(*arguments: Any) -> None:
        assert go.wait(30)
        prepare(*arguments)

    monkeypatch.setattr(writing, "prepare", waiting)
    return go


def test_a_write_returns_before_the_disk_and_the_next_waits_for_it(tmp_path: Path, held: threading.Event) -> None:
    writer = Writer(tmp_path, keep=5)
    write(writer, 1, wait=False)
    assert ordinals(tmp_path) == []
    held.set()
    write(writer, 2, wait=False)
    assert ordinals(tmp_path)[:1] == [1]
    writer.close()
    assert ordinals(tmp_path) == [1, 2]
    assert listed(tmp_path) == ["00000001", "00000002", "lock"]


def test_what_is_saved_is_what_was_there_when_it_was_called(tmp_path: Path, held: threading.Event) -> None:
    """Arrays that are donated, and an `about` that is changed, while the save waits."""
    writer = Writer(tmp_path, keep=5)
    leaves, about = {"a": jnp.arange(1000.0)}, {"step": 1}
    writer.write(flattened(leaves), about)
    about["step"] = 99
    after = jax.jit(lambda leaves: jax.tree.map(lambda leaf: leaf * 2, leaves), donate_argnums=0)(leaves)
    jax.block_until_ready(after)
    assert leaves["a"].is_deleted()
    held.set()
    writer.close()
    (saved,) = Store(tmp_path).checkpoints()
    assert saved.manifest()["about"] == {"step": 1}
    assert_trees_equal(load(saved, leaves), {"a": jnp.arange(1000.0)})


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=2, best=("loss", "min"))
    for number, value in enumerate([0.5, 0.1, math.nan, None, 0.1, math.inf, 0.7], start=1):
        write(writer, number, value=value)
        assert max(ordinals(tmp_path)) == number
    writer.close()
    assert ordinals(tmp_path) == [2, 6, 7]


def test_the_best_of_before_counts_after_a_resume_if_it_is_of_the_same_name(tmp_path: Path) -> None:
    for best, expected in [(("loss", "min"), [1, 3]), (("accuracy", "max"), [2, 3])]:
        directory = tmp_path / best[0]
        writer = Writer(directory, keep=2, best=("loss", "min"))
        write(writer, 1, value=0.1)
        write(writer, 2, value=0.2)
        writer.close()
        writer = Writer(directory, keep=1, best=best, going_on_from=2)
        write(writer, 3, value=0.3)
        writer.close()
        assert ordinals(directory) == ([1, 3] if best[0] == "loss" else [3]), expected


def test_a_directory_that_holds_a_run_is_not_begun_again(tmp_path: Path) -> None:
    save(tmp_path, 2)
    before = contents(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds the checkpoints of a run, 2 of them\. Go on with it by resume_from"
    ):
        Writer(tmp_path, keep=1)
    assert contents(tmp_path) == before
    (tmp_path / "lock").unlink()
    with pytest.raises(CheckpointError, match="resume_from"):
        Writer(tmp_path, keep=1)
    assert not (tmp_path / "lock").exists()


def test_numbers_grow_for_the_whole_directory(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "00000007").mkdir()
    save(tmp_path, 1, going_on_from=2, journals=places(tmp_path, 2))
    assert ordinals(tmp_path) == [1, 2, 8]


def places(directory: Path, ordinal: int) -> dict[str, tuple[int, int]]:
    (saved,) = [saved for saved in Store(directory).checkpoints() if saved.ordinal == ordinal]
    return {name: (size, crc) for name, (size, crc) in saved.manifest()["journals"].items()}


def test_going_on_from_an_older_one_moves_the_newer_aside_after_the_next_commit(tmp_path: Path) -> None:
    save(tmp_path, 3)
    writer = Writer(tmp_path, keep=5, going_on_from=1, journals=places(tmp_path, 1))
    assert ordinals(tmp_path) == [1, 2, 3]
    assert (tmp_path / "rows.journal").read_bytes() == b"abc"
    with pytest.warns(RuntimeWarning, match=r"could not be used, and is now .*0000000[23]\.damaged") as caught:
        write(writer, 4, appended={"rows": b"X"})
    assert len(caught) == 2
    writer.close()
    assert ordinals(tmp_path) == [1, 4]
    assert listed(tmp_path) == ["00000001", "00000002.damaged", "00000003.damaged", "00000004", "lock", "rows.journal"]
    assert (tmp_path / "rows.journal").read_bytes() == b"aX"
    for saved in Store(tmp_path).checkpoints():
        saved.verify()


def test_going_on_from_what_is_not_there_is_refused_and_unlocks(tmp_path: Path) -> None:
    save(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="does not hold checkpoint 9"):
            Writer(tmp_path, keep=1, going_on_from=9)


def test_a_journal_grows_with_the_checkpoints(tmp_path: Path) -> None:
    first, second, third = save(tmp_path, 3)
    texts = [
        Journal.read(tmp_path / "rows.journal", *saved.manifest()["journals"]["rows"])
        for saved in (first, second, third)
    ]
    assert texts == [b"a", b"ab", b"abc"]


def test_what_a_killed_run_added_to_a_journal_is_cut_at_the_next_save(tmp_path: Path) -> None:
    save(tmp_path, 2)
    with (tmp_path / "rows.journal").open("ab") as file:
        file.write(b"lost")
    writer = Writer(tmp_path, keep=5, going_on_from=2, journals=places(tmp_path, 2))
    write(writer, 3)
    writer.close()
    assert (tmp_path / "rows.journal").read_bytes() == b"ab"
    assert places(tmp_path, 3) == places(tmp_path, 2)


def test_a_second_writer_is_refused_in_this_process_and_another(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=1)
    with pytest.raises(CheckpointError, match=r"another fit writes .*, in this process or another"):
        Writer(tmp_path, keep=1)
    script = "import sys; from jaxloop.checkpoint.writer import Writer; Writer(sys.argv[1], keep=1)"
    process = ran(script, tmp_path)
    assert process.returncode != 0
    assert "another fit writes" in process.stderr
    writer.close()
    writer.close()
    Writer(tmp_path, keep=1).close()


def test_temporaries_of_a_kill_are_removed_and_strangers_stay(tmp_path: Path) -> None:
    for name in ("00000003.writing", "00000004.removing", "notes.writing", "notes"):
        (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "notes")
    (tmp_path / "00000009.writing").symlink_to(tmp_path / "notes")
    writer = Writer(tmp_path, keep=1)
    for number in (1, 2, 3):
        write(writer, number)
    writer.close()
    assert listed(tmp_path) == ["00000009.writing", "00000012", "data", "lock", "notes", "notes.writing"]
    assert (tmp_path / "notes" / "below").is_dir()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/run cannot be written: .*Give a directory that can be"):
        Writer(tmp_path / "file" / "run", keep=1)
    with pytest.raises(CheckpointError, match="cannot be written"):
        Writer(tmp_path / "file", keep=1)


def test_arguments_are_checked(tmp_path: Path) -> None:
    for options, why in [
        ({"keep": 0}, "`keep` must be at least 1, got 0"),
        ({"keep": 1, "best": ("loss", "least")}, r"`best` is a name and \"min\" or \"max\""),
        ({"keep": 1, "journals": {"../rows": (0, 0)}}, "the name of a journal"),
    ]:
        with pytest.raises(ValueError, match=why):
            Writer(tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="Mount the bucket"):
        Writer("gs://bucket/run", keep=1)


def test_an_about_that_is_no_json_is_refused_at_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=1)
    with pytest.raises(TypeError, match="JSON"):
        writer.write(flattened(tree()), {"step": object()})
    writer.close()
    assert ordinals(tmp_path) == []


FORGOTTEN = """
import sys, os, threading
import jax.numpy as jnp
from jaxloop.checkpoint import writer as writing
from jaxloop.checkpoint.leaves import flattened

writing.prepare = lambda *arguments: threading.Event().wait(60)
writer = writing.Writer(sys.argv[1], keep=1)
writer.write(flattened([jnp.ones(3)]), {})
"""


def test_a_save_that_nobody_waits_for_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    began = time.monotonic()
    assert ran(FORGOTTEN, tmp_path, timeout=50).returncode == 0
    assert time.monotonic() - began < 40


def test_a_forked_child_that_closes_does_not_give_the_directory_free(tmp_path: Path) -> None:
    script = """
import os, sys
from jaxloop.checkpoint.writer import Writer
from jaxloop.errors import CheckpointError
writer = Writer(sys.argv[1], keep=1)
child = os.fork()
if child == 0:
    writer.close()
    os._exit(0)
os.waitpid(child, 0)
try:
    Writer(sys.argv[1], keep=1)
except CheckpointError:
    print("still locked")
"""
    process = ran(script, tmp_path)
    assert process.stdout == "still locked\n", process.stderr


def test_an_old_checkpoint_that_cannot_be_removed_fails_no_save(tmp_path: Path, monkeypatch) -> None:
    def stuck(path: Path) -> None:
        raise OSError("busy")

    monkeypatch.setattr(writing, "discard", stuck)
    writer = Writer(tmp_path, keep=1)
    write(writer, 1)
    with pytest.warns(RuntimeWarning, match="an old checkpoint could not be removed from .*: busy"):
        write(writer, 2)
    with contextlib.suppress(CheckpointError):
        writer.close()
    assert ordinals(tmp_path) == [1, 2]
