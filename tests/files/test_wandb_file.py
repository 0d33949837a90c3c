"""Records of W&B's files: whole ones, those over several blocks, and what a kill leaves."""

import pytest

from jaxloop.files.wandb_file import records

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32768


def written(messages):
    """The messages as LevelDB's log format has them, with the header of W&B; checksums are zeros."""
    data = HEADER
    for message in messages:
        first = True
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            part, message = message[: left - 7], message[left - 7 :]
            kind = (1 if first else 4) if not message else (2 if first else 3)
            data += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            first = False
            if not message:
                break
    return data


MESSAGES = [b"a", b"", b"b" * 100, b"c" * (3 * BLOCK), *[bytes([at]) * 1000 for at in range(100)]]


def test_records_are_read_over_the_ends_of_blocks(tmp_path):
    path = tmp_path / "run.wandb"
    for padding in range(30):  # so that a block ends at each place in a header
        messages = [*MESSAGES, b"d" * (BLOCK - 7 * padding), b"e"]
        path.write_bytes(written(messages))
        assert list(records(path)) == messages


def test_what_is_torn_is_left_out(tmp_path):
    path = tmp_path / "run.wandb"
    whole = written([b"abc", b"d" * 50])
    ends = {len(whole): 2, len(whole) - 1: 1, len(HEADER) + 10: 1, len(HEADER) + 9: 0, len(HEADER) + 3: 0}
    for size, count in ends.items():
        path.write_bytes(whole[:size])
        assert len(list(records(path))) == count
    path.write_bytes(whole[: len(HEADER) + 10] + bytes(100))  # a file system may leave zeros
    assert list(records(path)) == [b"abc"]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "log").write_bytes(b"epoch,batch")
    with pytest.raises(ValueError, match=r"log' is not a file of W&B: it begins with b'epoc'"):
        list(records(tmp_path / "log"))
