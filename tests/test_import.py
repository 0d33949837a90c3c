"""Importing is light, and nothing touches a device before `fit`."""

import subprocess
import sys

import pytest

BEFORE_FIT = """
import sys
import jaxloop as jl
heavy = {"matplotlib", "tensorboardX", "PIL", "orbax", "flax", "torch", "pandas"} & set(sys.modules)
assert not heavy, heavy

import numpy as np, optax
from jax._src import xla_bridge
samples = (np.zeros((8, 4), np.float32), np.zeros(8, np.int32))
epochs, batches = jl.TrainingEpochs(samples, 4), jl.in_batches(samples, 4)
next(iter(epochs[3])), batches[1]
jl.TrainingLoop(
    epochs,
    batches,
    optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    loss_fn=jl.losses.softmax_cross_entropy,
    metrics=["accuracy"],
    callbacks=[
        jl.callbacks.clip_by_global_norm(1.0),
        jl.callbacks.CSVLogger("unused/log.csv"),
        jl.callbacks.TensorBoardLogger("unused/stats"),
        jl.callbacks.ImageSaver("unused/images"),
    ],
)
shapes = (jl.shapes.linear, jl.shapes.cosine, jl.shapes.exponential, jl.shapes.polynomial(2), jl.shapes.Shape(np.exp))
for segments in (jl.one_cycle(0.1), jl.warmup_cosine(0.1, 0.05), *(jl.one_cycle(0.1, shape=shape) for shape in shapes)):
    jl.make_schedule(segments)(100)
    jl.callbacks.learning_rate_scheduler(jl.make_schedule(segments)).bind(jl.Plan(2, 50))
assert not xla_bridge._backends, xla_bridge._backends
"""


@pytest.mark.parametrize("flags", [[], ["-W", "error"]])
def test_import_and_set_up_are_light_and_start_no_backend(flags: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, *flags, "-c", BEFORE_FIT], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
