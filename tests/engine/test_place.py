"""A place goes through JSON without a change."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxloop import Event
from jaxloop.engine.place import Origin, Place
from jaxloop.events import TRAINING, VALIDATION, Split

ROWS = [np.array([1, -(2**31), 2**31 - 1], np.int32), np.array([0, 7, np.float32(np.nan).view(np.int32)], np.int32)]


@pytest.mark.parametrize("moment", [TRAINING, VALIDATION, Split.named("in_domain"), None, Event.FIT_END])
def test_a_place_is_the_same_after_json(moment) -> None:
    place = Place(
        moment,
        position=6,
        rows=ROWS,
        names=["counted", "stop", "loss"],
        requests=4,
        fused={TRAINING: 3, VALIDATION: 1, Split.named("in_domain"): 2},
        states={"CSVLogger": {"bytes": 12}, "CSVLogger 2": {"bytes": 0}},
        marks={"training": {"kind": "position"}},
    )
    origin = Origin(Path("/runs/one"), 7, {"batches": (24, 99)})
    found = {"journals": {"batches": b"\x00\x01"}, "elsewhere": True, "origin": origin}
    after = Place.of(json.loads(json.dumps(place.described())), **found)
    for name in ("moment", "position", "names", "requests", "fused", "states", "marks"):
        assert getattr(after, name) == getattr(place, name), name
    assert [row.tolist() for row in after.rows] == [row.tolist() for row in ROWS]
    assert (after.journals, after.elsewhere, after.origin) == ({"batches": b"\x00\x01"}, True, origin)


def test_a_place_knows_its_phase_and_whether_the_run_is_over() -> None:
    assert [Place(moment).split for moment in (TRAINING, None, Event.FIT_END)] == [TRAINING, None, None]
    assert [Place(moment).finished for moment in (TRAINING, None, Event.FIT_END)] == [False, False, True]
