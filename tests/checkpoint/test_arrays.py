"""Arrays come back from the disk bit for bit, and quietly."""

import json
import logging
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.checkpoint import arrays as on_disk
from tests.checkpoint.test_fingerprint import DTYPES
from tests.devices import run_on_devices


def kinds(arrays):
    return [(array.shape, np.dtype(array.dtype)) for array in arrays]


def round_trip(folder: Path, arrays):
    on_disk.save(folder, arrays)
    return on_disk.restore(folder, kinds(arrays), [array.sharding for array in arrays])


def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bits = [jnp.asarray(random.integers(0, 2, (3, 5)).astype(jnp.dtype(dtype))) for dtype in DTYPES]
    for before, after in zip(bits, round_trip(tmp_path / "arrays", bits), strict=True):
        assert (after.dtype, after.shape, after.sharding) == (before.dtype, before.shape, before.sharding)
        assert np.asarray(after).tobytes() == np.asarray(before).tobytes(), before.dtype


def test_all_bit_patterns_of_narrow_floats_come_back(tmp_path: Path) -> None:
    patterns = np.arange(256, dtype=np.uint8)
    narrow = [jnp.asarray(patterns.view(jnp.dtype(name))) for name in DTYPES if name.startswith("float8")]
    wide = jnp.asarray(np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16))
    for before, after in zip([*narrow, wide], round_trip(tmp_path / "arrays", [*narrow, wide]), strict=True):
        assert np.asarray(after).tobytes() == np.asarray(before).tobytes(), before.dtype


def test_empty_arrays_scalars_and_none_at_all(tmp_path: Path) -> None:
    arrays = [jnp.zeros((0, 3)), jnp.float32(2), jnp.zeros((2, 0), jnp.uint4)]
    empty, scalar, other = round_trip(tmp_path / "some", arrays)
    assert (empty.shape, float(scalar), other.dtype) == ((0, 3), 2, jnp.uint4)
    assert round_trip(tmp_path / "empty", arrays[:1])[0].shape == (0, 3)
    assert round_trip(tmp_path / "none", []) == []


@pytest.mark.parametrize("wanted", [((4,), "float32"), ((3,), "int32"), ((3,), "float16"), ((), "float32")])
def test_other_shapes_and_dtypes_than_those_saved_are_no_match_in_silence(tmp_path: Path, wanted) -> None:
    array = jnp.arange(3.0)
    on_disk.save(tmp_path / "arrays", [array])
    shape, dtype = wanted
    try:
        (found,) = on_disk.restore(tmp_path / "arrays", [(shape, np.dtype(dtype))], [array.sharding])
    except Exception:
        return
    assert found.dtype != array.dtype  # a cast: for the caller the fingerprint tells it
    assert found.shape == shape


@pytest.mark.parametrize(
    "forge",
    [
        lambda metadata: metadata | {"use_ocdbt": False},
        lambda metadata: metadata | {"tree_metadata": {}},
        lambda metadata: {
            **metadata,
            "tree_metadata": {"('0',)": {"key_metadata": [{"key": "../../x", "key_type": 2}]}},
        },
        lambda metadata: {"tree_metadata": {"('/etc/x',)": metadata["tree_metadata"]["('0',)"]}, "use_ocdbt": True},
    ],
)
def test_metadata_that_could_lead_elsewhere_are_refused(tmp_path: Path, forge) -> None:
    array = jnp.arange(3.0)
    on_disk.save(tmp_path / "arrays", [array])
    path = tmp_path / "arrays" / "_METADATA"
    path.write_text(json.dumps(forge(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match="_METADATA"):
        on_disk.restore(tmp_path / "arrays", kinds([array]), [array.sharding])


def test_a_damaged_folder_says_nothing_but_its_exception(tmp_path: Path, capfd, caplog) -> None:
    array = jnp.arange(3.0)
    on_disk.save(tmp_path / "arrays", [array])
    for path in (tmp_path / "arrays").rglob("d/*"):
        path.write_bytes(b"")
    filters = [list(logging.getLogger(name).filters) for name in ("absl", "asyncio", "root")]
    with pytest.raises(Exception, match=r"."):
        on_disk.restore(tmp_path / "arrays", kinds([array]), [array.sharding])
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert filters == [list(logging.getLogger(name).filters) for name in ("absl", "asyncio", "root")]


TOPOLOGIES = """
import tempfile, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxloop.checkpoint import arrays as on_disk

mesh, few = jax.make_mesh((4, 2), ("x", "y")), jax.sharding.Mesh(jax.devices()[:2], ("x",))
whole = np.arange(48.0, dtype=np.float32).reshape(8, 6)
places = [NamedSharding(mesh, PartitionSpec("x", "y")), NamedSharding(mesh, PartitionSpec()),
          NamedSharding(mesh, PartitionSpec("y")), NamedSharding(few, PartitionSpec(None, "x")),
          SingleDeviceSharding(jax.devices()[5])]
with tempfile.TemporaryDirectory() as folder:
    for number, here in enumerate(places):
        path = Path(folder) / str(number)
        on_disk.save(path, [jax.device_put(whole, here)])
        for there in places:
            found, = on_disk.restore(path, [((8, 6), np.dtype("float32"))], [there])
            assert found.sharding == there, (found.sharding, there)
            assert np.array_equal(found, whole)
"""


def test_arrays_move_from_any_topology_to_any_other() -> None:
    run_on_devices(TOPOLOGIES, 8)


def test_the_library_can_be_loaded_ahead() -> None:
    on_disk.load_library()
    assert "orbax.checkpoint" in sys.modules
