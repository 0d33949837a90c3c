"""The header of a file: what is written is read, and what others write in our place is refused."""

import json
import struct

import numpy as np
import pytest

from jaxloop.weights.header import FORMAT, Notes, Place, decoded, encoded, header_length, word_of


def taken_apart(header: bytes) -> tuple[bytes, bytes]:
    assert header_length(header[:8]) == len(header) - 8
    return header[:8], header[8:]


def test_what_is_encoded_is_decoded() -> None:
    notes = Notes(keys={"k": "rbg"}, dtypes={"n": "int4"}, shared={"t": "w"}, sums={"w": "0123abcd"})
    header = encoded({"w": ("F32", (2, 3), 24), "k": ("U32", (2,), 8), "n": ("U8", (5, 1), 5)}, notes)
    places, found = decoded(*taken_apart(header))
    first = len(header)
    assert found == notes
    assert places == {
        "w": Place(np.dtype("float32"), "F32", (2, 3), first, 24),
        "k": Place(np.dtype("uint32"), "U32", (2,), first + 24, 8),
        "n": Place(np.dtype("uint8"), "U8", (5, 1), first + 32, 5),
    }


@pytest.mark.parametrize("name", ["a", "ab", "abc", "ä", 'a"b\\', "a\nb"])
def test_arrays_begin_at_a_multiple_of_eight_whatever_the_names(name: str) -> None:
    header = encoded({name: ("F32", (), 4)}, Notes())
    assert len(header) % 8 == 0
    assert list(decoded(*taken_apart(header))[0]) == [name]


def test_a_file_of_others_has_no_notes_and_may_have_dtypes_that_numpy_has_not() -> None:
    text = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    places, notes = decoded(struct.pack("<Q", len(text)), text)
    assert notes == Notes()
    assert (places["w"].dtype, places["w"].word) == (None, "F4")


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ([], "has no format"),
        ({"version": "1"}, "has no format"),
        ({"format": FORMAT + 1, "version": "9.9"}, r"version 9\.9 of jaxloop wrote it, in format 2.*Take a newer"),
        ({"format": 1, "keys": []}, "not as it writes it"),
        ({"format": 1, "sums": {"a": 3}}, "not as it writes it"),
    ],
)
def test_notes_that_are_not_ours_are_refused(told: object, complaint: str) -> None:
    text = json.dumps({"__metadata__": {"jaxloop": json.dumps(told)}}).encode()
    with pytest.raises(ValueError, match=complaint):
        decoded(struct.pack("<Q", len(text)), text)


def test_only_dtypes_that_every_version_of_the_library_knows_have_a_word() -> None:
    known = {name: word_of(np.dtype(name)) for name in ("float32", "uint64", "bool", "complex64", "complex128")}
    assert known == {"float32": "F32", "uint64": "U64", "bool": "BOOL", "complex64": None, "complex128": None}
