"""What `load_weights` gives, and what it refuses, all at once."""

import re
from pathlib import Path
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop.errors import WeightsError
from tests import small
from tests.weights.test_naming import Module, Pair, haiku_parts, mlp, network

safetensors_numpy: Any = pytest.importorskip("safetensors.numpy", reason="needs the extra `weights`")


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Saves arrays as another program would, and gives the path."""

    def saved(arrays: dict[str, np.ndarray]) -> Path:
        safetensors_numpy.save_file(arrays, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return saved


def changed(tree: Any) -> Any:
    """The same tree with other numbers."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 3, leaf.dtype)) if is_array(leaf) else leaf, tree)


def is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype")


def bits_of(tree: Any) -> list[bytes]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    leaves = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(leaves, keys, strict=True)]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Module(0), Module(1)),
        (network(), (network()[0], changed(network()[1]))),
        (mlp(), changed(mlp())),
        (jl.Model.from_nnx(Module(0)), jl.Model.from_nnx(Module(1))),
        (jl.Model(*haiku_parts()), changed(jl.Model(*haiku_parts()))),
        ({"a": Pair(np.ones(1), 3.0)}, {"a": Pair(np.zeros(1), 3.0)}),
    ],
    ids=["nnx", "linen", "equinox", "model", "haiku", "tree"],
)
def test_what_was_saved_is_loaded_bit_for_bit_into_the_same_kind(tmp_path: Path, one: Any, other: Any) -> None:
    before = bits_of(other)
    jl.save_weights(tmp_path / "a", one)
    loaded = jl.load_weights(tmp_path / "a", other)
    assert type(loaded) is type(one)
    assert bits_of(loaded) == bits_of(one)
    assert bits_of(other) == before
    assert bits_of(loaded) != before


def test_a_loop_gives_a_model_to_begin_with_or_to_go_on_with(tmp_path: Path) -> None:
    training_loop = small.training_loop()
    loop, _ = training_loop.fit(small.model(), 1)
    jl.save_weights(tmp_path / "a", loop)
    other = training_loop.start(small.model(1), epochs=1)
    model = jl.load_weights(tmp_path / "a", other)
    assert isinstance(model, jl.Model)
    assert training_loop.evaluate(model, training_loop.validation) == training_loop.evaluate(
        loop, training_loop.validation
    )
    small.assert_trees_equal(training_loop.fit(model, 1)[0].model, training_loop.fit(loop.model, 1)[0].model)


def test_weights_of_a_fit_with_a_part_fixed_fit_the_whole(tmp_path: Path) -> None:
    module = mlp()
    part = jl.Model.from_callable(module, batched=False, trained=lambda path, leaf: "[1]" in path)
    jl.save_weights(tmp_path / "a", part)
    assert bits_of(jl.load_weights(tmp_path / "a", changed(module))) == bits_of(module)


def test_shared_arrays_come_back_shared(tmp_path: Path) -> None:
    array = jnp.arange(4.0)
    jl.save_weights(tmp_path / "a", {"a": array, "b": array, "c": array + 1})
    loaded = jl.load_weights(tmp_path / "a", {"a": jnp.zeros(4), "b": jnp.zeros(4), "c": jnp.zeros(4)})
    assert loaded["a"] is loaded["b"]
    assert loaded["c"] is not loaded["a"]
    np.testing.assert_array_equal(loaded["b"], np.arange(4))


class Tied(nnx.Module):
    def __init__(self, seed: int):
        self.embed = nnx.Embed(5, 3, rngs=nnx.Rngs(seed))
        self.head = self.embed


