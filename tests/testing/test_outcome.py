"""What a run has left is JSON, bit for bit, without clocks."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.testing.outcome import Witness, columns_of, leaves_of, number
from tests import small


def test_a_number_is_its_dtype_its_bits_and_how_it_is_shown() -> None:
    assert number(np.float32(0.5)) == ["float32", "0000003f", "0.5"]
    assert number(jnp.array([1, 2], jnp.int32)) == ["int32[2]", "0100000002000000", "[1 2]"]
    assert number(np.float32(0.0))[1] != number(np.float32(-0.0))[1]


def test_a_witness_has_the_whole_run_and_its_memory_is_json() -> None:
    witness = Witness()
    loop, history = small.training_loop(callbacks=[witness]).fit(small.model(), 1)
    where = [name for name, _ in witness.told]
    assert where[:4] == [
        "FIT_START, epoch 0",
        "EPOCH_START, epoch 1",
        "TRAINING_START, epoch 1",
        "row of training batch 1 of epoch 1",
    ]
    assert where[-4:] == [
        "row of validation batch 2 of epoch 1",
        "VALIDATION_END, epoch 1",
        "EPOCH_END, epoch 1",
        "FIT_END, epoch 1",
    ]
    other = Witness()
    other.resume(loop, json.loads(json.dumps(witness.state())))
    assert other.told == witness.told
    columns = columns_of(history)
    assert json.loads(json.dumps(columns)) == columns
    assert len(columns["loss of batches"]) == 3
    assert not any("seconds" in name for name in columns)


def test_leaves_have_paths_and_keys_and_static_names_are_among_them() -> None:
    loop, _ = small.training_loop().fit(small.model(), 1)
    leaves = leaves_of(loop)
    assert json.loads(json.dumps(leaves)) == leaves
    assert leaves[".model.params['bias']"] == number(loop.model.params["bias"])
    assert leaves[".key"] == number(jax.random.key_data(loop.key))
    assert leaves[".lasting"][1] == "[]"
