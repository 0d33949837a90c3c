"""A checkpoint gives what was saved, or says what is damaged: never another value."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.checkpoint import manifest as manifests
from jaxloop.checkpoint.disk import sums
from jaxloop.checkpoint.fingerprint import fingerprints
from jaxloop.checkpoint.store import Saved, Store, refuse_remote
from jaxloop.errors import CheckpointError, CorruptCheckpointError
from tests.checkpoint.saving import load, save, tree
from tests.devices import run_on_devices
from tests.small import assert_trees_equal


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three checkpoints."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    save(directory, 3)
    return directory


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def files(saved: Saved) -> list[Path]:
    return sorted(path for path in saved.path.rglob("*") if path.is_file())


def last(directory: Path) -> Saved:
    return Store(directory).checkpoints()[-1]


def test_what_was_saved_comes_back_bit_for_bit(whole: Path) -> None:
    checkpoints = Store(whole).checkpoints()
    assert [saved.ordinal for saved in checkpoints] == [1, 2, 3]
    for saved in checkpoints:
        saved.verify()
        assert saved.manifest()["about"] == {"step": saved.ordinal}
        assert_trees_equal(load(saved), tree(saved.ordinal))


def test_the_arrays_can_be_donated(whole: Path) -> None:
    arrays = last(whole).arrays()
    jax.jit(lambda leaves: [leaf + 1 for leaf in leaves], donate_argnums=0)(arrays)
    assert all(array.is_deleted() for array in arrays)


def test_there_need_be_no_directory_and_an_address_is_refused(tmp_path: Path) -> None:
    assert Store(tmp_path / "missing").checkpoints() == []
    for use in (Store, refuse_remote):
        with pytest.raises(ValueError, match="Mount the bucket"):
            use("gs://bucket/run")


def test_an_empty_folder_a_stranger_and_a_temporary_are_no_checkpoints(run: Path) -> None:
    (run / "00000007").mkdir()
    (run / "00000008.writing").mkdir()
    (run / "notes").mkdir()
    (run / "00000009").write_text("a file")
    assert [saved.ordinal for saved in Store(run).checkpoints()] == [1, 2, 3]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def damages() -> Iterator[tuple[str, Callable[[Path], None]]]:
    for place in (0, 0.3, 0.5, 0.7, 0.999):
        yield f"bit at {place}", lambda path, place=place: flip(path, int(place * 8 * path.stat().st_size) + 3)
    yield "cut to half", lambda path: os.truncate(path, path.stat().st_size // 2)
    yield "cut by one", lambda path: os.truncate(path, path.stat().st_size - 1)
    yield "emptied", lambda path: os.truncate(path, 0)
    yield "grown", lambda path: path.write_bytes(path.read_bytes() + b"\0")
    yield "deleted", lambda path: path.unlink()
    yield "a folder", lambda path: (path.unlink(), path.mkdir())[0]
    yield "a link", lambda path: (path.rename(path.parents[1] / "moved"), path.symlink_to(path.parents[1] / "moved"))[0]


@pytest.mark.parametrize("damage", [pytest.param(damage, id=name) for name, damage in damages()])
def test_any_damage_to_any_file_is_found(run: Path, damage: Callable[[Path], None]) -> None:
    """At least ten files each: data, Orbax's metadata, the manifest."""
    for name in [path.relative_to(run) for path in files(last(run))]:
        kept = (run / name).read_bytes()
        damage(run / name)
        with pytest.raises(CorruptCheckpointError) as caught:
            last(run).arrays()
        assert str(run / "00000003") in str(caught.value)
        if damage.__name__:
            for left in (run / name, (run / name).parents[1] / "moved"):
                if left.is_dir() and not left.is_symlink():
                    left.rmdir()
                left.unlink(missing_ok=True)
        (run / name).write_bytes(kept)
    assert_trees_equal(load(last(run)), tree(3))


@pytest.mark.parametrize("name", ["extra", "arrays/extra", "arrays/d/extra", "arrays/new/extra"])
def test_an_extra_file_is_found(run: Path, name: str) -> None:
    path = last(run).path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(CorruptCheckpointError, match=rf"{name} is damaged: it is no file of the checkpoint"):
        last(run).verify()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: os.truncate(path, 1), "it has 1 bytes, .* were written"),
        (lambda path: flip(path, 77), "its content has changed, by its CRC"),
    ],
)
def test_the_message_names_the_file_and_what_is_wrong(run: Path, damage, why: str) -> None:
    damage(last(run).path / "arrays" / "_METADATA")
    with pytest.raises(CorruptCheckpointError, match=rf"00000003/arrays/_METADATA is damaged: {why}.*Nothing of the"):
        last(run).verify()


def test_a_journal_is_verified_as_far_as_the_checkpoint_knows_it(run: Path) -> None:
    (run / "rows.journal").write_bytes(b"abX")
    first, second, third = Store(run).checkpoints()
    first.verify()
    second.verify()
    with pytest.raises(CorruptCheckpointError, match=r"rows\.journal is damaged"):
        third.verify()
    (run / "rows.journal").write_bytes(b"abc and what a killed run wrote later")
    third.verify()


def reforged(saved: Saved, **changes) -> None:
    """Writes the manifest again, with the CRCs of the files as they are now."""
    manifest = json.loads((saved.path / manifests.NAME).read_bytes()) | changes
    manifest["files"] = {name: value for name, value in sums(saved.path).items() if name != manifests.NAME}
    (saved.path / manifests.NAME).write_text(manifests.text_of(manifest))


