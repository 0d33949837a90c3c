"""One checkpoint on its way to the disk: written under a temporary name, made durable, and then renamed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxloop.checkpoint.arrays import save
from jaxloop.checkpoint.disk import remove, sums, sync_folders, write_synced
from jaxloop.checkpoint.manifest import FORMAT, NAME, text_of
from jaxloop.checkpoint.naming import ARRAYS, removing, writing
from jaxloop.durable import sync_folder


@dataclass(frozen=True)
class Content:
    """What a checkpoint will hold.

    Attributes:
      arrays: copies that nobody donates; they may still be on their way.
      fingerprints: uint32[n, 2], those of the arrays.
      described: the leaves, see `leaves.Flat`.
      about: JSON, as text: it does not change while it waits.
      value: by which the best is found; None if there is none.
      best: what the value is, and whether `"min"` or `"max"` is better; None if it does not count.
    """

    arrays: Sequence[jax.Array]
    fingerprints: jax.Array
    described: list[dict[str, Any]]
    about: str
    value: float | None
    best: tuple[str, str] | None


def prepare(path: Path, content: Content) -> None:
    """Writes the arrays under the temporary name of `path`. Waits for the device."""
    folder = writing(path)
    folder.mkdir()
    save(folder / ARRAYS, content.arrays)


def commit(path: Path, content: Content, journals: Mapping[str, tuple[int, int]]) -> None:
    """Completes what `prepare` wrote, makes it durable, and gives it its name as the last thing.

    Args:
      path: where the checkpoint will lie; nothing lies there.
      content: the same that was prepared.
      journals: sizes and CRCs of the journals at this checkpoint.
    """
    folder = writing(path)
    manifest = {
        "format": FORMAT,
        "about": json.loads(content.about),
        "leaves": content.described,
        "fingerprints": np.asarray(content.fingerprints).tolist(),
        "files": sums(folder, sync=True),
        "journals": {name: list(place) for name, place in journals.items()},
        "value": content.value,
        "best": None if content.best is None else list(content.best),
    }
    write_synced(folder / NAME, text_of(manifest).encode())
    sync_folders(folder)
    folder.rename(path)
    sync_folder(path.parent)


def abandon(path: Path) -> None:
    """Removes what was written under the temporary name of `path`."""
    remove(writing(path))


def discard(path: Path) -> None:
    """Removes a checkpoint. It loses its name first, so that a kill leaves no half of it."""
    path.rename(removing(path))
    remove(removing(path))
