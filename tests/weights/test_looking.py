"""What `weights_in` tells of a file."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.weights import header
from tests.weights.test_file import handmade

pytest.importorskip("safetensors", reason="needs the extra `weights`")


def test_shapes_and_dtypes_are_told_by_name_in_order(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", {"b": np.zeros((2, 3), ml_dtypes.bfloat16), "a": {"c": np.zeros((), np.int32)}})
    found = jl.weights_in(tmp_path / "a")
    assert list(found) == ["a.c", "b"]
    assert found["b"] == jax.ShapeDtypeStruct((2, 3), ml_dtypes.bfloat16)
    assert (found["a.c"].shape, found["a.c"].dtype) == ((), np.int32)


def test_an_array_of_two_names_is_told_twice(tmp_path: Path) -> None:
    array = np.zeros(3)
    jl.save_weights(tmp_path / "a", {"one": array, "two": array})
    assert list(jl.weights_in(tmp_path / "a")) == ["one", "two"]


def test_a_dtype_that_numpy_has_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(header._DTYPES, "U16")  # as F4 is not known, which not every version of the library knows
    handmade(tmp_path / "a", {"w": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4))
    with pytest.raises(jl.errors.WeightsError, match=r"weights_in: .*'w' is U16, which NumPy does not have"):
        jl.weights_in(tmp_path / "a")
    with pytest.raises(jl.errors.WeightsError, match=r"dtypes differ: w U16 for uint16\[2\]"):
        jl.load_weights(tmp_path / "a", {"w": np.zeros(2, np.uint16)})
    with pytest.raises(jl.errors.WeightsError, match="dtypes differ: w U16, which NumPy does not have"):
        jl.load_weights(tmp_path / "a", {"w": np.zeros(2)}, lambda name: (name, np.negative))
