"""The manifest of a checkpoint: what it holds, in JSON, such that any changed bit of the text is found out."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxloop.checkpoint.disk import stays_inside
from jaxloop.checkpoint.leaves import stored
from jaxloop.errors import CheckpointError, CorruptCheckpointError

NAME = "manifest.json"
FORMAT = 1
_FIELDS = frozenset(("about", "best", "checksum", "files", "fingerprints", "format", "journals", "leaves", "value"))


def text_of(manifest: Mapping[str, Any]) -> str:
    """The one text that stands for a manifest: a line for each field, keys in order, with a checksum of the others."""
    fields = {name: value for name, value in manifest.items() if name != "checksum"}
    return _text(fields | {"checksum": hashlib.sha256(_text(fields).encode()).hexdigest()})


def read(folder: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in `folder`.

    Raises:
      CorruptCheckpointError: it is missing, cut off or changed, or names a file outside of the folder.
      CheckpointError: another version of jaxloop wrote it, in a format that this one does not know.
    """
    path = folder / NAME
    if path.is_symlink():
        raise _damaged(path, "it is a link to another file")
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is no JSON") from error
    if not isinstance(manifest, dict) or _checked(manifest) != content:
        raise _damaged(path, "its checksum is not that of its text")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint: {path} has format {manifest.get('format')!r}, and this version of jaxloop reads format "
            f"{FORMAT}. Read it with the version that wrote it, or a newer one."
        )
    if why := _malformed(manifest):
        raise _damaged(path, why)
    return manifest


def _text(fields: Mapping[str, Any]) -> str:
    lines = (f"{json.dumps(name)}: {_line(fields[name])}" for name in sorted(fields))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _checked(manifest: dict[str, Any]) -> bytes:
    """The text that these fields should have; it is the file's own only if no bit of it has changed."""
    try:
        return text_of(manifest).encode()
    except (TypeError, ValueError, RecursionError):
        return b""


def _malformed(manifest: dict[str, Any]) -> str:
    """What is wrong with a manifest whose checksum is right; empty if nothing is."""
    if set(manifest) != _FIELDS:
        return f"it has the fields {', '.join(sorted(manifest))}"
    try:
        for name, (size, crc) in manifest["files"].items():
            if not stays_inside(name):
                return f"the file {name!r} does not lie inside of the checkpoint"
            if type(size) is not int or type(crc) is not int:
                return f"the file {name!r} has no size and CRC"
        for name, (size, crc) in manifest["journals"].items():
            if not stays_inside(name) or "/" in name:
                return f"the journal {name!r} does not lie beside the checkpoint"
            if type(size) is not int or type(crc) is not int:
                return f"the journal {name!r} has no size and CRC"
        arrays = [leaf for leaf in manifest["leaves"] if "array" in leaf]
        for leaf in arrays:
            stored(leaf)
        if [leaf["array"] for leaf in arrays] != list(range(len(arrays))):
            return "its arrays are not in order"
        if [len(pair) for pair in manifest["fingerprints"]] != [2] * len(arrays):
            return "it has not a fingerprint for each array"
    except (TypeError, KeyError, ValueError, AttributeError, CorruptCheckpointError) as error:
        return f"a field is not as it should be ({type(error).__name__}: {error})"
    return ""


def _damaged(path: Path, why: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"checkpoint: {path} is damaged: {why}. Nothing of the checkpoint was loaded.")
