"""A run that is saved over eight devices goes on there bit for bit, and elsewhere to rounding."""

import pytest

from tests.devices import run_on_devices

BEGIN = """
import tempfile
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh
import jaxloop as jl
from jaxloop.placement import Placement
from jaxloop.shardings import shardings_of
from tests import small
from tests.scale import cases

class Killed(Exception):
    pass

def killer(at):
    @jl.on_host(jl.Event.BATCH_END, reads="loop")
    def kill(loop, event):
        if loop.phase is jl.Phase.TRAINING and int(loop.step) == at:
            raise Killed
    return kill

def training_loop(folder=None, at=None):
    samples = [small.samples(count, features=16, classes=8) for count in (40, 11)]
    callbacks = [jl.callbacks.ema(0.9, evaluate=True), killer(at)]
    callbacks += [] if folder is None else [jl.callbacks.Checkpoint(folder, every=2)]
    return small.training_loop(
        training=jl.TrainingEpochs(samples[0], 8), validation=jl.in_batches(samples[1], 8), callbacks=callbacks,
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    )

model = lambda: small.model(features=16, classes=8)
sharded = jl.fully_sharded(at_least=8)
grid = Placement(Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model")), cases.by_columns)
"""

RESUMED = """
with tempfile.TemporaryDirectory() as root:
    whole, history = training_loop().fit(model(), 3, on=sharded)
    four = jl.fully_sharded(jax.devices()[:4], at_least=8)
    elsewhere = {"same": sharded, "four": four, "tensor": grid, "one": "cpu:0"}
    for name in NAMES:
        on = elsewhere[name]
        folder = Path(root) / name
        try:
            training_loop(folder, at=8).fit(model(), 3, on=sharded)
        except Killed:
            pass
        else:
            raise AssertionError("it was not killed")
        loop, found = training_loop(folder).fit(model(), 3, on=on, resume_from=folder)
        assert int(loop.step) == 15
        assert list(found.batches["step"]) == list(history.batches["step"])
        if name == "same":
            small.assert_trees_equal(jax.device_get(loop.model), jax.device_get(whole.model))
            small.assert_trees_equal(jax.tree.leaves(loop), jax.tree.leaves(whole))
            np.testing.assert_array_equal(found.batches["loss"], history.batches["loss"])
        np.testing.assert_allclose(found.batches["loss"], history.batches["loss"], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            found.epochs["validation_loss"], history.epochs["validation_loss"], rtol=0, atol=1e-5, err_msg=name
        )
        # To look at, a checkpoint is restored anywhere.
        for place in (sharded, grid, Placement(jax.devices()[1])):
            restored = jl.restore(folder, training_loop(folder), model(), on=place)
            wanted = jax.tree.leaves(shardings_of(place, restored))
            for leaf, sharding in zip(jax.tree.leaves(restored), wanted, strict=True):
                assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
            small.assert_trees_equal(jax.device_get(restored.model), jax.device_get(loop.model))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_over_as_many_devices_bit_for_bit() -> None:
    run_on_devices("NAMES = ['same']" + BEGIN + RESUMED, 8)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_over_other_devices_to_rounding() -> None:
    run_on_devices("NAMES = ['four', 'tensor', 'one']" + BEGIN + RESUMED, 8, timeout=900)