@pytest.mark.slow
def test_files_damaged_before_they_were_summed_never_give_another_value(run: Path) -> None:
    """A bit that turned on its way to the disk: CRCs and manifest agree with it, the fingerprint does not."""
    expected, found = [np.asarray(array).tobytes() for array in last(run).arrays()], 0
    for name in [path.relative_to(run) for path in files(last(run)) if path.name != manifests.NAME]:
        kept = (run / name).read_bytes()
        for bit in range(0, 8 * len(kept), max(1, 8 * len(kept) // 5)):
            flip(run / name, bit + bit // 8 % 8)
            reforged(last(run))
            try:
                arrays = last(run).arrays()
            except CorruptCheckpointError:
                found += 1
            else:
                assert [np.asarray(array).tobytes() for array in arrays] == expected
            (run / name).write_bytes(kept)
    reforged(last(run))
    assert_trees_equal(load(last(run)), tree(3))
    assert found >= 15


def test_a_fingerprint_names_the_leaf(tmp_path: Path) -> None:
    """Stored arrays whose bits another fingerprint was made of."""
    (saved,) = save(tmp_path)
    marks = np.array(fingerprints(saved.arrays()))
    marks[1, 1] ^= 4
    reforged(saved, fingerprints=marks.tolist())
    path = [leaf["path"] for leaf in saved.manifest()["leaves"] if "array" in leaf][1]
    with pytest.raises(CorruptCheckpointError) as caught:
        last(tmp_path).arrays()
    assert path in str(caught.value)
    assert "by its fingerprint" in str(caught.value)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float16", "bfloat16"])
def test_a_manifest_with_another_dtype_never_casts_in_silence(tmp_path: Path, dtype: str) -> None:
    (saved,) = save(tmp_path)
    leaves = [leaf | ({"dtype": dtype} if "kernel" in leaf["path"] else {}) for leaf in saved.manifest()["leaves"]]
    reforged(saved, leaves=leaves)
    with pytest.raises(CorruptCheckpointError):
        last(tmp_path).arrays()


def test_a_shortage_of_memory_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr("jaxloop.checkpoint.store.restore", out_of_memory)
    with pytest.raises(MemoryError):
        last(run).arrays()


def test_the_files_of_a_damaged_checkpoint_are_left_as_they_are(run: Path) -> None:
    flip(last(run).path / "arrays" / "_METADATA", 5)
    before = {path: path.read_bytes() for path in files(last(run))}
    with pytest.raises(CorruptCheckpointError):
        last(run).arrays()
    assert {path: path.read_bytes() for path in files(last(run))} == before


SHARDED = """
import sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec
from jaxloop.checkpoint.leaves import flattened, rebuilt
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer
import tempfile

mesh = jax.make_mesh((8,), ("x",))
divided, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
leaves = [jax.device_put(jnp.arange(16.0), divided), jax.device_put(jnp.arange(8, dtype=jnp.int8), whole)]
with tempfile.TemporaryDirectory() as folder:
    writer = Writer(folder, keep=1)
    writer.write(flattened(leaves), {}, wait=True)
    writer.close()
    saved, = Store(folder).checkpoints()
    for shardings in ([divided, whole], [whole, divided], None):
        found = saved.arrays(shardings)
        assert all(np.array_equal(a, b) for a, b in zip(found, leaves))
        assert shardings is None or [a.sharding for a in found] == shardings
"""


def test_a_run_on_eight_devices_is_read_onto_any_shardings() -> None:
    run_on_devices(SHARDED, 8)


WIDE = """
import sys, jax, numpy as np, jax.numpy as jnp
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer
from jaxloop.errors import CheckpointError, CorruptCheckpointError
import tempfile

jax.config.update("jax_enable_x64", True)
leaves = [jnp.arange(3, dtype=dtype) / 3 for dtype in ("float64", "complex128")] + [jnp.arange(3) + 2**40]
with tempfile.TemporaryDirectory() as folder:
    writer = Writer(folder, keep=1)
    writer.write(flattened(leaves), {}, wait=True)
    writer.close()
    saved, = Store(folder).checkpoints()
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(saved.arrays(), leaves))
    jax.config.update("jax_enable_x64", False)
    try:
        saved.arrays()
    except CheckpointError as error:
        assert not isinstance(error, CorruptCheckpointError)
        assert "Set `jax_enable_x64`" in str(error)
    else:
        raise AssertionError
"""


def test_numbers_of_64_bits_are_not_narrowed_in_silence() -> None:
    run_on_devices(WIDE, 1)


def test_a_format_of_the_future_says_so(run: Path) -> None:
    (last(run).path / manifests.NAME).write_text(manifests.text_of({"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        last(run).arrays()


def test_zero_arrays_are_a_checkpoint_too(tmp_path: Path) -> None:
    from jaxloop.checkpoint.leaves import flattened
    from jaxloop.checkpoint.writer import Writer

    writer = Writer(tmp_path, keep=1)
    writer.write(flattened({"step": np.int32(3), "empty": jnp.zeros((0, 2))}), {}, wait=True)
    writer.close()
    template = {"step": np.int32(0), "empty": jnp.zeros((0, 2))}
    assert load(last(tmp_path), template)["step"] == 3
