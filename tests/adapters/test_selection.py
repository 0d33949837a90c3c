"""Which leaves are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.adapters.selection import chosen, is_trainable

LEAVES = {
    "a": np.ones(2, np.float32),
    "b/c": np.ones(2, np.complex64),
    "b/d": np.ones(2, np.int8),
}
PATHS = {"a": "a", "b": {"c": "b/c", "d": "b/d"}}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn, jnp.complex64])
def test_floats_and_complex_numbers_can_be_trained(dtype):
    assert is_trainable(jnp.zeros(2, dtype))


@pytest.mark.parametrize(
    "value",
    [
        *(jnp.zeros(2, dtype) for dtype in (jnp.int8, jnp.uint8, jnp.int4, bool)),
        jax.random.key(0),
        np.zeros(2, jax.dtypes.float0),
        *(1, True, "name"),
        {"weight": np.ones(2), "codes": np.ones(2, int)},
    ],
    ids=["int8", "uint8", "int4", "bool", "key", "float0", "number", "True", "text", "mixed"],
)
def test_what_has_no_gradient_cannot(value):
    assert not is_trainable(value)


def test_numbers_of_python_can_where_they_are_floats():
    assert is_trainable(0.5)
    assert is_trainable(1j)


def test_without_a_choice_all_that_can_be_are():
    assert chosen(None, LEAVES, PATHS, "here") == {"a", "b/c"}


@pytest.mark.parametrize(
    "trained",
    [lambda path, leaf: path.startswith("b"), {"a": False, "b": True}, {"a": False, "b": {"c": np.True_, "d": False}}],
    ids=["function", "upper part", "tree"],
)
def test_a_function_or_a_tree_of_bools_chooses_among_them(trained):
    assert chosen(trained, LEAVES, PATHS, "here") == {"b/c"}


def test_the_function_is_asked_of_what_can_be_trained_alone():
    asked = []
    chosen(lambda path, leaf: asked.append((path, leaf.dtype)) is None, LEAVES, PATHS, "here")
    assert asked == [("a", np.float32), ("b/c", np.complex64)]


@pytest.mark.parametrize("trained", [lambda path, leaf: False, {"a": False, "b": {"c": False, "d": True}}])
def test_a_choice_of_nothing_is_refused(trained):
    with pytest.raises(ValueError, match="here: `trained` chooses none of the arrays that can be trained: a, b/c"):
        chosen(trained, LEAVES, PATHS, "here")


def test_another_tree_is_refused():
    with pytest.raises(ValueError, match="here: `trained` must be a tree of bools like the parameters"):
        chosen({"a": True, "z": True}, LEAVES, PATHS, "here")


@pytest.mark.parametrize("trained", ["lora", ["a"], 3], ids=["text", "names", "number"])
def test_what_is_no_choice_is_refused(trained):
    with pytest.raises(TypeError, match=r"here: `trained` must be a function \(path, leaf\) -> bool or a tree"):
        chosen(trained, LEAVES, PATHS, "here")
