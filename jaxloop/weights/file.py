"""A safetensors file: written whole or not at all, read array by array, and judged by the safetensors library."""

import os
import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxloop.durable import sync_folders
from jaxloop.errors import WeightsError
from jaxloop.path_argument import path_argument
from jaxloop.weights.header import Notes, Place, decoded, encoded, header_length, word_of

_NO_SUM = "0" * 8
#: How files begin that people take for weights, and what they are.
_OTHERS = {
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write it",
    b"\x80": "a pickle",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"{": "JSON: if it is the index of a model in several files, load each of these, with strict=False or as a part",
    b"version https://git-lfs": "a pointer of Git LFS, in place of the file: run `git lfs pull`",
}
_FIX = (
    "Only safetensors is read, since other formats can run code. Convert it where its library is: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors'), or "
    "safetensors.numpy.save_file(dict(numpy.load(path)), 'model.safetensors')."
)


@dataclass(frozen=True)
class Kind:
    """What is known of an array before it is there: its shape, and the dtype of NumPy or `ml_dtypes`."""

    shape: tuple[int, ...]
    dtype: np.dtype


def library() -> Any:
    """The safetensors library.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "save_weights and load_weights need safetensors, which is not installed. Run pip install '.[weights]'."
        ) from error
    return safetensors


def refuse_remote(path: str | os.PathLike[str], where: str) -> None:
    """Refuses an address such as `gs://bucket/model.safetensors`, which would be a folder on this machine.

    Raises:
      WeightsError: as said.
    """
    if "://" in os.fspath(path):
        raise WeightsError(
            f"{where}: a file of weights is on this machine, got {os.fspath(path)!r}. Mount the bucket, and give the "
            "path where it is mounted."
        )


def write(path: Path, kinds: Mapping[str, Kind], arrays: Iterable[tuple[str, np.ndarray]], notes: Notes) -> None:
    """Writes a file, which replaces the one that is there once it is whole and durable. Waits for the disk.

    Args:
      path: of the file. The folder is made.
      kinds: of all arrays, by name.
      arrays: each array with its name, in the order of `kinds`, one after the other.
      notes: without `dtypes` and `sums`.

    Raises:
      WeightsError: it cannot be written. The file that was there is whole.
    """
    library()
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_to(temporary, kinds, arrays, notes)
            _opened(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folders(path.parent)
    except (OSError, library().SafetensorError) as error:
        raise WeightsError(
            f"save_weights: {path} could not be written: {error}. What was there before is as it was. Make room, or "
            "give a path that can be written."
        ) from error


def _write_to(path: Path, kinds: Mapping[str, Kind], arrays: Iterable[tuple[str, np.ndarray]], notes: Notes) -> None:
    places = {name: _placed(kind) for name, kind in kinds.items()}
    dtypes = {name: kind.dtype.name for name, kind in kinds.items() if word_of(kind.dtype) is None}
    sums = dict.fromkeys(kinds, _NO_SUM)
    with path.open("xb") as file:
        file.write(encoded(places, Notes(notes.keys, dtypes, notes.shared, sums)))
        for name, array in arrays:
            flat = np.asarray(array, kinds[name].dtype, order="C").reshape(-1).view(np.uint8)
            sums[name] = f"{zlib.crc32(flat.data):08x}"
            file.write(flat.data)
        file.seek(0)
        file.write(encoded(places, Notes(notes.keys, dtypes, notes.shared, sums)))
        file.flush()
        os.fsync(file.fileno())


def _placed(kind: Kind) -> tuple[str, tuple[int, ...], int]:
    size = int(np.prod(kind.shape, dtype=np.int64)) * kind.dtype.itemsize
    word = word_of(kind.dtype)
    return ("U8", (*kind.shape, kind.dtype.itemsize), size) if word is None else (word, kind.shape, size)


def in_order(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """The arrays in the order in which they lie in a file: the widest numbers first, so that each is aligned."""
    return dict(sorted(kinds.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


class WeightsFile:
    """A file that is there to be read. Nothing but its header is read yet.

    Attributes:
      path: of the file.
      notes: what jaxloop has noted in it.
      kinds: shape and dtype of each array, by name, those with two names too. Of a typed PRNG key, of its bits. The
        dtype is a string where NumPy has none.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is no whole safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str], where: str):
        self.path = path_argument(f"{where}: `path`", path, "run/model.safetensors")
        self.where = where
        library()
        refuse_remote(path, where)
        if not self.path.exists():
            raise FileNotFoundError(
                f"{where}: {self.path}: there is no such checkpoint. Give the path of a .safetensors file."
            )
        if not self.path.is_file():
            raise WeightsError(f"{where}: {self.path} is a folder. Give the path of a .safetensors file in it.")
        self._places, self.notes = self._header()
        self.kinds: dict[str, Kind | str] = {name: self._kind(name) for name in self._places}
        for name, held in self.notes.shared.items():
            if name in self._places or held not in self._places:
                raise self._damaged(f"its notes say that {name!r} is {held!r}, which cannot be")
            self.kinds[name] = self.kinds[held]

    def read(self, name: str) -> np.ndarray:
        """An array, which nobody else has. Waits for the disk.

        Raises:
          WeightsError: it is not what was saved.
        """
        name = self.notes.shared.get(name, name)
        place, kind = self._places[name], self.kinds[name]
        assert isinstance(kind, Kind)
        raw = np.fromfile(self.path, np.uint8, place.size, offset=place.start)
        noted = self.notes.sums.get(name)
        if len(raw) != place.size or (noted is not None and noted != f"{zlib.crc32(raw.data):08x}"):
            raise self._damaged(f"the numbers of {name!r} are not those that were saved")
        if kind.dtype == bool and (raw > 1).any():
            raise self._damaged(f"{name!r} holds bools that are neither True nor False")
        return raw.view(kind.dtype).reshape(kind.shape)

    def refused(self, name: str) -> WeightsError:
        """The error for an array of a dtype that NumPy does not have."""
        return WeightsError(f"{self.where}: {self.path}: {name!r} is {self.kinds[name]}, which NumPy does not have.")

    def _header(self) -> tuple[dict[str, Place], Notes]:
        try:
            _opened(self.path)
            with self.path.open("rb") as file:
                beginning = file.read(8)
                return decoded(beginning, file.read(header_length(beginning)))
        except (ValueError, KeyError, TypeError, RecursionError, library().SafetensorError) as error:
            raise WeightsError(self._complaint(error)) from error

    def _complaint(self, error: Exception) -> str:
        with self.path.open("rb") as file:
            beginning = file.read(32)
        for begin, what in _OTHERS.items():
            if beginning.startswith(begin):
                return f"{self.where}: {self.path} is {what}. {_FIX}"
        return (
            f"{self.where}: {self.path}: it is not a whole safetensors file ({error}). Get it again, or save the "
            "weights in that format."
        )

    def _kind(self, name: str) -> Kind | str:
        place = self._places[name]
        noted = self.notes.dtypes.get(name)
        if noted is None:
            return place.word if place.dtype is None else Kind(place.shape, place.dtype)
        try:
            dtype = jnp.dtype(noted)
        except TypeError as error:
            raise self._damaged(f"its notes give {name!r} the dtype {noted!r}, which is not known here") from error
        if place.word != "U8" or dtype.hasobject or place.shape[-1:] != (dtype.itemsize,):
            raise self._damaged(f"its notes give {name!r} the dtype {noted!r}, which it does not have")
        return Kind(place.shape[:-1], dtype)

    def _damaged(self, what: str) -> WeightsError:
        return WeightsError(
            f"{self.where}: {self.path} is damaged: {what}. Nothing was loaded. Get it again. If another program has "
            "changed its numbers on purpose, let that write the file without the metadata 'jaxloop'."
        )


def _opened(path: Path) -> None:
    """Lets the library judge a file: the header, and that arrays neither overlap nor leave gaps."""
    with library().safe_open(path, framework="numpy") as file:
        file.keys()
