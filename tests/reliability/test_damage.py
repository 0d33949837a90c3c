"""A damaged checkpoint is told of, and the one before it is used: never a wrong value, never a fresh start in silence.

Everything is within this process, and the folder of one run is damaged again and again: no child could tell more.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from jaxloop.checkpoint import manifest as manifests
from jaxloop.checkpoint.disk import sums
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.errors import CorruptCheckpointError
from tests import small

EPOCHS, BATCHES = 3, 3


class Run:
    """A run with a checkpoint after every second step, the last within the last epoch; its copies can be resumed."""

    def __init__(self, folder: Path):
        self.training_loop = small.training_loop(callbacks=[jl.callbacks.ema(0.9)])
        self.whole = folder / "whole"
        checkpoint = jl.callbacks.Checkpoint(self.whole, every=2, keep=99)
        self.loop, self.history = self.training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint])
        newest = Store(self.whole).checkpoints()[-1]
        shutil.rmtree(newest.path)  # that of the run that is over: with it there would be nothing to train
        self.seen: list[int] = []

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.whole, to))

    def resume(self, directory: Path) -> tuple[jl.Loop, jl.History]:
        """Resumes, and notes the steps that were trained."""
        self.seen = []

        @jl.on_host(jl.Event.TRAINING_END)
        def steps(loop: Any, event: jl.Event) -> None:
            self.seen.append(int(loop.step))

        return self.training_loop.fit(small.model(), EPOCHS, callbacks=[steps], resume_from=directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def directory(run: Run, tmp_path: Path) -> Path:
    return run.copy(tmp_path / "run")


def newest(directory: Path) -> Saved:
    return Store(directory).checkpoints()[-1]


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1 << int(97 * place) % 8
        path.write_bytes(content)

    return damage


def damages() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Each kind of damage, at several places."""
    for place in (0.0, 0.21, 0.5, 0.83, 1.0):
        yield f"bit at {place}", flip(place)
    yield "cut to half", lambda path: os.truncate(path, path.stat().st_size // 2)
    yield "cut by one", lambda path: os.truncate(path, path.stat().st_size - 1)
    yield "emptied", lambda path: os.truncate(path, 0)
    yield "deleted", lambda path: path.unlink()


def files(directory: Path) -> list[Path]:
    """Those of the newest checkpoint: of arrays, of Orbax's metadata, and the manifest; the largest of each kind."""
    found = sorted((path for path in newest(directory).path.rglob("*") if path.is_file()), key=_size)
    data = [path for path in found if path.parent.name == "d"][-2:]
    metadata = [path for path in found if path.parent.name == "arrays"]
    return [*data, *metadata, newest(directory).path / manifests.NAME]


def _size(path: Path) -> int:
    return path.stat().st_size


def assert_uninterrupted(run: Run, loop: jl.Loop, history: jl.History) -> None:
    small.assert_trees_equal(loop, run.loop)
    for name, column in run.history.batches.items():
        if name not in ("seconds", "examples_per_second"):
            assert history.batches[name].tobytes() == column.tobytes(), name


def test_forty_of_forty_damaged_checkpoints_are_found_and_the_one_before_gives_the_same_run(
    run: Run, directory: Path
) -> None:
    before, last = Store(directory).checkpoints()[-2:]
    step = last.manifest()["about"]["step"]
    assert before.manifest()["about"]["step"] < step < EPOCHS * BATCHES
    found = 0
    for path in files(directory):
        kept = path.read_bytes()
        for name, damage in damages():
            damage(path)
            with pytest.warns(RuntimeWarning, match=f"fit: checkpoint {last.ordinal} is not used") as warned:
                loop, history = run.resume(directory)
            assert str(path) in str(warned[0].message), (path, name)
            assert len(warned) == 1
            assert_uninterrupted(run, loop, history)
            with pytest.raises(CorruptCheckpointError, match=f"{last.path.name}/.*{path.name}"):
                jl.restore(directory, run.training_loop, small.model(), step=step)
            found += 1
            path.write_bytes(kept)
    assert found >= 40
    loop, history = run.resume(directory)  # all is as it was, and nothing warns
    assert run.seen == [EPOCHS * BATCHES]


def test_of_several_checkpoints_the_newest_that_is_whole_is_used(run: Run, directory: Path) -> None:
    for saved in Store(directory).checkpoints()[1:]:
        (saved.path / manifests.NAME).unlink()
    with pytest.warns(RuntimeWarning, match="is not used") as warned:
        loop, history = run.resume(directory)
    assert len(warned) == len(Store(directory).checkpoints()) - 1
    assert run.seen == [BATCHES, 2 * BATCHES, 3 * BATCHES]
    assert_uninterrupted(run, loop, history)


def test_a_checkpoint_that_is_whole_is_given_by_its_step_though_another_is_damaged(run: Run, directory: Path) -> None:
    flip(0.5)(newest(directory).path / manifests.NAME)
    with pytest.warns(RuntimeWarning, match="restore: whether it is a checkpoint of step 4 is not known"):
        loop = jl.restore(directory, run.training_loop, small.model(), step=4)
    assert int(loop.step) == 4
    with pytest.raises(CorruptCheckpointError, match=rf"step 5.*{newest(directory).path.name}/{manifests.NAME}"):
        jl.restore(directory, run.training_loop, small.model(), step=5)  # perhaps it was that one


@pytest.mark.parametrize("damage", [flip(0.5), lambda path: path.unlink()], ids=["bit", "deleted"])
def test_without_a_whole_checkpoint_there_is_an_error_and_nothing_is_changed(
    run: Run, directory: Path, damage: Any
) -> None:
    for saved in Store(directory).checkpoints():
        damage(saved.path / manifests.NAME)
    before = contents(directory)
    checkpoint = jl.callbacks.Checkpoint(directory)
    with (
        pytest.warns(RuntimeWarning, match="is not used"),
        pytest.raises(CorruptCheckpointError, match=r"none of the 4 checkpoints .* is whole.*Nothing was trained"),
    ):
        run.training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint], resume_from=directory)
    with pytest.warns(RuntimeWarning), pytest.raises(CorruptCheckpointError, match="none of 4 checkpoints is whole"):
        jl.restore(directory, run.training_loop, small.model())
    assert contents(directory) == before


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("name", ["batches", "epochs"])
def test_a_damaged_journal_is_found_as_far_as_a_checkpoint_knows_it(run: Run, directory: Path, name: str) -> None:
    path, kept = directory / f"{name}.journal", (directory / f"{name}.journal").read_bytes()
    first, last = Store(directory).checkpoints()[0], newest(directory)
    at_first, at_last = (saved.manifest()["journals"].get(name, [0])[0] for saved in (first, last))
    assert at_first < at_last <= len(kept)
    for damaged in (kept[: at_last - 1], kept[: at_last - 1] + bytes([kept[at_last - 1] ^ 4])):
        path.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match=rf"is not used.*{name}\.journal is damaged"):
            loop, history = run.resume(directory)
        assert_uninterrupted(run, loop, history)
        with pytest.raises(CorruptCheckpointError, match=rf"{name}\.journal is damaged"):
            jl.restore(directory, run.training_loop, small.model(), step=8)
    path.write_bytes(kept[:at_last] + b"what a run wrote that was killed before its next checkpoint")
    assert_uninterrupted(run, *run.resume(directory))
    if at_first:
        path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
        with pytest.warns(RuntimeWarning), pytest.raises(CorruptCheckpointError, match=r"none of the .* is whole"):
            run.resume(directory)


