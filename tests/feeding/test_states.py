"""States of loaders as JSON."""

import json
from typing import Any

import numpy as np
import pytest

from jaxloop.feeding.states import NotJSONError, decoded, encoded, restored, state_of


def test_a_state_goes_through_json() -> None:
    state = {"place": 3, 4: (b"\x00\xff", None, [1.5, True]), "bits": np.arange(3, dtype=np.uint8)}
    back = decoded(json.loads(json.dumps(encoded(state))))
    np.testing.assert_array_equal(back.pop("bits"), state.pop("bits"))
    assert back == state


def test_what_is_not_json_has_no_state() -> None:
    with pytest.raises(NotJSONError, match=r"a loader's state must be of numbers.*got object"):
        encoded({"place": object()})


def test_a_loader_that_is_not_known_to_be_exact_has_no_state() -> None:
    class Loader:
        def get_state(self) -> dict[str, int]:
            return {"place": 1}

        set_state = state_dict = load_state_dict = get_state

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            return 1

    assert state_of(Loader(), Loader()) is None


def test_a_loader_of_grain_goes_on_from_its_state() -> None:
    grain: Any = pytest.importorskip("grain", reason="grain did not install", exc_type=ImportError)
    data = grain.MapDataset.source(list(range(10))).shuffle(seed=1)
    rest = iter(data)
    begun = [int(next(rest)) for _ in range(4)]
    state = json.loads(json.dumps(state_of(data, rest)))
    assert begun + [int(sample) for sample in restored(data, state)] == [int(sample) for sample in data]
    with pytest.raises(LookupError, match="grain"):
        restored([1, 2], state)
