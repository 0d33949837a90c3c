"""Weights in another process, on several devices and on several processes: equal bit for bit."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from tests import small
from tests.devices import run_elsewhere, run_on_devices
from tests.processes import check_all_ended_well, run_on_processes

pytest.importorskip("safetensors", reason="needs the extra `weights`")

MODELS = """
import sys, zlib
import equinox, haiku, jax, jax.numpy as jnp, numpy as np
import jaxloop as jl
from tests.weights.test_loading import Tied, changed
from tests.weights.test_naming import Module, haiku_parts, mlp, network

def full(shape, number, dtype):
    return jnp.asarray(np.full(shape, number, dtype))

def nans(dtype):
    bits = np.array([0x7fc12345, 0xffabcdef, 0x7f800001, 0x80000000], np.uint32)
    return jnp.asarray(bits.view(dtype) if dtype == np.float32 else (bits >> 16).astype(np.uint16).view(dtype))

def models(seed):
    def numbers(tree):
        return tree if seed == 0 else changed(tree)
    array = full(4, seed, np.float32)
    return {
        "nnx": Module(seed),
        "linen": (network()[0], numbers(network()[1])),
        "equinox": numbers(mlp()),
        "haiku": numbers(jl.Model(*haiku_parts())),
        "tied": Tied(seed),
        "tree": {
            "shared": [array, array],
            "nan": nans(np.float32) if seed == 0 else full(4, 0, np.float32),
            "bfloat16": nans(jnp.bfloat16) if seed == 0 else full(4, 0, jnp.bfloat16),
            "float8": full(3, seed + 1, jnp.float8_e4m3fn),
            "int4": full(3, seed + 1, jnp.int4),
            "empty": full((0, 3), 0, np.float32),
            "key": jax.random.key(seed),
        },
    }

def sums(given):
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if hasattr(leaf, "dtype"):
            raw = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            array = np.asarray(raw)
            found[jax.tree_util.keystr(path)] = [zlib.crc32(array.tobytes()), str(array.dtype), list(array.shape)]
    return found
"""
LOAD = """
import json
loaded = {name: jl.load_weights(f"{sys.argv[1]}/{name}", model) for name, model in models(1).items()}
print(json.dumps({name: sums(model) for name, model in loaded.items()}))
"""


@pytest.mark.slow
def test_every_kind_of_model_is_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(MODELS, names)
    models = names["models"](0)
    for name, model in models.items():
        jl.save_weights(tmp_path / name, model)
    script = f"import sys; sys.argv = ['', {str(tmp_path)!r}]\n" + MODELS + LOAD
    loaded = json.loads(run_elsewhere(script, 300))
    assert loaded == {name: names["sums"](model) for name, model in models.items()}


ON_DEVICES = """
import zlib
import jax, jax.numpy as jnp, numpy as np
import jaxloop as jl
from tests import small

def wide(seed):
    return small.model(seed, features=8, classes=16)

for name, on in (("data", jl.data_parallel()), ("sharded", jl.fully_sharded(at_least=1))):
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(16, features=8, classes=16), batch_size=8),
        validation=None, optimizer=__import__("optax").adam(0.1),
    )
    loop, _ = training_loop.fit(wide(0), 1, on=on)
    path = f"{folder}/{name}"
    jl.save_weights(path, loop)
    # Onto one device, onto the placement it had, and onto the other placement.
    one = jl.load_weights(path, wide(1))
    small.assert_trees_equal(jax.device_get(one.params), jax.device_get(loop.model.params))
    there = jl.load_weights(path, training_loop.start(wide(1), epochs=1, on=on))
    small.assert_trees_equal(jax.device_get(there), jax.device_get(loop.model))
    for new, old in zip(jax.tree.leaves(there), jax.tree.leaves(loop.model), strict=True):
        assert new.sharding == old.sharding, (new.sharding, old.sharding)
    def shape_of(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    abstract = jax.tree.map(shape_of, loop.model)
    made = jl.load_weights(path, abstract)
    small.assert_trees_equal(jax.device_get(made), jax.device_get(loop.model))
    assert [leaf.sharding for leaf in jax.tree.leaves(made)] == [leaf.sharding for leaf in jax.tree.leaves(loop.model)]
    assert (not loop.model.params["kernel"].is_fully_replicated) == (name == "sharded")
    print(name, *(zlib.crc32(np.asarray(loop.model.params[part]).tobytes()) for part in ("kernel", "bias")))
"""


@pytest.mark.slow
def test_a_loop_on_eight_devices_is_saved_whole_and_loaded_where_it_lay(tmp_path: Path) -> None:
    printed = run_on_devices(f"folder = {str(tmp_path)!r}\n" + ON_DEVICES, 8).splitlines()
    assert [line.split()[0] for line in printed] == ["data", "sharded"]
    for line in printed:  # and the same in this process, on one device
        name, *sums = line.split()
        params = jl.load_weights(tmp_path / name, small.model(1, features=8, classes=16)).params
        assert [str(zlib.crc32(np.asarray(params[part]).tobytes())) for part in ("kernel", "bias")] == sums


ON_PROCESSES = """
import sys
import jax, numpy as np, optax
import jaxloop as jl
from tests import small

on = jl.fully_sharded(at_least=1)
def wide(seed):
    return small.model(seed, features=8, classes=16)
training_loop = small.training_loop(
    training=jl.TrainingEpochs(small.samples(16, features=8, classes=16), batch_size=8),
    validation=None, optimizer=optax.adam(0.1), metrics=[],
)
loop, _ = training_loop.fit(wide(0), 1, on=on)
path = sys.argv[1] + "/model.safetensors"
jl.save_weights(path, loop)
loaded = jl.load_weights(path, training_loop.start(wide(1), epochs=1, on=on))  # as soon as the call returns
for new, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(loop.model), strict=True):
    assert new.sharding == old.sharding
    for one, other in zip(new.addressable_shards, old.addressable_shards, strict=True):
        np.testing.assert_array_equal(np.asarray(one.data), np.asarray(other.data))
try:
    jl.save_weights(sys.argv[1] + "/model.safetensors/below", loop)
except ValueError as error:
    print("told", "could not be written" in str(error))
assert not loop.model.params["kernel"].is_fully_addressable
"""


@pytest.mark.slow
def test_several_processes_save_one_file_that_each_reads_and_fail_together(tmp_path: Path) -> None:
    ran = run_on_processes(ON_PROCESSES, arguments=[str(tmp_path)])
    check_all_ended_well(ran)
    assert [one.stdout.split() for one in ran] == [["told", "True"]] * 2
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
