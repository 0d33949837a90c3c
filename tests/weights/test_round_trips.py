"""The law of weights: whatever tree is saved is loaded as it was, whatever its names, dtypes and shapes."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxloop as jl
from tests.weights.test_file import DTYPES

pytest.importorskip("safetensors", reason="needs the extra `weights`")

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda name: "." not in name)


@st.composite
def leaves(draw: Any) -> np.ndarray:
    dtype = jnp.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    raw = draw(st.binary(min_size=int(np.prod(shape)) * dtype.itemsize, max_size=int(np.prod(shape)) * dtype.itemsize))
    narrow = {"bool": 0x01, "int4": 0x0F, "uint4": 0x0F, "float4_e2m1fn": 0x0F}.get(dtype.name, 0xFF)
    return (np.frombuffer(raw, np.uint8) & np.uint8(narrow)).view(dtype).reshape(shape)


TREES = st.recursive(
    leaves(),
    lambda parts: st.lists(parts, min_size=1, max_size=3) | st.dictionaries(NAMES, parts, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=TREES, one=st.booleans())
def test_what_is_saved_is_loaded(tree: Any, one: bool) -> None:
    model = jl.Model(lambda params, state, x, **_: (x, state), {}, tree) if one else tree
    other = jax.tree.map(np.zeros_like, model)
    with tempfile.TemporaryDirectory() as folder:
        jl.save_weights(Path(folder, "a"), model)
        loaded = jl.load_weights(Path(folder, "a"), other)
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    for new, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        assert (type(new), new.dtype, new.shape, new.tobytes()) == (type(old), old.dtype, old.shape, old.tobytes())