def test_a_tied_module_of_nnx_stays_tied(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", Tied(0))
    assert list(jl.weights_in(tmp_path / "a")) == ["embed.embedding"]
    loaded = jl.load_weights(tmp_path / "a", Tied(1))
    assert loaded.head.embedding is loaded.embed.embedding
    np.testing.assert_array_equal(loaded.head.embedding[...], Tied(0).embed.embedding[...])


def test_a_tied_module_of_equinox_stays_tied(tmp_path: Path) -> None:
    def tied(seed: int) -> Any:
        one, other = (equinox.nn.Linear(3, 3, key=jax.random.key(seed + index)) for index in range(2))
        return equinox.nn.Shared((one, other), lambda pair: pair[1].weight, lambda pair: pair[0].weight)

    jl.save_weights(tmp_path / "a", tied(0))
    loaded = jl.load_weights(tmp_path / "a", tied(5))()
    np.testing.assert_array_equal(loaded[1].weight, tied(0)()[0].weight)
    assert loaded[0].weight is loaded[1].weight


def test_all_that_does_not_fit_is_told_in_one_error(save: Any) -> None:
    model = {f"n{index}": np.zeros(2, np.float32) for index in range(6)}
    model |= {"shape": np.zeros((2, 3)), "dtype": np.zeros(1, np.int32), "wide": np.zeros(1, ml_dtypes.bfloat16)}
    arrays = {f"m{index}": np.zeros(1) for index in range(5)}
    arrays |= {"shape": np.zeros((3, 2)), "dtype": np.zeros(1, np.int64), "wide": np.zeros(1, np.float32)}
    path = save(arrays)
    with pytest.raises(WeightsError) as caught:
        jl.load_weights(path, model)
    first, *listed = str(caught.value).splitlines()
    assert f"load_weights: {path}: it does not fit dict: it lacks n0, n1, n2, n3 and 2 more; the model has no" in first
    assert "shapes differ: shape [3, 2] for [2, 3]; dtypes differ: dtype int64[1] for int32[1], wide" in first
    assert [line.split()[0] for line in listed if line.startswith("  ")] == [
        *(f"n{index}" for index in range(6)),
        *(f"m{index}" for index in range(5)),
        *("shape", "dtype", "wide"),
    ]


def test_a_file_of_others_need_not_have_random_streams(tmp_path: Path, save: Any) -> None:
    jl.save_weights(tmp_path / "a", Module(0))
    arrays = safetensors_numpy.load_file(tmp_path / "a")
    path = save({name: array for name, array in arrays.items() if "rngs" not in name})
    other = Module(1)
    loaded = jl.load_weights(path, other)
    np.testing.assert_array_equal(
        jax.random.key_data(loaded.dropout.rngs.key[...]), jax.random.key_data(other.dropout.rngs.key[...])
    )
    np.testing.assert_array_equal(loaded.first.kernel[...], Module(0).first.kernel[...])


def test_a_key_of_another_implementation_or_raw_bits_are_no_key(tmp_path: Path) -> None:
    words = jax.random.key_data(jax.random.key(0))
    for saved, model, told in (
        ({"k": jax.random.key(0, impl="rbg")}, {"k": jax.random.key(0, impl="unsafe_rbg")}, "key<rbg> for key<unsafe"),
        ({"k": words}, {"k": jax.random.key(0)}, r"uint32\[2\] for key<threefry2x32>"),
        ({"k": jax.random.key(0)}, {"k": words}, r"key<threefry2x32> for uint32\[2\]"),
    ):
        jl.save_weights(tmp_path / "a", saved)
        with pytest.raises(WeightsError, match=f"dtypes differ: k {told}"):
            jl.load_weights(tmp_path / "a", model)


def test_narrow_floats_become_wide_ones_and_not_the_other_way_round(save: Any) -> None:
    narrow = np.array([1.5, -2, np.inf, 3e-39], ml_dtypes.bfloat16)
    path = save({"w": narrow})
    loaded = jl.load_weights(path, {"w": jnp.zeros(4)})["w"]
    assert loaded.dtype == jnp.float32
    np.testing.assert_array_equal(loaded, narrow.astype(np.float32))
    path = save({"w": np.ones(4, np.float32)})
    model = {"w": jnp.zeros(4, jnp.bfloat16)}
    with pytest.raises(WeightsError, match=r"dtypes differ: w float32\[4\] for bfloat16\[4\]"):
        jl.load_weights(path, model)
    asked = jl.load_weights(path, model, lambda name: (name, lambda array: array.astype(jnp.bfloat16)))
    assert asked["w"].dtype == jnp.bfloat16


def test_wide_numbers_of_numpy_stay_wide(save: Any) -> None:
    arrays = {"f": np.array([1 + 2**-50]), "i": np.array([2**40])}
    loaded = jl.load_weights(save(arrays), {"f": np.zeros(1), "i": np.zeros(1, np.int64)})
    assert loaded["f"] == 1 + 2**-50
    assert loaded["i"] == 2**40
    with pytest.raises(WeightsError, match=r"f float64\[1\] for float32\[1\], i int64\[1\] for int32\[1\]"):
        jl.load_weights(save(arrays), {"f": jnp.zeros(1), "i": jnp.zeros(1, int)})


def test_what_fits_is_loaded_if_asked_and_the_rest_is_told(save: Any) -> None:
    path = save({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32), "x": np.ones(1)})
    model = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(1)}
    with pytest.warns(RuntimeWarning) as caught:
        loaded = jl.load_weights(path, model, strict=False)
    message = str(caught[0].message)
    assert "1 arrays were loaded, and dict keeps its own of the rest: it lacks c; the model has no x; " in message
    assert "shapes differ: b [3] for [2]" in message
    assert caught[0].filename == __file__
    assert jax.tree.map(np.asarray, loaded)["a"].tolist() == [1, 1]
    assert loaded["b"] is model["b"]
    assert loaded["c"] is model["c"]


