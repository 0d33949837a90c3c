import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.kinds import Widening, kept, kind_name, same_kind, strong, widenings

FIXES = {"structure_fix": "Make room.", "leaf_fix": "Convert it."}


@pytest.mark.parametrize(("number", "dtype"), [(2.5, "float32"), (3, "int32"), (True, "bool"), (1j, "complex64")])
def test_a_python_number_becomes_a_scalar_of_its_own_dtype(number: complex, dtype: str) -> None:
    leaf = strong(number)
    assert (leaf.dtype, leaf.shape, leaf.item()) == (np.dtype(dtype), (), number)
    assert not isinstance(leaf, jax.Array)  # so that it starts no backend


def test_an_array_of_weak_type_keeps_its_dtype_and_loses_the_weakness() -> None:
    weak = jnp.full(3, 0.5)
    assert weak.weak_type
    leaf = strong(weak)
    assert (leaf.weak_type, leaf.dtype, leaf.tolist()) == (False, np.dtype("float32"), [0.5, 0.5, 0.5])


def test_what_is_strong_stays_the_same_object() -> None:
    for leaf in (np.float64(1), jnp.arange(3), jax.random.key(0)):
        assert strong(leaf) is leaf


def test_a_python_number_takes_on_the_dtype_that_it_had_there() -> None:
    after = kept("memory", {"a": jnp.bfloat16(1), "b": jnp.zeros(2)}, {"a": 2.0, "b": jnp.full(2, 3)}, **FIXES)
    assert [kind_name(leaf) for leaf in after.values()] == ["bfloat16[]", "float32[2]"]
    assert not after["b"].weak_type


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (jnp.int32(7), jnp.float32(7), "int32[], got float32[]"),
        (jnp.int32(7), 7.5, "int32[], got float32[]"),
        (jnp.float32(7), jnp.int32(7), "float32[], got int32[]"),
        (jnp.bool_(True), jnp.int32(1), "bool[], got int32[]"),
        (jnp.zeros(2), jnp.zeros(3), "float32[2], got float32[3]"),
        (jnp.zeros(2), jnp.zeros(2, jnp.bfloat16), "float32[2], got bfloat16[2]"),
        (jax.random.key(0), jnp.zeros(2, jnp.uint32), "key<fry>[], got uint32[2]"),
    ],
)
def test_a_leaf_of_another_kind_is_named(old: jax.Array, new: jax.Array, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        kept("loop.opt_state", {"n": old}, {"n": new}, **FIXES)
    assert str(caught.value) == f"loop.opt_state['n'] must stay {words}. Convert it."


def test_a_structure_that_has_changed_is_told_by_what_came_and_went() -> None:
    with pytest.raises(TypeError, match=r"\['c'\] has come and \['b'\] has gone\. Make room\."):
        kept("loop.model", {"a": jnp.zeros(2), "b": jnp.zeros(2)}, {"a": jnp.zeros(2), "c": jnp.zeros(2)}, **FIXES)


def test_floats_that_widen_are_found_and_can_be_widened_beforehand() -> None:
    old = {"m": jnp.ones(2, jnp.bfloat16), "n": jnp.int32(1), "z": jnp.float32(1)}
    new = {"m": jnp.ones(2, jnp.float32), "n": jnp.float32(1), "z": jnp.bfloat16(1)}
    found = widenings(".opt_state", old, new)
    assert found == {".opt_state['m']": np.dtype("float32")}
    wide = Widening({"['m']": np.dtype("float32")}).apply(old)
    assert [leaf.dtype.name for leaf in wide.values()] == ["float32", "int32", "float32"]


def test_weak_numbers_widen_nothing() -> None:
    assert widenings("", {"m": jnp.bfloat16(1)}, {"m": 1.0}) == {}


def test_kinds_are_shape_and_dtype() -> None:
    assert same_kind(np.zeros(3, np.float32), jnp.zeros(3))
    assert not same_kind(np.zeros(3, np.float32), np.zeros(3, np.int32))
    assert not same_kind(np.zeros(3, np.float32), np.zeros((3, 1), np.float32))
