"""A tree is described by its leaves, and comes back from them bit for bit."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.checkpoint.leaves import differences, flattened, named_dtype, rebuilt, stored
from jaxloop.errors import CorruptCheckpointError
from tests.checkpoint.saving import tree
from tests.small import assert_trees_equal

NAMES = ("bool", "int4", "uint2", "int8", "float16", "bfloat16", "float32", "float64", "int64", "complex128")
EXTENDED = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu")


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Node:
    value: Any


def round_trip(tree: Any) -> Any:
    flat = flattened(tree)
    return rebuilt(json.loads(json.dumps(flat.described)), flat.arrays, tree)


def held(tree: Any) -> list[dict[str, Any]]:
    return json.loads(json.dumps(flattened(tree).described))


def test_a_tree_comes_back_bit_for_bit() -> None:
    assert_trees_equal(round_trip(tree(3)), tree(3))


def test_a_leaf_is_described_in_json() -> None:
    flat = flattened({"a": jnp.ones((2, 3), jnp.bfloat16), "b": Pair(np.float32(1), np.arange(2, dtype=np.int16))})
    assert flat.described == [
        {
            "path": "['a']",
            "entries": [["key", "a"]],
            "shape": [2, 3],
            "dtype": "bfloat16",
            "kind": "array",
            "array": 0,
        },
        {
            "path": "['b'].first",
            "entries": [["key", "b"], ["attribute", "first"]],
            "shape": [],
            "dtype": "float32",
            "kind": "array",
            "bits": "0000803f",
            "scalar": True,
        },
        {
            "path": "['b'].second",
            "entries": [["key", "b"], ["attribute", "second"]],
            "shape": [2],
            "dtype": "int16",
            "kind": "array",
            "bits": "00000100",
            "scalar": False,
        },
    ]
    assert len(flat.arrays) == 1


@pytest.mark.parametrize("dtype", NAMES + EXTENDED)
def test_numpy_leaves_of_every_dtype_keep_their_bits_and_their_type(dtype: str) -> None:
    array = np.ones((2, 2), jnp.dtype(dtype))
    before = {"array": array, "scalar": array[0, 0], "single": array[:1, :1].reshape(()), "none": array[:0]}
    after = round_trip(before)
    for name, leaf in before.items():
        assert type(after[name]) is type(leaf)
        assert (after[name].dtype, after[name].shape) == (leaf.dtype, leaf.shape)
        assert np.asarray(after[name]).tobytes() == np.asarray(leaf).tobytes()


def test_nan_payloads_of_scalars_are_kept() -> None:
    value = np.array(0x7FC0BEEF, np.uint32).view(np.float32)[()]
    assert round_trip([value])[0].view(np.uint32) == 0x7FC0BEEF


def test_arrays_of_foreign_byte_order_come_back_with_the_same_numbers() -> None:
    assert round_trip([np.array([1, 2], ">i4")])[0].tolist() == [1, 2]


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_typed_keys_come_back_as_such(implementation: str) -> None:
    keys = {"one": jax.random.key(1, impl=implementation), "many": jax.random.split(jax.random.key(2), 3)}
    flat = flattened(keys)
    assert flat.described[1]["kind"] == f"key:{implementation}"
    assert [array.dtype for array in flat.arrays] == ["uint32", "uint32"]
    assert [stored(leaf)[0] for leaf in flat.described] == [array.shape for array in flat.arrays]
    after = rebuilt(flat.described, flat.arrays, keys)
    assert after["one"].dtype == keys["one"].dtype
    assert_trees_equal(after, keys)


def test_the_template_gives_the_structure_and_the_paths_the_places() -> None:
    flat = flattened({"a": jnp.ones(1), "b": jnp.zeros(1)})
    swapped = [dict(leaf) for leaf in reversed(flat.described)]
    after = rebuilt(swapped, flat.arrays, {"a": 0, "b": 0})
    assert float(after["a"][0]) == 1


@pytest.mark.parametrize(
    "leaf", [1, 1.0, True, "text", object(), np.array(["a"]), np.array([None]), np.datetime64("2020")]
)
def test_other_leaves_are_refused_by_name(leaf: Any) -> None:
    with pytest.raises(TypeError, match=r"\['a'\]\.value cannot be saved.*Make it an array"):
        flattened({"a": Node(leaf)})


def test_equal_trees_do_not_differ() -> None:
    assert differences(held(tree()), tree(5)) == []
    assert differences(held(tree()), jax.eval_shape(lambda: tree(0))) == []
    assert differences(held({"a": np.float32(1)}), {"a": jnp.float32(2)}) == []
    assert differences(held({"a": jnp.float32(1)}), {"a": np.float32(2)}) == []
    assert differences([], {}) == []
    assert differences(held({"a": jnp.ones(2), "b": None}), {"a": jnp.ones(2), "b": None}) == []


@pytest.mark.parametrize(
    ("make", "before", "now"),
    [
        (lambda: (jnp.ones(3), jnp.ones(4)), "float32[3]", "float32[4]"),
        (lambda: (jnp.ones(3), jnp.ones(3, jnp.int32)), "float32[3]", "int32[3]"),
        (lambda: (np.float32(1), np.int32(1)), "float32[]", "int32[]"),
        (lambda: (np.float32(1), jnp.ones(1)), "float32[]", "float32[1]"),
        (lambda: (jnp.ones(3), None), "float32[3]", "None"),
        (lambda: (None, jnp.ones(3)), "nothing or None", "float32[3]"),
        (lambda: (jax.random.PRNGKey(0), jax.random.key(0)), "uint32[2]", "typed key threefry2x32[]"),
        (lambda: (jax.random.key(0), jax.random.PRNGKey(0)), "typed key threefry2x32[]", "uint32[2]"),
        (
            lambda: (jax.random.key(0), jax.random.key(0, impl="rbg")),
            "typed key threefry2x32[]",
            "typed key rbg[]",
        ),
    ],
)
def test_each_difference_is_a_line(make: Callable[[], tuple[Any, Any]], before: str, now: str) -> None:
    old, new = make()
    lines = differences(held({"a": Pair(old, jnp.ones(1))}), {"a": Pair(new, jnp.ones(1))})
    assert lines == [f"['a'].first: the checkpoint holds {before}, this run has {now}"]


def test_all_differences_are_listed() -> None:
    before = {"gone": jnp.ones(1), "same": jnp.ones(2), "shape": jnp.ones(3)}
    now = {"come": jnp.ones(1), "same": jnp.ones(2), "shape": jnp.ones(4)}
    assert differences(held(before), now) == [
        "['come']: the checkpoint holds nothing or None, this run has float32[1]",
        "['shape']: the checkpoint holds float32[3], this run has float32[4]",
        "['gone']: the checkpoint holds float32[1], this run has nothing there",
    ]


def test_a_key_an_index_and_an_attribute_of_one_text_differ() -> None:
    for before, now in [({0: jnp.ones(1)}, [jnp.ones(1)]), ({"0": jnp.ones(1)}, {0: jnp.ones(1)})]:
        assert len(differences(held(before), now)) == 2
    assert len(differences(held({"value": jnp.ones(1)}), Node(jnp.ones(1)))) == 2


@pytest.mark.parametrize("name", ["float31", "object", "V3", "<f4", "str", "datetime64[s]", ""])
def test_a_dtype_is_named_exactly(name: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"dtype"):
        named_dtype(name)


def test_bits_that_do_not_fit_are_damage() -> None:
    (leaf,) = held({"a": np.arange(3)})
    with pytest.raises(CorruptCheckpointError, match=r"the bits of \['a'\] are not int64\[3\]"):
        rebuilt([leaf | {"bits": leaf["bits"][2:]}], [], {"a": 0})
    with pytest.raises(CorruptCheckpointError, match="same path"):
        rebuilt([leaf, leaf], [], {"a": 0})
