"""The order in which a save touches the disk: durable first, its name after that, and what is old goes last."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from jaxloop.checkpoint import disk, writer
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Store
from tests.checkpoint.saving import save, tree


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is done to the disk, in order: files and folders that are synced, renamed (to what) and removed."""
    seen: list[tuple[str, Path]] = []
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def renamed(path: Path, target: Any) -> Path:
        seen.append(("renamed", Path(target)))
        return rename(path, target)

    def removed(path: Any, *arguments: Any, **options: Any) -> None:
        seen.append(("removed", Path(path)))
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(disk.shutil, "rmtree", removed)
    return seen


def test_a_checkpoint_gets_its_name_only_after_all_of_it_is_durable(tmp_path: Path, done: Any) -> None:
    (saved,) = save(tmp_path)
    named = done.index(("renamed", saved.path))
    before = {path for what, path in done[:named] if what == "synced"}
    writing = saved.path.with_name(f"{saved.path.name}.writing")
    for path in saved.path.rglob("*"):  # each file, and each folder for the names in it
        assert writing / path.relative_to(saved.path) in before
    assert writing in before
    assert tmp_path / "rows.journal" in before
    assert ("synced", tmp_path) in done[named:]


def test_nothing_is_removed_before_the_next_has_its_name(tmp_path: Path, done: Any) -> None:
    save(tmp_path, 3, keep=1)
    names = [(what, path.name) for what, path in done if what != "synced" and path.parent == tmp_path]
    assert names == [
        ("renamed", "00000001"),
        ("renamed", "00000002"),
        ("renamed", "00000001.removing"),
        ("removed", "00000001.removing"),
        ("renamed", "00000003"),
        ("renamed", "00000002.removing"),
        ("removed", "00000002.removing"),
    ]
    assert [saved.ordinal for saved in Store(tmp_path).checkpoints()] == [3]


def test_a_wait_that_an_interrupt_breaks_off_is_no_end_of_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is joined counts as ended from then on."""
    prepare = writer.prepare

    def slowly(path: Path, content: writer.Content) -> None:
        time.sleep(0.5)
        prepare(path, content)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "prepare", slowly)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        open_writer = writer.Writer(tmp_path, keep=2)
        open_writer.write(flattened(tree(1)), {"step": 1})
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            open_writer.write(flattened(tree(2)), {"step": 2})
        open_writer.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (saved,) = Store(tmp_path).checkpoints()
    saved.verify()
