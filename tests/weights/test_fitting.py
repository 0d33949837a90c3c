"""Which arrays can be which leaves, and what they become."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.weights.file import Kind
from jaxloop.weights.fitting import holds_all_of, key_implementation, like, raw_kind, said


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("float32", "float32", True),
        ("float32", "bfloat16", True),
        ("float32", "float16", True),
        ("float32", "float8_e4m3fn", True),
        ("bfloat16", "float8_e5m2", True),
        ("float64", "float32", True),
        ("complex128", "complex64", True),
        ("float32", "float64", False),
        ("bfloat16", "float32", False),
        ("bfloat16", "float16", False),
        ("float16", "bfloat16", False),
        ("complex64", "float32", False),
        ("float32", "int8", False),
        ("int64", "int32", False),
        ("int32", "uint32", False),
        ("int8", "bool", False),
    ],
)
def test_floats_fit_into_wider_ones_and_nothing_else_does(wide: str, narrow: str, expected: bool) -> None:
    assert holds_all_of(jnp.dtype(wide), jnp.dtype(narrow)) is expected


@pytest.mark.parametrize("narrow", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_number_of_a_narrow_float_is_the_same_in_float32(narrow: str) -> None:
    dtype = jnp.dtype(narrow)
    every = np.arange(2 ** (8 * dtype.itemsize), dtype=f"uint{8 * dtype.itemsize}").view(dtype)
    finite = every[np.isfinite(every.astype(np.float32))]
    wide = np.asarray(like(jnp.zeros(len(finite)), finite))
    np.testing.assert_array_equal(wide.astype(dtype).view(np.uint8), finite.view(np.uint8))


def test_a_leaf_is_of_numpy_or_of_jax_as_the_one_before() -> None:
    array = np.arange(3.0)
    assert type(like(np.zeros(3), array)) is np.ndarray
    assert type(like(np.float64(0), np.array(2.0))) is np.float64
    assert isinstance(like(jnp.zeros(3), array.astype(np.float32)), jax.Array)
    assert isinstance(like(jax.ShapeDtypeStruct((3,), np.float32), array.astype(np.float32)), jax.Array)


def test_bytes_in_the_other_order_are_the_same_numbers() -> None:
    leaf = np.zeros(3, ">f4")
    assert raw_kind(leaf) == Kind((3,), np.dtype("<f4"))
    again = like(leaf, np.arange(3, dtype=np.float32))
    assert again.dtype == leaf.dtype
    np.testing.assert_array_equal(again, [0, 1, 2])


def test_a_leaf_lies_where_the_one_before_did() -> None:
    device = jax.devices()[0]
    array = np.zeros(3, np.float32)
    assert like(jax.device_put(jnp.ones(3), device), array).committed
    assert not like(jnp.ones(3), array).committed


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_a_key_is_made_of_its_bits(implementation: str) -> None:
    key = jax.random.key(3, impl=implementation)
    words = np.asarray(jax.random.key_data(key))
    assert key_implementation(key) == implementation
    assert raw_kind(key) == Kind(words.shape, np.dtype("uint32"))
    abstract = jax.eval_shape(lambda: key)
    assert key_implementation(abstract) == implementation
    for leaf in (jax.random.key(0, impl=implementation), abstract):
        again = like(leaf, words)
        assert again.dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(again), words)


def test_kinds_are_said_as_jax_says_them() -> None:
    assert said(Kind((2, 3), np.dtype("float32"))) == "float32[2, 3]"
    assert said("F4") == "F4"
