"""`search.py` in Keras: each model is compiled for itself."""
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from tasks_data import digits

RATES, SEEDS, EPOCHS = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], range(3), 5

training, validation = digits()
accuracies = np.zeros((len(RATES), len(SEEDS)))
for row, column in np.ndindex(accuracies.shape):
    keras.utils.set_random_seed(SEEDS[column])
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.Adam(RATES[row]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(*training, validation_data=validation, batch_size=100, epochs=EPOCHS, verbose=0)
    accuracies[row, column] = history.history["val_accuracy"][-1]
for rate, found in zip(RATES, accuracies, strict=True):
    print(f"rate {rate:.4f}: validation accuracy {found.mean():.2%}, from {found.min():.2%} to {found.max():.2%}")