def test_where_nothing_fits_nothing_is_loaded_even_if_asked(save: Any) -> None:
    with pytest.raises(WeightsError, match="it does not fit dict"):
        jl.load_weights(save({"x": np.ones(1)}), {"a": np.ones(1)}, strict=False)


def test_names_and_axes_of_another_library_are_mapped(save: Any) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "conv.weight": random.normal(size=(8, 3, 5, 5)).astype(np.float32),  # OIHW
        "qkv.weight": random.normal(size=(12, 4)).astype(np.float32),  # [out, in], three of them
        "q": random.normal(size=(2, 4)).astype(np.float32),
        "k": random.normal(size=(2, 4)).astype(np.float32),
        "counter": np.array(7),
    }
    model = {
        "conv": {"kernel": np.zeros((5, 5, 3, 8), np.float32)},
        "attention": {part: np.zeros((4, 4), np.float32) for part in ("query", "key", "value")},
        "fused": np.zeros((4, 4), np.float32),
    }
    parts = {"query": 0, "key": 1, "value": 2}
    names = {
        "conv.weight": ("conv.kernel", lambda array: array.transpose(2, 3, 1, 0)),
        "qkv.weight": [
            (f"attention.{part}", lambda array, index=index: np.split(array, 3)[index].T)
            for part, index in parts.items()
        ],
        ("q", "k"): ("fused", lambda q, k: np.concatenate([q, k]).T),
        "counter": None,
    }
    loaded = jl.load_weights(save(arrays), model, names)
    assert loaded["conv"]["kernel"][1, 2, 0, 7] == arrays["conv.weight"][7, 0, 1, 2]
    for part, index in parts.items():
        np.testing.assert_array_equal(loaded["attention"][part], arrays["qkv.weight"][4 * index : 4 * index + 4].T)
    np.testing.assert_array_equal(loaded["fused"][:, :2], arrays["q"].T)
    np.testing.assert_array_equal(loaded["fused"][:, 2:], arrays["k"].T)


