"""Rare classes weigh more, training stops when it no longer helps, and the best weights are saved."""

import functools

import numpy as np
import optax
from flax import nnx
from tasks_data import tabular

import jaxloop as jl

training, validation, test = tabular()
rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(30, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))
class_weights = len(training[1]) / (2 * np.bincount(training[1]))

training_loop = jl.TrainingLoop(
    training=training,
    validation=validation,
    batch_size=32,
    optimizer=optax.adam(3e-3),
    loss_fn=functools.partial(jl.losses.softmax_cross_entropy, class_weights=class_weights),
    metrics=["accuracy"],
    callbacks=[jl.callbacks.early_stopping(patience=5, restore_best=True)],
)
loop, history = training_loop.fit(model, epochs=100)
jl.save_weights("run/tabular.safetensors", loop)

best = jl.load_weights("run/tabular.safetensors", model)
accuracy = training_loop.evaluate(best, test)["accuracy"]
print(f"Stopped after {len(history.epochs['loss'])} epochs. Test accuracy: {accuracy:.2%}")
