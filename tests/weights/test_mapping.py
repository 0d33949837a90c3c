"""What `names` means, in each of its forms."""

from typing import Any

import numpy as np
import pytest

from jaxloop.weights.mapping import Source, mapped

HELD = ("a", "b", "c")


def plain(result: Any) -> dict[str, list[tuple[str, ...]]]:
    return {name: [source.held for source in sources] for name, sources in result.sources.items()}


def test_without_names_each_array_has_its_own() -> None:
    assert plain(mapped(None, HELD)) == {"a": [("a",)], "b": [("b",)], "c": [("c",)]}


def test_a_mapping_leaves_as_they_are_the_names_that_it_does_not_have() -> None:
    assert plain(mapped({"a": "x", "b": None}, HELD)) == {"x": [("a",)], "c": [("c",)]}


def test_a_function_is_asked_for_every_name() -> None:
    result = mapped(lambda name: None if name == "b" else name.upper(), HELD)
    assert plain(result) == {"A": [("a",)], "C": [("c",)]}


def test_a_pair_is_a_name_and_a_function() -> None:
    result = mapped({"a": ("x", np.transpose)}, ["a"])
    assert result.sources == {"x": [Source(("a",), np.transpose)]}


def test_a_list_gives_several_leaves() -> None:
    assert plain(mapped(lambda name: ["x", ("y", np.transpose)], ["a"])) == {"x": [("a",)], "y": [("a",)]}


def test_a_tuple_of_names_gives_one_leaf_of_several_arrays() -> None:
    result = mapped({("a", "b"): ("x", np.add)}, HELD)
    assert result.sources == {"x": [Source(("a", "b"), np.add)], "c": [Source(("c",))]}


def test_two_arrays_for_one_leaf_are_both_its_sources() -> None:
    assert plain(mapped({"a": "x", "b": "x"}, ["a", "b"])) == {"x": [("a",), ("b",)]}


def test_names_that_the_file_has_not_are_told() -> None:
    result = mapped({"z": "x", ("a", "y"): ("x", np.add)}, ["a"])
    assert (result.unknown, result.sources) == (["z", "y"], {})


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a"], "`names` must be a mapping or a function from a name in the file to one of the model, got list"),
        ({3: "a"}, r"a key of `names` must be a name in the file or a tuple of such, got 3"),
        ({(): "a"}, r"a key of `names` must be a name"),
        ({"a": 3}, r"`names` gave 3 for a\. It must be a name, \(name, function\), a list of these, or None"),
        ({"a": ("x", "y")}, r"`names` gave \('x', 'y'\) for a"),
        (lambda name: b"x", r"`names` gave b'x' for a"),
        ({("a", "b"): "x"}, r"`names` makes 'x' of 2 arrays, a, b, but by no function"),
    ],
)
def test_anything_else_is_refused(names: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        mapped(names, HELD)