def test_a_function_that_fails_or_gives_another_shape_is_a_fault_among_others(save: Any) -> None:
    path = save({"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)})
    names = {"a": ("x", np.transpose), "b": ("y", lambda array: array.reshape(3))}
    with pytest.raises(WeightsError) as caught:
        jl.load_weights(path, {"x": np.ones((2, 3)), "y": np.ones(3), "z": np.ones(1)}, names)
    assert "it lacks z; shapes differ: x [3, 2] for [2, 3]; the function of `names` for y fails on b [2]: " in str(
        caught.value
    )
    assert "ValueError: cannot reshape" in str(caught.value)


def test_two_arrays_for_one_leaf_must_be_equal(save: Any) -> None:
    tied = {"head": np.ones(3, np.float32), "words": np.ones(3, np.float32)}
    model = {"words": jnp.zeros(3)}
    names = {"head": "words"}
    np.testing.assert_array_equal(jl.load_weights(save(tied), model, names)["words"], np.ones(3))
    with pytest.raises(WeightsError, match="its head is not its words, and both are for words"):
        jl.load_weights(save(tied | {"head": np.zeros(3, np.float32)}), model, names)


def test_a_name_that_the_file_has_not_is_told(save: Any) -> None:
    with pytest.raises(WeightsError, match="it has no typo, which `names` asks for"):
        jl.load_weights(save({"a": np.ones(1)}), {"a": np.ones(1)}, {"typo": "a"})


def test_a_leaf_that_names_gives_and_the_model_has_not_says_what_it_is_in_the_file(save: Any) -> None:
    with pytest.raises(WeightsError, match=re.escape("the model has no y (in the file x)")):
        jl.load_weights(save({"a": np.ones(1), "x": np.ones(1)}), {"a": np.ones(1)}, {"x": "y"})


def test_parts_that_are_kept_keep_their_own_whatever_the_file_has(save: Any) -> None:
    model = {"body": jnp.zeros(2), "head": {"kernel": jnp.zeros(3), "bias": jnp.zeros(1)}, "header": jnp.zeros(1)}
    body = {"body": np.ones(2, np.float32), "header": np.ones(1, np.float32)}
    for head in ({}, {"head.kernel": np.ones(9, np.float32)}, {"head.kernel": np.ones(3, np.float32)}):
        loaded = jl.load_weights(save(body | head), model, keep="head")
        assert loaded["head"]["kernel"] is model["head"]["kernel"]
        np.testing.assert_array_equal(loaded["header"], [1])
    loaded = jl.load_weights(save(body), model, keep=["head.bias", "head.kernel"])
    assert loaded["head"]["bias"] is model["head"]["bias"]
    with pytest.raises(WeightsError, match=r"it lacks head\.bias, head\.kernel\."):
        jl.load_weights(save(body), model)
    with pytest.raises(ValueError, match=r"`keep` has 'heads', and no name .* They begin with body, head, header"):
        jl.load_weights(save(body), model, keep="heads")


def test_a_part_is_loaded_by_itself(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", Module(0).first)
    module = Module(1)
    module.first = jl.load_weights(tmp_path / "a", module.first)
    np.testing.assert_array_equal(module.first.kernel[...], Module(0).first.kernel[...])


def test_a_model_may_have_shapes_in_place_of_arrays(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", Module(0))
    loaded = jl.load_weights(tmp_path / "a", nnx.eval_shape(lambda: Module(1)))
    assert bits_of(loaded) == bits_of(Module(0))
    jl.save_weights(tmp_path / "a", small.model())
    abstract = jax.eval_shape(small.model)
    small.assert_trees_equal(jl.load_weights(tmp_path / "a", abstract).params, small.model().params)


def test_a_shape_of_64_bits_takes_none_where_jax_has_but_32(tmp_path: Path) -> None:
    path = tmp_path / "a"
    jl.save_weights(path, {"count": np.array([2**40]), "half": np.array([0.5], np.float32), "third": np.array([1 / 3])})
    with pytest.raises(WeightsError, match=r"count int64\[1\] for int32\[1\], third float64\[1\] for float32\[1\]"):
        jl.load_weights(path, jl.weights_in(path))
    shapes = {"half": jax.ShapeDtypeStruct((1,), np.float64)}
    assert jl.load_weights(path, shapes, {"count": None, "third": None})["half"].tolist() == [0.5]


def test_nothing_is_read_but_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("a pickle was read"))
    jl.save_weights(tmp_path / "a", small.model())
    jl.load_weights(tmp_path / "a", small.model())
    (tmp_path / "b").write_bytes(b"\x80\x04\x95")
    with pytest.raises(WeightsError, match=r"load_weights: .* is a pickle"):
        jl.load_weights(tmp_path / "b", small.model())
