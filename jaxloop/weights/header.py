"""The header of a safetensors file: where each array lies, and what jaxloop notes about them."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

#: The format of what jaxloop notes. It grows when an older jaxloop would misread a file.
FORMAT = 1
_OURS = "jaxloop"
#: The dtypes of NumPy and `ml_dtypes` by those words of the format that every version of the library knows. An array of
#: another dtype is written as its bytes.
_DTYPES = {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_READ_ONLY = {"C64": "complex64", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz"}
_READ_ONLY |= {"F8_E5M2FNUZ": "float8_e5m2fnuz"}
_WORDS = {name: word for word, name in _DTYPES.items()}


class Place(NamedTuple):
    """Where an array lies in a file.

    Attributes:
      dtype: of NumPy or `ml_dtypes`; None if NumPy has none such.
      word: what the file calls it.
      shape: of the array.
      start, size: its first byte in the file, and how many there are.
    """

    dtype: np.dtype | None
    word: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Notes:
    """What jaxloop notes about the arrays of a file, each by name. A file of others has none.

    Attributes:
      keys: the implementation of each typed PRNG key, of which the file holds the bits.
      dtypes: the dtype of what is written as bytes, since the format has no word for it.
      shared: the name under which the file holds an array that has two names.
      sums: CRC-32 of each array's bytes, in hexadecimal.
    """

    keys: dict[str, str] = field(default_factory=dict[str, str])
    dtypes: dict[str, str] = field(default_factory=dict[str, str])
    shared: dict[str, str] = field(default_factory=dict[str, str])
    sums: dict[str, str] = field(default_factory=dict[str, str])


def word_of(dtype: np.dtype) -> str | None:
    """What the format calls a dtype; None if it has no word for it."""
    return _WORDS.get(dtype.name)


def encoded(places: Mapping[str, tuple[str, tuple[int, ...], int]], notes: Notes) -> bytes:
    """The header of a file of arrays that lie one after the other, with its length.

    Args:
      places: of each array the word of its dtype, its shape and its size in bytes, in the order of the file.
      notes: the length of the header depends on the length of their values only.
    """
    about = {"format": FORMAT, "version": _version(), **vars(notes)}
    header: dict[str, Any] = {"__metadata__": {_OURS: json.dumps(about, ensure_ascii=True)}}
    start = 0
    for name, (word, shape, size) in places.items():
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    return struct.pack("<Q", len(text)) + text


def decoded(beginning: bytes, text: bytes) -> tuple[dict[str, Place], Notes]:
    """Where each array lies, and the notes. The library has found the header sound.

    Args:
      beginning: the first eight bytes of the file.
      text: the header, without them.

    Raises:
      ValueError: jaxloop's notes are not as it writes them, or those of a later format.
    """
    header = json.loads(text)
    about = header.pop("__metadata__", None) or {}
    first = len(beginning) + len(text)
    places = {}
    for name, told in header.items():
        start, end = told["data_offsets"]
        word = told["dtype"]
        known = _DTYPES.get(word) or _READ_ONLY.get(word)
        dtype = None if known is None else jnp.dtype(known)
        places[name] = Place(dtype, word, tuple(told["shape"]), first + start, end - start)
    return places, _notes(about[_OURS]) if _OURS in about else Notes()


def header_length(beginning: bytes) -> int:
    """The length of the header that the first eight bytes of a file tell."""
    return struct.unpack("<Q", beginning)[0]


def _notes(text: str) -> Notes:
    told = json.loads(text)
    if not isinstance(told, dict) or not isinstance(told.get("format"), int):
        raise ValueError("what jaxloop notes in it has no format")
    if told["format"] > FORMAT:
        raise ValueError(
            f"version {told.get('version')} of jaxloop wrote it, in format {told['format']}, and this one, "
            f"{_version()}, reads format {FORMAT}. Take a newer jaxloop"
        )
    fields = {name: told.get(name, {}) for name in Notes.__dataclass_fields__}
    for each in fields.values():
        if not isinstance(each, dict) or not all(isinstance(value, str) for value in each.values()):
            raise ValueError("what jaxloop notes in it is not as it writes it")
    return Notes(**fields)


def _version() -> str:
    try:
        return metadata.version("jaxloop")
    except metadata.PackageNotFoundError:
        return "unknown"
