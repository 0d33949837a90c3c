"""Arrays on disk, by Orbax: the only module that knows how it is called, and where it is quiet."""

import contextlib
import gc
import inspect
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Dtypes that TensorStore does not know, and that of the array in which their bits lie on disk.
_CARRIED = {"uint2": "uint8", "uint4": "uint8", "float8_e4m3": "uint8"}
_LOGGERS = ("absl", "asyncio", "root")
_A_MOMENT = 0.1


def load_library() -> None:
    """Imports Orbax, which takes a while, so that the first `save` does not have to."""
    import orbax.checkpoint  # noqa: F401


def save(folder: Path, arrays: Sequence[jax.Array]) -> None:
    """Writes the arrays to a new folder, each by its place among them. Waits until they are written.

    Raises:
      Exception: whatever Orbax and TensorStore raise; for a full disk that is a `ValueError`.
    """
    kept: dict[str, Any] = {str(place): _carried(array) for place, array in enumerate(arrays) if array.size}
    if jax.process_count() > 1:  # Orbax takes no array there that only one process has
        kept = jax.tree.map(np.asarray, kept)
    if not kept:  # Orbax takes neither an empty tree nor an empty array
        folder.mkdir()
        return
    import orbax.checkpoint as ocp

    with _quiet(), _checkpointer(ocp) as checkpointer:
        checkpointer.save(folder.absolute(), ocp.args.PyTreeSave(kept))


def restore(
    folder: Path,
    kinds: Sequence[tuple[tuple[int, ...], np.dtype]],
    shardings: Sequence[jax.sharding.Sharding],
) -> list[jax.Array]:
    """Arrays of exactly these shapes and dtypes, at these shardings, as `save` wrote them. Waits for the disk.

    Raises:
      Exception: whatever Orbax and TensorStore raise for a damaged folder.
      ValueError: the folder holds other arrays than these.
    """
    wanted = {str(place): kind for place, kind in enumerate(kinds) if 0 not in kind[0]}
    found = _found(folder, wanted, shardings) if wanted else {}
    arrays = []
    for place, ((shape, dtype), sharding) in enumerate(zip(kinds, shardings, strict=True)):
        array = found.get(str(place))
        if array is None:
            array = jax.device_put(np.zeros(shape, dtype), sharding)
        array = _uncarried(array, dtype)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"array {place} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}")
        arrays.append(array)
    return arrays


def _found(folder: Path, wanted: dict[str, Any], shardings: Sequence[jax.sharding.Sharding]) -> dict[str, jax.Array]:
    import orbax.checkpoint as ocp

    _check_metadata(folder, wanted)
    item, arguments = {}, {}
    for name, (shape, dtype) in wanted.items():
        dtype, sharding = jnp.dtype(_CARRIED.get(dtype.name, dtype.name)), shardings[int(name)]
        item[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        arguments[name] = ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype, global_shape=shape, strict=True)
    several = jax.process_count() > 1
    if several:
        item = {name: np.empty(kind.shape, kind.dtype) for name, kind in item.items()}
        arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in item}
    with _quiet(), _checkpointer(ocp) as checkpointer:
        found = checkpointer.restore(folder.absolute(), ocp.args.PyTreeRestore(item, restore_args=arguments))
    return {name: jax.device_put(array, shardings[int(name)]) for name, array in found.items()} if several else found


def _check_metadata(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuses metadata with other names than ours, or in Orbax's older form, where they can lead out of the folder.

    In the form that we write, OCDBT, the names of its data files are relative to the folder, and TensorStore refuses
    `..` and absolute ones by itself.
    """
    metadata = json.loads((folder / "_METADATA").read_bytes())
    names = {str((name,)) for name in wanted}
    if set(metadata["tree_metadata"]) != names or metadata.get("use_ocdbt") is not True:
        raise ValueError(f"_METADATA describes {sorted(metadata['tree_metadata'])}, not {sorted(names)} in OCDBT")
    for described in metadata["tree_metadata"].values():
        keys = [entry["key"] for entry in described["key_metadata"]]
        if keys not in [[name] for name in wanted]:
            raise ValueError(f"_METADATA names an array {keys!r}")


@contextlib.contextmanager
def _checkpointer(ocp: Any) -> Iterator[Any]:
    process = jax.process_index()  # each process works by itself: Orbax would wait for the others
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, multiprocessing_options=alone)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def _carried(array: jax.Array) -> jax.Array:
    carrier = _CARRIED.get(array.dtype.name)
    return array if carrier is None else _as_carrier(array)


@jax.jit
def _as_carrier(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(array, jnp.uint8)
    return array.astype(jnp.uint8)


def _uncarried(array: jax.Array, dtype: np.dtype) -> jax.Array:
    if dtype.name not in _CARRIED or array.dtype == dtype:
        return array
    if jnp.issubdtype(dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(array, dtype)
    return array.astype(dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what Orbax logs, pages of it where files are damaged: the exception says all that is needed.

    Where one array cannot be read, the reads of others are still under way, and Python prints that nobody hears of
    them. So a failure waits a moment for their end. What others log meanwhile passes.
    """

    def passes(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname and record.name != "asyncio"

    def unraisable(ignored: Any) -> None:
        if not inspect.iscoroutine(ignored.object) and str(ignored.exc_value) != "Event loop is closed":
            printed(ignored)

    loggers, printed = [logging.getLogger(name) for name in _LOGGERS], sys.unraisablehook
    for logger in loggers:
        logger.addFilter(passes)
    sys.unraisablehook = unraisable
    try:
        yield
    except Exception as error:
        _let_go(error)
        raise
    finally:
        sys.unraisablehook = printed
        for logger in loggers:
            logger.removeFilter(passes)


def _let_go(error: BaseException) -> None:
    """Lets go of what the frames of an exception and of its causes still hold."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            traceback.clear_frames(found.__traceback__)
            todo += [found.__cause__, found.__context__]
    time.sleep(_A_MOMENT)
    gc.collect()
