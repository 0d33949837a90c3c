"""What `save_weights` writes, of what it is given."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.errors import WeightsError
from tests import small

safetensors_numpy: Any = pytest.importorskip("safetensors.numpy", reason="needs the extra `weights`")


def notes(path: Path) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["jaxloop"])


def test_a_file_says_its_format_and_its_version(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", small.model())
    told = notes(tmp_path / "a")
    assert told["format"] == 1
    assert told["version"]
    assert set(told["sums"]) == {"kernel", "bias", "state.passes"}


def test_of_a_loop_the_trained_model_is_written(tmp_path: Path) -> None:
    loop, _ = small.training_loop().fit(small.model(), 1)
    jl.save_weights(tmp_path / "a", loop)
    read = safetensors_numpy.load_file(tmp_path / "a")
    np.testing.assert_array_equal(read["kernel"], loop.model.params["kernel"])
    assert read["state.passes"] == 3


def test_a_loop_that_was_validated_on_an_average_is_told_that_the_average_is_not_written(tmp_path: Path) -> None:
    loop, _ = small.training_loop(callbacks=[jl.callbacks.ema(0.5, evaluate=True)]).fit(small.model(), 1)
    with pytest.warns(RuntimeWarning, match=r"validation ran on the average 'ema'.*callback_state\['ema'\]"):
        jl.save_weights(tmp_path / "trained", loop)
    averaged = loop.model.replace(params=loop.callback_state["ema"]["average"])
    jl.save_weights(tmp_path / "averaged", averaged)
    jl.save_weights(tmp_path / "model", loop.model)
    trained = safetensors_numpy.load_file(tmp_path / "trained")["kernel"]
    np.testing.assert_array_equal(trained, loop.model.params["kernel"])
    average = safetensors_numpy.load_file(tmp_path / "averaged")["kernel"]
    np.testing.assert_array_equal(average, loop.callback_state["ema"]["average"]["kernel"])
    assert not np.array_equal(average, trained)


def test_an_average_that_is_only_watched_is_nothing_to_tell(tmp_path: Path) -> None:
    loop, _ = small.training_loop(callbacks=[jl.callbacks.ema(0.5)]).fit(small.model(), 1)
    jl.save_weights(tmp_path / "a", loop)


def test_an_array_in_two_places_is_written_once(tmp_path: Path) -> None:
    array, other = jnp.arange(4.0), np.arange(5)
    jl.save_weights(tmp_path / "a", {"a": array, "b": [array, other], "c": other, "d": array + 0})
    assert set(safetensors_numpy.load_file(tmp_path / "a")) == {"a", "b.1", "d"}
    assert notes(tmp_path / "a")["shared"] == {"b.0": "a", "c": "b.1"}


def test_a_key_is_written_as_its_bits_with_its_implementation(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", {"key": jax.random.key(3, impl="rbg"), "old": jax.random.PRNGKey(3)})
    assert notes(tmp_path / "a")["keys"] == {"key": "rbg"}
    read = safetensors_numpy.load_file(tmp_path / "a")
    np.testing.assert_array_equal(read["key"], jax.random.key_data(jax.random.key(3, impl="rbg")))


def test_python_numbers_are_written_as_a_step_would_take_them(tmp_path: Path) -> None:
    jl.save_weights(tmp_path / "a", {"scale": 0.5, "on": True, "count": 3})
    read = safetensors_numpy.load_file(tmp_path / "a")
    assert {name: (array.dtype.name, array.shape) for name, array in read.items()} == {
        "scale": ("float32", ()),
        "on": ("bool", ()),
        "count": ("int32", ()),
    }


def test_a_model_without_numbers_is_refused(tmp_path: Path) -> None:
    abstract = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    with pytest.raises(WeightsError, match="'w' has a shape and no numbers"):
        jl.save_weights(tmp_path / "a", abstract)
    assert not list(tmp_path.iterdir())


def test_an_address_is_refused_before_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="save_weights: a file of weights is on this machine"):
        jl.save_weights("gs://bucket/model.safetensors", small.model())
    assert not list(tmp_path.iterdir())
