"""Reading checkpoints: nothing is given that has not been verified."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.checkpoint.arrays import restore
from jaxloop.checkpoint.disk import names, refuse_remote, summed
from jaxloop.checkpoint.fingerprint import snapshot
from jaxloop.checkpoint.journal import Journal
from jaxloop.checkpoint.leaves import stored
from jaxloop.checkpoint.manifest import NAME, read
from jaxloop.checkpoint.naming import ARRAYS, committed, journal_path
from jaxloop.checkpoint.retention import best
from jaxloop.errors import CheckpointError, CorruptCheckpointError
from jaxloop.path_argument import path_argument

__all__ = ["Saved", "Store", "refuse_remote"]


class Store:
    """The checkpoints in a directory, for reading.

    Args:
      directory: the directory; it need not exist.

    Raises:
      ValueError: the directory is an address such as `gs://bucket`.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = path_argument("checkpoint: a directory", directory, "run/checkpoints")
        refuse_remote(directory)

    def checkpoints(self) -> list["Saved"]:
        """The checkpoints that were committed, the oldest first. Whether they are whole, `Saved.verify` tells."""
        return [Saved(ordinal, path) for ordinal, path in committed(self.directory).items()]

    def best_ordinal(self) -> int | None:
        """The ordinal of the checkpoint with the best value, by the last that says what is best; None if none has."""
        manifests = {}
        for saved in self.checkpoints():
            with suppress(CorruptCheckpointError):
                manifests[saved.ordinal] = saved.manifest()
        judged = [manifest["best"] for _, manifest in sorted(manifests.items()) if manifest["best"] is not None]
        if not judged:
            return None
        name, mode = judged[-1]
        values = {n: manifest["value"] for n, manifest in manifests.items() if manifest["best"] == [name, mode]}
        return best(values, mode)


class Saved:
    """A checkpoint that was committed.

    Attributes:
      ordinal: its number, which only grows in a directory.
      path: its folder.
    """

    def __init__(self, ordinal: int, path: Path):
        self.ordinal, self.path = ordinal, path
        self._manifest: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Saved({self.ordinal}, {str(self.path)!r})"

    def manifest(self) -> dict[str, Any]:
        """What the checkpoint holds, see `checkpoint.manifest`. Do not change it: it is read once.

        Raises:
          CorruptCheckpointError: it is missing or damaged.
          CheckpointError: it is of a format that this version does not know.
        """
        if self._manifest is None:
            self._manifest = read(self.path)
        return self._manifest

    def verify(self) -> None:
        """Reads every file, and compares it with the manifest; of the journals what this checkpoint knows of them.

        Raises:
          CorruptCheckpointError: a file is missing, cut off, changed or too many; the message names it.
          CheckpointError: it is of a format that this version does not know.
        """
        files = self.manifest()["files"]
        try:
            found = set(names(self.path)) - {NAME}
            for name in sorted(files.keys() | found):
                if name not in found:
                    raise self._damaged(name, "it is missing")
                if name not in files:
                    raise self._damaged(name, "it is no file of the checkpoint. Remove it if it is yours")
                size = (self.path / name).stat().st_size
                if size != files[name][0]:
                    raise self._damaged(name, f"it has {size} bytes, {files[name][0]} were written")
                if list(summed(self.path / name)) != files[name]:
                    raise self._damaged(name, "its content has changed, by its CRC")
        except OSError as error:
            raise self._damaged(error.filename or "a file", f"it cannot be read: {error}") from error
        for name, (size, crc) in self.manifest()["journals"].items():
            Journal.check(journal_path(self.path.parent, name), size, crc)

    def journals(self) -> dict[str, bytes]:
        """What each journal held at this checkpoint.

        Raises:
          CorruptCheckpointError: one is shorter now, or its bytes are others.
        """
        places = self.manifest()["journals"]
        return {name: Journal.read(journal_path(self.path.parent, name), *place) for name, place in places.items()}

    def arrays(self, shardings: Sequence[jax.sharding.Sharding] | None = None) -> list[jax.Array]:
        """The arrays, in buffers of their own that can be donated; of a typed PRNG key its bits. Verifies first.

        Args:
          shardings: where each is to lie; None is JAX's default device.

        Raises:
          CorruptCheckpointError: the checkpoint is damaged; the message names the file or the leaf.
          CheckpointError: it holds numbers of 64 bits, and `jax_enable_x64` is off.
        """
        self.verify()
        leaves = [leaf for leaf in self.manifest()["leaves"] if "array" in leaf]
        kinds = [stored(leaf) for leaf in leaves]
        self._check_width(leaves, kinds)
        if shardings is None:
            shardings = [jnp.zeros(()).sharding] * len(kinds)
        try:
            found = restore(self.path / ARRAYS, kinds, shardings)
        except (MemoryError, jax.errors.JaxRuntimeError):  # no room: the checkpoint may well be whole
            raise
        except Exception as error:
            raise CorruptCheckpointError(
                f"checkpoint: the arrays of {self.path} cannot be read, though each file is as it was written: "
                f"{type(error).__name__}: {_first_line(error)} Nothing of it was loaded."
            ) from error
        own, marks = snapshot(found)  # restored arrays are not always such that they can be donated
        expected = self.manifest()["fingerprints"]
        for leaf, mark, saved in zip(leaves, np.asarray(marks).tolist(), expected, strict=True):
            if mark != saved:
                raise CorruptCheckpointError(
                    f"checkpoint: {leaf['path']} in {self.path} is not what was saved, by its fingerprint. Nothing of "
                    "the checkpoint was loaded."
                )
        return own

    def _check_width(self, leaves: list[dict[str, Any]], kinds: list[tuple[tuple[int, ...], np.dtype]]) -> None:
        for leaf, (_, dtype) in zip(leaves, kinds, strict=True):
            if jax.dtypes.canonicalize_dtype(dtype) != dtype:
                raise CheckpointError(
                    f"checkpoint: {leaf['path']} in {self.path} is {dtype}, and JAX would make it narrower. Set "
                    "`jax_enable_x64`, as the run that saved it did."
                )

    def _damaged(self, name: str, why: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"checkpoint: {self.path / name} is damaged: {why}. Nothing of the checkpoint was loaded."
        )


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0][:300]
    return line if line.endswith(".") else f"{line}."
