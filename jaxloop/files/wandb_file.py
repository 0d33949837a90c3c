"""Reading back what Weights & Biases has written to the folder of a run: a log of records in blocks, as in LevelDB."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_CHUNK_HEADER = 7  # a checksum of four bytes, a length of two, a kind of one
_FILE_HEADER = 7  # ":W&B", a magic number, a version
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that a run has logged, each a value by name. It needs wandb, for the form of its messages.

    Raises:
      OSError, ValueError: as `records`.
    """
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    for message in records(path):
        found = record.FromString(message)
        if found.WhichOneof("record_type") == "history":
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in found.history.item}


def records(path: Path) -> Iterator[bytes]:
    """The records of a file `run-<id>.wandb`, each a message `Record` of `wandb_internal.proto`.

    A kill leaves the file without its end: the records stop before what is torn.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not such a file.
    """
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{str(path)!r} is not a file of W&B: it begins with {data[:4]!r}.")
    place, parts = _FILE_HEADER, []
    while place + _CHUNK_HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _CHUNK_HEADER:  # what is left of a block is not used
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        start = place + _CHUNK_HEADER
        place = start + length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or place > len(data):
            return
        parts = [*parts, data[start:place]] if kind in (_MIDDLE, _LAST) else [data[start:place]]
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
