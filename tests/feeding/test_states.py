"""States of loaders as JSON."""

import json

import numpy as np

from jaxloop.feeding.states import decoded, encoded


def test_a_state_goes_through_json() -> None:
    state = {"place": 3, 4: (b"\x00\xff", None, [1.5, True]), "bits": np.arange(3, dtype=np.uint8)}
    back = decoded(json.loads(json.dumps(encoded(state))))
    np.testing.assert_array_equal(back.pop("bits"), state.pop("bits"))
    assert back == state