def forged(saved: Saved, **changes: Any) -> None:
    """Writes the manifest again as a stranger could, with right sums."""
    manifest = json.loads((saved.path / manifests.NAME).read_bytes())
    manifest["files"] = {name: size for name, size in sums(saved.path).items() if name != manifests.NAME}
    manifest |= {name: change(manifest[name]) for name, change in changes.items()}
    (saved.path / manifests.NAME).write_text(manifests.text_of(manifest))


def renamed(saved: Saved, to: str) -> None:
    """Gives the first array another name in Orbax's metadata."""
    path = saved.path / "arrays" / "_METADATA"
    metadata = json.loads(path.read_text())
    described = next(iter(metadata["tree_metadata"].values()))
    described["key_metadata"][0]["key"] = to
    path.write_text(json.dumps(metadata))
    forged(saved)


def elsewhere(saved: Saved, outside: Path) -> None:
    (saved.path / "arrays" / "d").rename(outside)
    (saved.path / "arrays" / "d").symlink_to(outside)


FOREIGN = {
    "an absolute file": lambda saved, outside: forged(saved, files=lambda files: files | {str(outside): [4, 0]}),
    "a file above": lambda saved, outside: forged(saved, files=lambda files: files | {"../../secret": [4, 0]}),
    "a journal above": lambda saved, outside: forged(saved, journals=lambda _: {"../secret": [4, 0]}),
    "an absolute array": lambda saved, outside: renamed(saved, str(outside)),
    "an array above": lambda saved, outside: renamed(saved, "../../secret"),
    "a link to a folder": lambda saved, outside: elsewhere(saved, outside),
}


@pytest.mark.parametrize("forge", FOREIGN.values(), ids=FOREIGN)
def test_a_path_that_leads_out_of_the_checkpoint_is_refused(
    run: Run, directory: Path, tmp_path: Path, forge: Any
) -> None:
    last = newest(directory)
    forge(last, tmp_path / "secret")
    with pytest.warns(RuntimeWarning, match=rf"checkpoint {last.ordinal} is not used"):
        loop, history = run.resume(directory)
    assert_uninterrupted(run, loop, history)
    with pytest.raises(CorruptCheckpointError):
        jl.restore(directory, run.training_loop, small.model(), step=8)


def test_what_was_damaged_is_moved_aside_and_not_deleted_when_the_run_goes_on(run: Run, directory: Path) -> None:
    last = newest(directory)
    flip(0.5)(last.path / manifests.NAME)
    kept = (last.path / manifests.NAME).read_bytes()
    checkpoint = jl.callbacks.Checkpoint(directory, keep=1)
    with pytest.warns(RuntimeWarning) as warned:
        loop, history = run.training_loop.fit(small.model(), EPOCHS, callbacks=[checkpoint], resume_from=directory)
    assert_uninterrupted(run, loop, history)
    assert any("could not be used, and is now" in str(warning.message) for warning in warned)
    assert (directory / f"{last.path.name}.damaged" / manifests.NAME).read_bytes() == kept
