"""Files: exact for every dtype, whole or not there at all, and read only if they are sound."""

import io
import json
import pickle
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.errors import WeightsError
from jaxloop.weights.file import Kind, WeightsFile, in_order, write
from jaxloop.weights.header import Notes

safetensors_numpy: Any = pytest.importorskip("safetensors.numpy", reason="needs the extra `weights`")

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32"),
    *("float64", "complex64", "complex128", "bfloat16", "int4", "uint4", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e4m3", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn"),
]


def saved(path: Path, arrays: dict[str, np.ndarray], **notes: Any) -> Path:
    kinds = in_order({name: Kind(array.shape, array.dtype) for name, array in arrays.items()})
    write(path, kinds, ((name, arrays[name]) for name in kinds), Notes(**notes))
    return path


def bits(array: np.ndarray) -> bytes:
    return array.tobytes()


def random_bits(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = jnp.dtype(dtype)
    count = int(np.prod(shape)) * kind.itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, count, np.uint8)
    raw = raw & 0x0F if kind.name in ("int4", "uint4", "float4_e2m1fn") else raw
    return raw.view(kind).reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3), (2, 1, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_and_shape_are_kept_bit_for_bit(tmp_path: Path, dtype: str, shape: Any) -> None:
    array = random_bits(dtype, shape)  # NaNs of every payload are among them
    file = WeightsFile(saved(tmp_path / "a", {"a": array, "b": np.arange(3)}), "here")
    read = file.read("a")
    assert (read.dtype, read.shape, bits(read)) == (array.dtype, array.shape, bits(array))
    assert file.kinds["a"] == Kind(array.shape, array.dtype)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(7)[None], "b": np.array([True])}
    arrays["h"] = np.ones(3, ml_dtypes.bfloat16)
    read = safetensors_numpy.load_file(saved(tmp_path / "a", arrays))
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.ones(3, ml_dtypes.float8_e4m3fn)}
    safetensors_numpy.save_file(arrays, tmp_path / "a", {"format": "pt"})
    file = WeightsFile(tmp_path / "a", "here")
    for name, array in arrays.items():
        assert bits(file.read(name)) == bits(array)


