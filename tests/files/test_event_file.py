"""Event files and scalars in them, read back by TensorBoard, and compared with tensorboardX's own bytes."""

import os
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloop.files.event_file import EventFile, ScalarRows
from tests import event_files

TAGS = ["batch/loss", "batch/" + "long" * 40, "ä/b"]


@pytest.fixture
def written(tmp_path):
    """Writes rows of scalars to a new file; gives the accumulator that read them."""

    def write(tags, times, steps, values):
        file = EventFile(tmp_path)
        file.write(ScalarRows(tags).encode(np.array(times), np.array(steps), np.array(values, np.float32)))
        file.close()
        return event_files.read(tmp_path)

    return write


def records(data):
    """The contents of the records in `data`, once lengths and checksums are found right by tensorboardX."""
    from tensorboardX.record_writer import masked_crc32c

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked_crc32c(data[12 : 12 + length]),)
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_tensorboard_reads_back_time_step_and_value_of_each_row_bit_for_bit(written):
    random = np.random.default_rng(0)
    times, steps = 1.7e9 + random.random(300), np.sort(random.integers(0, 2**31, 300))
    values = random.normal(size=(300, 3)).astype(np.float32)
    values[:4, 0] = np.nan, np.inf, -0.0, np.finfo(np.float32).smallest_subnormal
    found = written(TAGS, times, steps, values)
    assert found.Tags()["scalars"] == TAGS
    for column, tag in enumerate(TAGS):
        events = found.Scalars(tag)
        assert [event.step for event in events] == steps.tolist()
        assert [event.wall_time for event in events] == times.tolist()
        read = np.array([event.value for event in events], np.float32)
        np.testing.assert_array_equal(read.view(np.int32), values[:, column].view(np.int32))


@given(
    st.floats(0, 4e9),
    st.integers(0, 2**31 - 1),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
)
def test_a_row_is_the_message_that_protobuf_makes_of_it(time, step, values):
    from tensorboardX.proto.event_pb2 import Event

    tags = [f"tag_{index}" for index in range(len(values))]
    row = ScalarRows(tags).encode(np.array([time]), np.array([step]), np.array([values], np.float32))
    (data,) = records(row)
    values = [{"tag": tag, "simple_value": value} for tag, value in zip(tags, values, strict=True)]
    assert Event.FromString(data) == Event(wall_time=time, step=step, summary={"value": values})


def test_the_checksum_is_right_for_any_number_of_rows():
    rows = ScalarRows(["loss"])
    steps = np.array([0, 1, 127, 128, 2**28, 2**31 - 1])
    encoded = rows.encode(1.7e9 + steps, steps, np.arange(6, dtype=np.float32)[:, None])
    assert len(list(records(encoded))) == 6


def test_a_new_file_begins_with_the_version_that_tensorboard_asks_for(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    EventFile(tmp_path / "deep" / "run").close()
    (path,) = (tmp_path / "deep" / "run").iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d{10}\..+", path.name)
    (data,) = records(path.read_bytes())
    assert Event.FromString(data).file_version == "brain.Event:2"


def test_two_files_of_one_second_are_two_files(tmp_path):
    for _ in range(3):
        EventFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_written_is_in_the_file_before_it_is_closed(tmp_path):
    file = EventFile(tmp_path)
    file.write(ScalarRows(["loss"]).encode(np.array([1.0]), np.array([3]), np.array([[0.5]], np.float32)))
    assert event_files.scalars(tmp_path) == {"loss": {3: 0.5}}
    file.close()


class FullDisk:
    """A file of which only the first `room` bytes reach the disk, as on one that fills up."""

    def __init__(self, file, room):
        self.file = file
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        count = self.file.write(data[: self.room])
        self.room -= count
        return count

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_write_that_fails_halfway_leaves_whole_records_alone(tmp_path):
    rows = ScalarRows(["loss"])
    row = rows.encode(np.array([1.0]), np.array([3]), np.array([[0.5]], np.float32))
    file = EventFile(tmp_path)
    file.write(row)
    file._file = FullDisk(file._file, room=len(row) // 2)
    with pytest.raises(OSError, match="No space left"):
        file.write(row)
    (path,) = tmp_path.iterdir()
    assert len(list(records(path.read_bytes()))) == 2  # the version, and the first row

    file._file.room = 10**6
    file.write(rows.encode(np.array([1.0]), np.array([4]), np.array([[0.25]], np.float32)))
    file.close()
    assert event_files.scalars(tmp_path) == {"loss": {3: 0.5, 4: 0.25}}


def test_a_write_that_takes_several_pieces_writes_all(tmp_path):
    class Slow(FullDisk):
        def write(self, data):
            return self.file.write(data[:7])

    file = EventFile(tmp_path)
    file._file = Slow(file._file, room=0)
    file.write(ScalarRows(["loss"]).encode(np.arange(9.0), np.arange(9), np.ones((9, 1), np.float32)))
    file.close()
    assert event_files.scalars(tmp_path) == {"loss": dict.fromkeys(range(9), 1.0)}


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="Not a directory"):
        EventFile(tmp_path / "file" / "run")


def test_a_new_file_has_a_later_name_than_those_that_are_there(tmp_path):
    (tmp_path / "events.out.tfevents.9999999990.host.1.0").touch()
    (tmp_path / "notes.txt").touch()
    EventFile(tmp_path).close()
    EventFile(tmp_path).close()
    found = sorted(path.name.split(".")[3] for path in tmp_path.glob("events*"))
    assert found == ["9999999990", "9999999991", "9999999992"]


def test_a_file_is_synced_with_its_folder_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    file = EventFile(tmp_path / "train")
    file.sync()
    (path,) = (tmp_path / "train").iterdir()
    assert synced[:2] == [path.stat().st_ino, path.parent.stat().st_ino]
    synced.clear()
    file.sync()
    assert synced == [path.stat().st_ino]
    file.close()
