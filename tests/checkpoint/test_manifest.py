"""No bit of a manifest changes unseen, and none leads out of its folder."""

from pathlib import Path
from typing import Any

import pytest

from jaxloop.checkpoint import manifest as manifests
from jaxloop.errors import CheckpointError, CorruptCheckpointError

LEAF = {"path": "['a']", "entries": [["key", "a"]], "shape": [2], "dtype": "float32", "kind": "array", "array": 0}


def example(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "about": {"step": 3, "text": "Grüße\n"},
        "leaves": [LEAF],
        "fingerprints": [[1, 2]],
        "files": {"arrays/d/0f": [10, 99]},
        "journals": {"rows": [5, 7]},
        "value": 0.25,
        "best": ["loss", "min"],
    } | changes


def write(folder: Path, manifest: dict[str, Any]) -> bytes:
    content = manifests.text_of(manifest).encode()
    (folder / manifests.NAME).write_bytes(content)
    return content


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, example())
    found = manifests.read(tmp_path)
    assert {name: value for name, value in found.items() if name != "checksum"} == example()


def test_it_has_a_line_for_each_field(tmp_path: Path) -> None:
    lines = write(tmp_path, example()).decode().splitlines()
    assert lines[1] == '"about": {"step": 3, "text": "Gr\\u00fc\\u00dfe\\n"},'
    assert len(lines) == 11


def test_any_changed_bit_is_seen(tmp_path: Path) -> None:
    content = write(tmp_path, example())
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / manifests.NAME).write_bytes(changed)
        with pytest.raises(CorruptCheckpointError, match=r"manifest\.json is damaged"):
            manifests.read(tmp_path)


def test_any_cut_is_seen_and_anything_added(tmp_path: Path) -> None:
    content = write(tmp_path, example())
    for changed in [content[:size] for size in range(len(content))] + [content + b"\n", b" " + content, content * 2]:
        (tmp_path / manifests.NAME).write_bytes(changed)
        with pytest.raises(CorruptCheckpointError, match=r"manifest\.json is damaged"):
            manifests.read(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}", b"\xff\xfe", b"[" * 100000, b'{"a": NaN}'])
def test_other_json_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / manifests.NAME).write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"manifest\.json is damaged"):
        manifests.read(tmp_path)


def test_a_missing_one_and_a_link_are_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        manifests.read(tmp_path)
    (tmp_path / "other").write_bytes(write(tmp_path, example()))
    (tmp_path / manifests.NAME).unlink()
    (tmp_path / manifests.NAME).symlink_to(tmp_path / "other")
    with pytest.raises(CorruptCheckpointError, match="a link"):
        manifests.read(tmp_path)


def test_a_format_of_the_future_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, {"format": 2, "new": 1})
    with pytest.raises(CheckpointError, match="has format 2, and this version of jaxloop reads format 1") as caught:
        manifests.read(tmp_path)
    assert not isinstance(caught.value, CorruptCheckpointError)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"files": {"/etc/passwd": [1, 2]}}, "'/etc/passwd' does not lie inside"),
        ({"files": {"../00000001/x": [1, 2]}}, "does not lie inside"),
        ({"files": {"a/../../x": [1, 2]}}, "does not lie inside"),
        ({"files": {"a": ["1", 2]}}, "no size and CRC"),
        ({"files": {"a": [1]}}, "not as it should be"),
        ({"files": []}, "not as it should be"),
        ({"journals": {"../rows": [1, 2]}}, "does not lie beside"),
        ({"journals": {"a/rows": [1, 2]}}, "does not lie beside"),
        ({"journals": {"rows": [1.5, 2]}}, "no size and CRC"),
        ({"leaves": [LEAF | {"dtype": "object"}]}, "dtype"),
        ({"leaves": [LEAF | {"array": 1}]}, "not in order"),
        ({"leaves": [{"array": 0}]}, "not as it should be"),
        ({"leaves": 3}, "not as it should be"),
        ({"fingerprints": []}, "a fingerprint for each"),
        ({"fingerprints": [[1]]}, "a fingerprint for each"),
        ({"more": 1}, "it has the fields"),
    ],
)
def test_a_forged_one_with_the_right_checksum_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    write(tmp_path, example(**changes))
    with pytest.raises(CorruptCheckpointError, match=why):
        manifests.read(tmp_path)