def test_an_array_that_is_not_contiguous_is_written_as_it_is_seen(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    np.testing.assert_array_equal(WeightsFile(saved(tmp_path / "a", {"a": array}), "here").read("a"), array)


def test_an_array_that_is_read_can_be_written_to_and_is_nobody_elses(tmp_path: Path) -> None:
    file = WeightsFile(saved(tmp_path / "a", {"a": np.zeros(3)}), "here")
    file.read("a")[:] = 1
    np.testing.assert_array_equal(file.read("a"), np.zeros(3))


def test_the_widest_numbers_come_first_so_that_all_are_aligned() -> None:
    kinds = {"a": Kind((1,), np.dtype("int8")), "b": Kind((1,), np.dtype("int64")), "c": Kind((), np.dtype("int64"))}
    assert list(in_order(kinds)) == ["b", "c", "a"]


def test_folders_are_made_and_a_file_is_readable_as_any_other(tmp_path: Path) -> None:
    path = saved(tmp_path / "one" / "two" / "model.safetensors", {"a": np.zeros(3)})
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [each.name for each in path.parent.iterdir()] == ["model.safetensors"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    saved(tmp_path / "link", {"a": np.zeros(3)})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").is_file()


def test_where_writing_fails_the_file_that_was_there_is_whole_and_nothing_is_left(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", {"a": np.zeros(3)})
    before = path.read_bytes()

    def failing() -> Any:
        yield "a", np.ones(3)
        raise KeyboardInterrupt

    kinds = {"a": Kind((3,), np.dtype("float64")), "b": Kind((3,), np.dtype("float64"))}
    with pytest.raises(KeyboardInterrupt):
        write(path, kinds, failing(), Notes())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
import jaxloop as jl
from jaxloop.errors import WeightsError
from jaxloop.weights.file import Kind, write
from jaxloop.weights.header import Notes
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
kinds = {"a": Kind((10_000,), np.dtype("float64"))}
try:
    write(Path(sys.argv[1]), kinds, [("a", np.ones(10_000))], Notes())
except WeightsError as error:
    print(error)
"""


def test_a_disk_without_room_is_told_and_the_old_file_is_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", {"a": np.zeros(3)})
    before = path.read_bytes()
    run = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "a could not be written: [Errno 27] File too large" in run.stdout
    assert "What was there before is as it was. Make room" in run.stdout
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("below", [".", "file/a"], ids=["a folder", "below a file"])
def test_a_path_that_cannot_be_written_is_told(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="could not be written"):
        saved(tmp_path / below, {"a": np.zeros(3)})
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"here: .*nowhere\.safetensors: there is no such checkpoint"):
        WeightsFile(tmp_path / "nowhere.safetensors", "here")
    with pytest.raises(WeightsError, match=r"is a folder\. Give the path"):
        WeightsFile(tmp_path, "here")


def test_an_address_is_no_path() -> None:
    with pytest.raises(WeightsError, match=r"is on this machine, got 'gs://bucket/model'"):
        WeightsFile("gs://bucket/model", "here")


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (zipped(), "is a zip archive, as torch.save and numpy.savez write it. Only safetensors is read, since other"),
        (pickle.dumps({"a": np.zeros(3)}), "is a pickle. Only safetensors"),
        (pickle.dumps(np.zeros(300), protocol=2), "is a pickle. Only safetensors"),
        (b"\x93NUMPY" + bytes(100), "is a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS.*git lfs pull"),
        (b"", "it is not a whole safetensors file"),
        (b'{"weight_map": {"w": "model-1.safetensors"}}', "is JSON: if it is the index of a model in several files"),
        (struct.pack("<Q", 1 << 62) + b"{}", "it is not a whole safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "it is not a whole safetensors file"),
    ],
    ids=["zip", "pickle", "old pickle", "npy", "hdf5", "lfs", "empty", "an index", "huge", "a list"],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(WeightsError, match=f"here: .*{complaint}"):
        WeightsFile(tmp_path / "a", "here")


def test_a_file_that_is_cut_off_anywhere_or_longer_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", {"a": np.arange(5.0), "b": np.arange(3)})
    content = path.read_bytes()
    for kept in (content[:index] for index in range(0, len(content), 7)):
        path.write_bytes(kept)
        with pytest.raises(WeightsError, match="it is not a whole safetensors file"):
            WeightsFile(path, "here")
    path.write_bytes(content + b"\0")
    with pytest.raises(WeightsError, match="it is not a whole safetensors file"):
        WeightsFile(path, "here")


def test_a_bit_that_has_flipped_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", {"a": np.arange(5.0), "b": np.arange(5.0)})
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    file = WeightsFile(path, "here")
    file.read("a")
    with pytest.raises(WeightsError, match="is damaged: the numbers of 'b' are not those that were saved"):
        file.read("b")


def handmade(path: Path, header: dict[str, Any], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_arrays_that_overlap_or_leave_a_gap_are_refused(tmp_path: Path) -> None:
    def entry(start: int, end: int) -> dict[str, Any]:
        return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}

    for two in (entry(2, 6), entry(5, 8)):
        with pytest.raises(WeightsError, match="it is not a whole safetensors file"):
            WeightsFile(handmade(tmp_path / "a", {"a": entry(0, 4), "b": two}, bytes(8)), "here")


@pytest.mark.parametrize(
    ("notes", "complaint"),
    [
        ({"shared": {"b": "z"}}, "its notes say that 'b' is 'z'"),
        ({"shared": {"a": "a"}}, "its notes say that 'a' is 'a'"),
        ({"dtypes": {"a": "float32"}}, "the dtype 'float32', which it does not have"),
        ({"dtypes": {"a": "object"}}, "the dtype 'object', which it does not have"),
        ({"dtypes": {"a": "nothing"}}, "the dtype 'nothing', which is not known"),
    ],
)
def test_notes_that_cannot_be_are_refused(tmp_path: Path, notes: dict[str, Any], complaint: str) -> None:
    header = {"a": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}}
    header |= {"__metadata__": {"jaxloop": json.dumps({"format": 1, **notes})}}
    with pytest.raises(WeightsError, match=complaint):
        WeightsFile(handmade(tmp_path / "a", header, bytes(4)), "here")


def test_notes_of_endless_depth_are_refused(tmp_path: Path) -> None:
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "__metadata__": {"jaxloop": "[" * 100_000}}
    with pytest.raises(WeightsError, match="it is not a whole safetensors file"):
        WeightsFile(handmade(tmp_path / "a", header, b"\0"), "here")


def test_bools_that_are_neither_are_refused(tmp_path: Path) -> None:
    header = {"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}
    with pytest.raises(WeightsError, match="'a' holds bools that are neither True nor False"):
        WeightsFile(handmade(tmp_path / "a", header, b"\1\2"), "here").read("a")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[weights\]'"):
        WeightsFile(tmp_path / "a", "here")
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[weights\]'"):
        write(tmp_path / "a", {}, [], Notes())


def test_a_mistake_is_told_in_few_frames(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"hello")
    for mistake in (
        lambda: jl.load_weights(tmp_path / "mine.safetensors", {"a": np.zeros(1, np.float32)}),
        lambda: jl.weights_in(tmp_path / "mine.safetensors"),
        lambda: jl.save_weights(tmp_path, {"a": np.zeros(1, np.float32)}),
    ):
        with pytest.raises(WeightsError) as caught:
            mistake()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count(f'File "{Path(jl.__file__).parent}') <= 3, shown
