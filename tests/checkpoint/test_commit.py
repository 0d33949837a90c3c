"""A checkpoint has its name only once all of it is durable."""

import os
from pathlib import Path

from jaxloop.checkpoint import commit as committing
from jaxloop.checkpoint.commit import Content, abandon, commit, discard, prepare
from jaxloop.checkpoint.fingerprint import snapshot
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Saved
from tests.checkpoint.saving import listed, tree


def content() -> Content:
    flat = flattened(tree(1))
    return Content(*snapshot(flat.arrays), flat.described, '{"step": 1}', 0.5, ("loss", "min"))


def test_it_has_a_temporary_name_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "00000001"
    prepare(path, content())
    assert listed(tmp_path) == ["00000001.writing"]
    commit(path, content(), {})
    assert listed(tmp_path) == ["00000001"]
    Saved(1, path).verify()
    manifest = Saved(1, path).manifest()
    assert (manifest["value"], manifest["best"], manifest["about"]) == (0.5, ["loss", "min"], {"step": 1})


def test_every_file_and_folder_is_synced_before_the_name_is_given(tmp_path: Path, monkeypatch) -> None:
    synced: set[str] = set()
    sync, rename = os.fsync, Path.rename

    def spied_sync(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def spied_rename(self: Path, target: Path) -> Path:
        missing = {str(path) for path in [self, *self.rglob("*")]} - synced
        assert not missing
        return rename(self, target)

    path = tmp_path / "00000001"
    prepare(path, content())
    monkeypatch.setattr(os, "fsync", spied_sync)
    monkeypatch.setattr(Path, "rename", spied_rename)
    commit(path, content(), {})
    assert str(tmp_path) in synced


def test_what_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    prepare(tmp_path / "00000001", content())
    abandon(tmp_path / "00000001")
    assert listed(tmp_path) == []


def test_what_is_discarded_loses_its_name_first(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "00000001"
    prepare(path, content())
    commit(path, content(), {})
    with monkeypatch.context() as patch:
        patch.setattr(committing, "remove", lambda folder: None)
        discard(path)
    assert listed(tmp_path) == ["00000001.removing"]
