"""What event files take of tensorboardX's inside, which it does not promise to keep: each is where it was."""

import importlib

import pytest

INSIDE = [
    ("tensorboardX.record_writer", "masked_crc32c"),
    ("tensorboardX.crc32c", "CRC_TABLE"),
    ("tensorboardX.crc32c", "crc32c"),
    ("tensorboardX.proto.event_pb2", "Event"),
    ("tensorboardX.proto.plugin_hparams_pb2", "HParamsPluginData"),
    ("tensorboardX.summary", "Summary"),
    ("tensorboardX.summary", "make_histogram"),
    ("tensorboardX.summary", "hparams"),
]
ADVICE = "Adapt jaxloop/files (event_file, summaries), or bound tensorboardX below this version in pyproject.toml."


@pytest.mark.parametrize(("module", "name"), INSIDE)
def test_it_is_where_it_was(module, name):
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"tensorboardX has moved {module}: {error}. {ADVICE}")
    assert hasattr(found, name), f"tensorboardX has moved {module}.{name}. {ADVICE}"


def test_it_does_what_it_did():
    from tensorboardX.crc32c import CRC_TABLE, crc32c
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c
    from tensorboardX.summary import Summary, hparams

    assert len(CRC_TABLE) == 256
    assert crc32c(b"123456789") == 0xE3069283, f"tensorboardX has another checksum. {ADVICE}"  # RFC 3720, B.4
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8 & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == rotated, f"tensorboardX masks checksums in another way. {ADVICE}"
    summary = Summary()
    summary.value.add(tag="a", simple_value=0.5)
    event = Event.FromString(Event(wall_time=1.0, step=3, summary=summary).SerializeToString())
    assert (event.step, event.summary.value[0].tag) == (3, "a"), f"tensorboardX has another Event. {ADVICE}"
    assert len(hparams({"rate": 0.5}, {})) == 3, f"tensorboardX's hparams gives something else. {ADVICE}"
