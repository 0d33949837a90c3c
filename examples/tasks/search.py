"""Six learning rates, each with three seeds, in one training loop: the rate is data, so it compiles once."""

import numpy as np
import optax
from flax import nnx
from tasks_data import digits

import jaxloop as jl

RATES, SEEDS, EPOCHS = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], range(3), 5

training, validation = digits()
training_loop = jl.TrainingLoop(
    training=training,
    validation=validation,
    batch_size=100,
    optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.0),
    loss_fn=jl.losses.softmax_cross_entropy,
    metrics=["accuracy"],
    progress=False,
)
accuracies, compiled = np.zeros((len(RATES), len(SEEDS))), []
for row, column in np.ndindex(accuracies.shape):
    rngs = nnx.Rngs(SEEDS[column])
    model = nnx.Sequential(nnx.Linear(64, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 10, rngs=rngs))
    loop = training_loop.start(model, epochs=EPOCHS, seed=SEEDS[column])
    _, history = training_loop.fit(loop.with_hyperparameter("learning_rate", RATES[row]), EPOCHS)
    accuracies[row, column] = history.epochs["validation_accuracy"][-1]
    compiled += history.compile_seconds
for rate, found in zip(RATES, accuracies, strict=True):
    print(f"rate {rate:.4f}: validation accuracy {found.mean():.2%}, from {found.min():.2%} to {found.max():.2%}")
print(f"Compiled in {accuracies.size} fits: {', '.join(compiled)}")
